"""The race of `select`: runs of growing length, from which the better ones go on with their state."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training.checkpoints import RunFolder
from lrx.training.identity import Identity, family_identity, run_identity
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import Status, reporter, say
from lrx.training.runs import advance, evaluate, tail_loss, tail_steps
from lrx.training.workload import Workload
from lrx.tuning.learnt import InitialLoss, fell
from lrx.tuning.problem import require_trains
from lrx.tuning.range_test import RangeTest, range_test
from lrx.tuning.selection.portfolio import MIN_RATE, Method
from lrx.tuning.selection.rates import rate_of_least_loss, trial_rates
from lrx.tuning.selection.result import Evidence, Selection
from lrx.tuning.sweep import NUM_POINTS

PROBED = 0.1  # of a run, for each range test
PROBE_STEPS = (30, 100)  # of a range test, at least and at most
OTHERS = (3, 2, 1)  # methods beside the favoured ones, in the rounds after the first
LENGTHS = (1, 4, 14, 14)  # of the runs of a round, at least, in those of the first
ROUNDS = len(LENGTHS)
FEWEST_STEPS = 2  # of a run in the first round


_Measured = TypeVar("_Measured", "_Run", Evidence)  # what has a method, a rate, a value and a loss


@dataclasses.dataclass(eq=False)
class _Run:
    """A method at a rate, and how far it has come."""

    method: str
    rate: float
    done: int = 0  # steps of the state that is carried
    runs: Any = ()  # `Runs`, () where nothing is carried
    length: int = 0  # of the run whose value and loss these are
    value: float = math.inf
    loss: float = math.inf
    learnt: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} at {self.rate:.9g}"


@dataclasses.dataclass(eq=False)
class _Standing:
    """What a race has found and spent: all that the next round goes on from."""

    spent: int = 0  # steps
    tests: dict[str, RangeTest] = dataclasses.field(default_factory=dict)  # as in `Selection`
    running: list[_Run] = dataclasses.field(default_factory=list)  # the runs of the latest round
    evidence: list[Evidence] = dataclasses.field(default_factory=list)


class Race:
    """Methods compiled for one workload; it can be run again with another seed.

    Args:
      workload: what is trained.
      num_steps: length of a full run.
      portfolio: name to method.
      metric: as for `select`.
      mode: as for `select`.
    """

    def __init__(
        self, workload: Workload, num_steps: int, portfolio: Mapping[str, Method], metric: str | None, mode: str
    ) -> None:
        self.workload, self.num_steps, self.portfolio = workload, num_steps, dict(portfolio)
        self.metric, self.mode = metric, mode
        self._plans: dict[str, Plan] = {}
        self._initial_loss = InitialLoss(workload)
        self.compared = metric or "training loss"  # or the evaluation's "loss", where it has one

    def run(
        self,
        budget: float,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | str | None = False,
        began: float | None = None,
    ) -> Selection:
        """Choose within `budget` full runs; see `select`."""
        began = time.monotonic() if began is None else began
        allowed = math.floor(budget * self.num_steps + 1e-6)
        leaders = {name: method for name, method in self.portfolio.items() if method.follows is None}
        # Each probe once, by the first method that uses it.
        probes = {method.probe: name for name, method in reversed(leaders.items()) if method.probe}
        each = _probe_steps(self.num_steps)
        sizes = self._sizes(leaders)
        weights = [size * length for size, length in zip(sizes, LENGTHS, strict=True)]
        least = len(probes) * each + FEWEST_STEPS * sum(weights)
        if least > allowed:
            shortest = _shortest(budget, len(probes), FEWEST_STEPS * sum(weights))
            raise ValueError(
                f"budget must be at least {math.ceil(100 * least / self.num_steps) / 100:g} full runs of "
                f"{self.num_steps:,} steps for {len(probes)} range test(s) and a race of {sizes[0]} runs, got "
                f"budget={budget:g}: give that much, a smaller portfolio, or num_steps={shortest}, the shortest run "
                "that this budget is enough for."
            )
        self._require_states()
        self._look_at_evaluation(seed)
        now, rounds_made = _Standing(), None  # None before the range tests
        with contextlib.ExitStack() as stack:
            folder = None
            if checkpoint is not None:
                folder = stack.enter_context(contextlib.closing(RunFolder(checkpoint)))
                about, rounds_made = self._about(budget, seed), folder.latest()
                if rounds_made is not None:
                    folder.require_same_run(about)
                    now = self._restored(folder, seed)
                    say(f"select, {self.workload.name}", f"resumed after {rounds_made} of {ROUNDS} rounds")
            status = stack.enter_context(
                reporter(
                    progress, f"select, {self.workload.name}", step=now.spent, total=allowed, batch_size=1, unit="steps"
                )
            )
            status.start()
            if rounds_made is None:
                for number, (probe, name) in enumerate(probes.items(), 1):
                    status.title = f"range test of {name}"
                    rest = (len(probes) - number) * each + FEWEST_STEPS * sum(weights)
                    test = range_test(
                        self.workload,
                        tx=probe,
                        min_rate=MIN_RATE,
                        max_rate=leaders[name].max_rate,
                        num_steps=each,
                        seeds=[seed],
                        extend=now.spent + 2 * each + rest <= allowed,
                        progress=False,
                    )
                    now.tests[name] = test
                    now.spent += len(test.rates)
                    status.update(now.spent, float(np.nanmin(test.losses)), float(test.rates[-1]))
                if folder is not None:
                    self._save(folder, 0, now, about)
            for number in range((rounds_made or 0) + 1, ROUNDS + 1):
                if number == 1:
                    now.running = self._entrants(leaders, probes, now.tests)
                elif self._ranked(now.running):
                    now.running = self._entering(number, now.running, now.evidence)
                else:
                    break
                later = sum(weights[number:]) / LENGTHS[number - 1]
                horizon = self._horizon(now.running, allowed - now.spent, later)
                for run in now.running:
                    status.title = f"round {number} of {ROUNDS}, {run.method} at {run.rate:.3g}"
                    paid = self._advance(run, horizon, seed, status, now.spent)
                    now.spent += paid
                    now.evidence.append(
                        Evidence(run.method, run.rate, number, horizon, run.value, run.loss, paid, run.learnt)
                    )
                    status.update(now.spent, run.value, run.rate)
                if folder is not None:
                    self._save(folder, number, now, about)
        best = self._winner(now.evidence)
        return Selection(
            best.method,
            best.rate,
            self.portfolio[best.method].make(best.rate, self.num_steps),
            self.num_steps,
            self.portfolio,
            now.evidence,
            now.tests,
            now.spent / self.num_steps,
            budget,
            time.monotonic() - began,
            self.compared,
            self.mode,
        )

    def _entrants(
        self, leaders: Mapping[str, Method], probes: Mapping[Any, str], tests: Mapping[str, RangeTest]
    ) -> list[_Run]:
        running = []
        for name, method in leaders.items():
            if method.probe is None:
                running.append(_Run(name, float(np.float32(method.default))))
                continue
            first = probes[method.probe]
            rates = trial_rates(tests[first], method.trials, leaders[first].default / leaders[first].scale)
            running += [_Run(name, float(np.float32(method.scale * rate))) for rate in rates]
        return running

    def _horizon(self, running: list[_Run], left: int, later: float) -> int:
        """The longest runs of which all are paid for, and `later` times as many steps for the later rounds."""

        def fits(horizon: int) -> bool:
            return sum(self._price(run, horizon) for run in running) + later * horizon <= left

        low, high = 1, self.num_steps
        if fits(high):  # it may even cost nothing, where all have been made
            return high
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _price(self, run: _Run, horizon: int) -> int:
        if run.length == horizon:
            return 0
        return horizon - (run.done if run.done <= self._carried(run, horizon) else 0)

    def _carried(self, run: _Run, horizon: int) -> int:
        return math.floor(self.portfolio[run.method].carried * horizon + 1e-9)

    def _advance(self, run: _Run, horizon: int, seed: int, status: Status, before: int) -> int:
        """Make a run of `horizon` steps, measure it, and keep what a longer one goes on from; give the steps made.

        `before` is how many steps `status` has seen until now.

        A run of that length that was made in an earlier round is not made again.
        """
        if run.length == horizon:
            return 0
        plan, seeds = self.plan(run.method), np.array([seed])
        hyper = hyperparameters(run.rate, horizon)
        kept = self._carried(run, horizon)
        if run.runs == () or run.done > kept:
            trunk, run.done = plan.start(hyper, seeds), 0
        else:
            trunk = plan.put(run.runs)
        made = horizon - run.done
        trunk = advance(plan, trunk, hyper, seeds, run.done, kept, status, before)
        ended = trunk
        if kept < horizon:
            copy = jax.tree.map(jnp.copy, trunk)
            ended = advance(plan, copy, hyper, seeds, kept, horizon, status, before + kept - run.done)
        # On the host, where there is room for all of them.
        run.runs, run.done = (jax.device_put(trunk, jax.devices("cpu")[0]), kept) if kept else ((), 0)
        run.length, (run.value, run.loss), run.learnt = horizon, self.measured(ended, seed), self._learnt(ended, seed)
        return made

    def plan(self, method: str) -> Plan:
        """Give the program of a method, compiled once: rate and length are its arguments."""
        if method not in self._plans:
            family = self._family(method)
            self._plans[method] = choose_plan(family, hyperparameters(1.0, 1), np.zeros(1, np.int64), strategy="map")
        return self._plans[method]

    def _family(self, method: str) -> RunFamily:
        make = self.portfolio[method].make

        def make_tx(hyper: Any, count: jax.Array) -> optax.GradientTransformation:
            del count
            return make(hyper["rate"], jnp.int32(jnp.round(hyper["num_steps"])))

        return RunFamily(self.workload, make_tx, self.num_steps, min(NUM_POINTS, self.num_steps))

    def trained(self, method: str, rate: float, seed: int) -> float:
        """Make a full run, and give the metric at its end; not finite where it diverged."""
        plan, seeds, hyper = self.plan(method), np.array([seed]), hyperparameters(rate, self.num_steps)
        return self.measured(plan.advance(plan.start(hyper, seeds), hyper, seeds, 0, self.num_steps), seed)[0]

    def measured(self, runs: Runs, seed: int) -> tuple[float, float]:
        """Give metric and loss of a run as it is now, as in `Evidence`."""
        if np.any(np.asarray(runs.diverged)):
            return self._sign * math.inf, math.inf
        results = evaluate(self.workload, runs, np.array([seed]), 1)
        self._name_compared(results)
        if self.compared not in results:
            results = {self.compared: tail_loss(runs)}
        value = float(results[self.compared][0, 0])
        told = self.compared != "loss" and "loss" in results
        return value, float(results["loss"][0, 0]) if told else self._sign * value

    def _learnt(self, runs: Runs, seed: int) -> bool:
        """Return whether the training loss of a run is below that of the initial parameters."""
        initial = self._initial_loss.means(np.array([seed]), *tail_steps(runs))
        return bool(fell(initial, tail_loss(runs)).any())

    def _name_compared(self, results: Mapping[str, Any]) -> None:
        """Tell by what runs are compared, from what an evaluation gives."""
        if self.metric is None:
            self.compared = "loss" if "loss" in results else "training loss"
        elif self.metric not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={self.metric!r}.")

    def _require_states(self) -> None:
        """Refuse a method that has no state for the workload's parameters, or ascends, before anything is trained."""
        for name in self.portfolio:
            try:
                self._family(name).describe_state(hyperparameters(1.0, 1))
            except Exception as error:
                raise TypeError(
                    f"portfolio[{name!r}].make gives a transformation whose init fails on the parameters of workload "
                    f"{self.workload.name!r}: {error}"
                ) from error
            method = self.portfolio[name]
            made = {"make": method.make(method.default, self.num_steps)}
            if method.probe is not None:
                made["probe"] = method.probe(method.default / method.scale)
            for field, tx in made.items():
                try:
                    require_trains(self.workload, tx)
                except ValueError as error:
                    raise ValueError(f"portfolio[{name!r}].{field}: {error}") from error

    def _look_at_evaluation(self, seed: int) -> None:
        """Evaluate the initial parameters once: a metric that is not there is refused before anything is trained."""
        name, seeds = next(iter(self.portfolio)), np.array([seed])
        untrained = self.plan(name).start(hyperparameters(self.portfolio[name].default, self.num_steps), seeds)
        self._name_compared(evaluate(self.workload, untrained, seeds, 1))

    @property
    def _sign(self) -> int:
        """Of a metric, to make it one of which less is better."""
        return 1 if self.mode == "min" else -1

    def _ranked(self, running: Sequence[_Measured]) -> list[_Measured]:
        """Those that did not diverge, that of the least loss first, and of equals the one with the best metric."""

        def order(run: _Measured) -> tuple[float, float]:
            return run.loss if math.isfinite(run.loss) else math.inf, self._sign * run.value

        return sorted((run for run in running if math.isfinite(run.value)), key=order)

    def _winner(self, evidence: Sequence[Evidence]) -> Evidence:
        """Of those that came furthest the method that the metric says is best, and of its runs that of least loss.

        What has learnt nothing is not chosen, whatever the metric says.
        """
        furthest = {(each.method, each.rate): each for each in evidence}.values()  # the last of each
        ranked = self._ranked(list(furthest))
        if not ranked:
            steps = max(each.steps for each in evidence)
            if all(math.isinf(each.value) for each in furthest):
                raise ValueError(
                    f"every run diverged within {steps:,} steps: look at the data, or add a method with lower rates to "
                    "the portfolio."
                )
            raise ValueError(
                f"the {self.compared} of every run is not finite within {steps:,} steps, though not all diverged: look "
                "at what the workload's evaluate gives."
            )
        most = max(each.steps for each in ranked)
        ranked = [each for each in ranked if each.steps == most and each.learnt]
        if not ranked:
            raise ValueError(
                f"nothing was learnt: after {most:,} steps no run has a training loss below that of the initial "
                "parameters. Give a longer run, num_steps, or a portfolio of methods with other rates; or look at the "
                "gradients, which may be zero where training starts."
            )
        method = min(ranked, key=lambda each: self._sign * each.value).method
        return next(each for each in ranked if each.method == method)

    def _sizes(self, leaders: Mapping[str, Method]) -> list[int]:
        """The most runs that a round can have."""
        rates = {name: method.trials if method.probe else 1 for name, method in leaders.items()}
        favoured = [number for name, number in rates.items() if leaders[name].favoured]
        most = max(rates.values())  # of what takes their place where they diverge
        kept, finalists = max(sum(favoured), most), max(sum(min(2, number) for number in favoured), min(2, most))
        followers = max(sum(method.follows == name for method in self.portfolio.values()) for name in leaders)
        others = [min(number, len(leaders) - 1) for number in OTHERS]
        return [sum(rates.values()), kept + others[0], kept + others[1], finalists + followers + others[2]]

    def _favoured(self, ranked: list[_Run], evidence: list[Evidence]) -> list[str]:
        """The methods that keep their rates: what the portfolio favours, or else what led the first round."""
        left = {run.method for run in ranked}  # the others diverged, or have been left behind
        favoured = [name for name, method in self.portfolio.items() if method.favoured and name in left]
        first = self._ranked([each for each in evidence if each.round == 1])
        return favoured or [next((each.method for each in first if each.method in left), ranked[0].method)]

    def _entering(self, number: int, running: list[_Run], evidence: list[Evidence]) -> list[_Run]:
        """The runs of a round after the first."""
        ranked = self._ranked(running)
        favoured = self._favoured(ranked, evidence)
        best: dict[str, list[_Run]] = {}
        for run in ranked:
            best.setdefault(run.method, []).append(run)
        kept = [run for name in favoured for run in best.pop(name, [])]
        if number == ROUNDS:
            kept = [run for name in favoured for run in self._nearer([run for run in kept if run.method == name])]
        kept += [runs[0] for runs in list(best.values())[: OTHERS[number - 2]]]
        return kept + (self._followers(ranked[0]) if number == ROUNDS else [])

    def _nearer(self, runs: list[_Run]) -> list[_Run]:
        """Of the runs of a method, the best first: the best, and one at the rate where the minimum seems to be.

        The second best takes its place where that is no new rate.
        """
        method = self.portfolio[runs[0].method] if runs else None
        if method is None or method.probe is None or method.trials == 1:
            return runs[:1]
        losses = {run.rate: run.loss for run in runs if math.isfinite(run.loss)}
        rate = rate_of_least_loss(losses, runs[0].rate, method.trials)
        return runs[:2] if rate is None else [runs[0], _Run(runs[0].method, rate)]

    def _followers(self, leader: _Run) -> list[_Run]:
        return [_Run(name, leader.rate) for name, method in self.portfolio.items() if method.follows == leader.method]

    def _about(self, budget: float, seed: int) -> Identity:
        params, _ = jax.eval_shape(self.workload.init, jax.random.key(0))
        about = run_identity(
            self.workload,
            optax.identity(),
            kind="select",
            steps=self.num_steps,
            lengths=list(LENGTHS),
            budget=budget,
            seed=seed,
            metric=self.metric,
            mode=self.mode,
            methods=list(self.portfolio),  # runs are kept by their places
        )
        rate, steps = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.int32))
        for name, method in self.portfolio.items():
            place = f"portfolio[{name!r}]"
            about[place] = {
                f".{field.name}": value
                for field in dataclasses.fields(method)
                if not callable(value := getattr(method, field.name))
            }
            about[f"{place}.state"] = self._family(name).describe_state(hyperparameters(1.0, 1))["opt_state"]
            programs = {"make": family_identity(method.make, (rate, steps), params)}
            if method.probe is not None:
                programs["probe"] = family_identity(method.probe, (rate,), params)
            for field, parts in programs.items():
                about |= {f"{place}.{field}{part.removeprefix('tx')}": program for part, program in parts.items()}
        return about

    def _save(self, folder: RunFolder, number: int, now: _Standing, about: dict[str, Any]) -> None:
        """Keep what a later call goes on from after round `number`, or, for 0, after the range tests."""
        places = {name: place for place, name in enumerate(self.portfolio)}
        record = {
            "spent": np.array([now.spent]),
            "evidence": np.array([(places[each.method], *each[1:]) for each in now.evidence], np.float64),
            "running": np.array(
                [
                    (places[run.method], run.rate, run.done, run.length, run.value, run.loss, run.learnt)
                    for run in now.running
                ],
                np.float64,
            ),
        }
        for name, test in now.tests.items():
            record |= {f"{places[name]}/{field}": values for field, values in test.arrays().items()}
        folder.save(number, {run.name: run.runs for run in now.running}, record, about)

    def _restored(self, folder: RunFolder, seed: int) -> _Standing:
        """Give what the newest checkpoint holds."""
        _, _, record = folder.restore(())
        names = list(self.portfolio)
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for key, values in record.items():
            place, _, field = key.partition("/")
            if field:
                arrays.setdefault(names[int(place)], {})[field] = values
        evidence = [
            Evidence(
                names[int(method)],
                float(rate),
                int(number),
                int(steps),
                float(value),
                float(loss),
                int(paid),
                bool(learnt),
            )
            for method, rate, number, steps, value, loss, paid, learnt in record.get("evidence", ())
        ]
        running = [
            _Run(names[int(method)], float(rate), int(done), (), int(length), float(value), float(loss), bool(learnt))
            for method, rate, done, length, value, loss, learnt in record.get("running", ())
        ]
        carried = [run for run in running if run.done]
        seeds = np.array([seed])
        _, states, _ = folder.restore(
            {run.name: self.plan(run.method).start(hyperparameters(run.rate, run.done), seeds) for run in carried}
        )
        for run in carried:
            run.runs = states[run.name]
        tests = {name: RangeTest.from_arrays(arrays[name]) for name in names if name in arrays}
        return _Standing(int(record["spent"][0]), tests, running, evidence)


def _probe_steps(num_steps: int) -> int:
    """Return the steps of each range test of a race for a run of so many."""
    return min(PROBE_STEPS[1], max(PROBE_STEPS[0], int(PROBED * num_steps)))


def _shortest(budget: float, probes: int, race: int) -> int:
    """Return the fewest steps of a full run of which `budget` pay for the range tests and a race of `race` steps."""
    enough = math.ceil((probes * PROBE_STEPS[1] + race) / budget)
    fits = (n for n in range(1, enough + 1) if probes * _probe_steps(n) + race <= math.floor(budget * n + 1e-6))
    return next(fits, enough)


def hyperparameters(rate: float, num_steps: int) -> dict[str, np.ndarray]:
    """Give what the program of a method takes, for one run."""
    return {"rate": np.array([rate], np.float32), "num_steps": np.array([num_steps], np.float32)}
