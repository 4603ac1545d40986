"""Choose the method itself, and its rate, for the compute of a few runs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.training.checkpoints import RunFolder
from lrx.training.progress import reporter
from lrx.training.workload import Batches, Workload
from lrx.tuning.engine import Engine, Plan, Runs
from lrx.tuning.portfolio import PORTFOLIO, Method
from lrx.tuning.problem import as_workload
from lrx.tuning.range_test import RangeTest, range_test
from lrx.tuning.sweep import NUM_POINTS, advanced, evaluated, tail_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBED = 0.1  # of a run, for each range test
PROBE_STEPS = (30, 100)  # of a range test, at least and at most
MIN_RATE = 1e-6  # of a range test
RATE_SPAN = (2.0, 20.0)  # the rates that are tried, times the mean of what a range test says and of the default
OTHERS = (3, 2, 1)  # methods beside the favoured ones, in the rounds after the first
LENGTHS = (1, 4, 14, 14)  # of the runs of a round, at least, in those of the first
ROUNDS = len(LENGTHS)
NEAREST = 1 / 8  # of the step from a rate to the next one: what is nearer to a rate is no new one
FEWEST_STEPS = 2  # of a run in the first round
DEFAULT_EPOCHS = 10


class Evidence(NamedTuple):
    """What a run of a race did."""

    method: str
    rate: float
    round: int  # from 1 on
    steps: int  # length of the run at whose end it was measured
    value: float  # the metric there; not finite where the run diverged
    loss: float  # the "loss" of the same evaluation; where it has none, the metric, negated if more is better
    steps_paid: int  # that were made for it in this round: what was carried from an earlier one is not made twice


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """What `select` chose, and why.

    Attributes:
      method: its name in the portfolio.
      rate: its rate.
      tx: the transformation, ready for a run of `num_steps`.
      num_steps: length of that run.
      portfolio: what it was chosen from.
      evidence: every run of the race.
      range_tests: for each probe the name of the first method that uses it, and its range test.
      cost: all steps that were made, range tests included, in full runs of `num_steps`. Evaluations are not counted.
      budget: the most that it was allowed to be.
      seconds: that it took, compilation included.
      metric: what runs were compared by.
      mode: "min" or "max", what is better.
    """

    method: str
    rate: float
    tx: optax.GradientTransformation
    num_steps: int
    portfolio: Mapping[str, Method]
    evidence: list[Evidence]
    range_tests: dict[str, RangeTest]
    cost: float
    budget: float
    seconds: float
    metric: str
    mode: str

    def __str__(self) -> str:
        width = max(len(each.method) for each in self.evidence)
        rows = [f"{'method':{width}}  {'rate':>8}" + "".join(f"  {f'{h:,} steps':>12}" for h in self._horizons())]
        for (method, rate), values in self._by_run().items():
            cells = "".join(f"  {_shown(values.get(horizon)):>12}" for horizon in self._horizons())
            shown = f"{rate:.2g}" if self.portfolio[method].has_rate else ""
            rows.append(f"{method:{width}}  {shown:>8}{cells}")
        evaluations = len(self.evidence)
        at = f" at {self.rate:.3g}" if self.portfolio[self.method].has_rate else ""
        probed = sum(len(test.rates) for test in self.range_tests.values()) / self.num_steps
        rows += [
            f"chosen: {self.method}{at}, by {self.metric} ({self.mode}) after "
            f"{self._horizons()[-1]:,} of {self.num_steps:,} steps, one seed",
            f"cost: {self.cost:.2f} full runs of {self.budget:g} allowed, {probed:.2f} of them for "
            f"{len(self.range_tests)} range test(s); not counted: {evaluations} evaluations; {self.seconds:.0f} s, "
            "compilation included",
        ]
        return "\n".join(rows)

    def _horizons(self) -> list[int]:
        return sorted({each.steps for each in self.evidence})

    def _by_run(self) -> dict[tuple[str, float], dict[int, float]]:
        """(method, rate) to {steps: value}, the best of those that came furthest first."""
        runs: dict[tuple[str, float], dict[int, float]] = {}
        for each in self.evidence:
            runs.setdefault((each.method, each.rate), {})[each.steps] = each.value
        sign = 1 if self.mode == "min" else -1

        def order(values: dict[int, float]) -> tuple[int, float]:
            last = max(values)
            return -last, sign * values[last] if math.isfinite(values[last]) else math.inf

        return dict(sorted(runs.items(), key=lambda item: order(item[1])))

    def plot(self) -> Figure:
        """Draw the metric of every run of the race over its length; needs matplotlib."""
        from lrx.tuning.figures import knockout

        return knockout(self._by_run(), self.metric, self.mode)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "diverged"


def select(
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    num_steps: int | None = None,
    budget: float = 3.0,
    portfolio: Mapping[str, Method] = PORTFOLIO,
    metric: str | None = None,
    mode: str = "min",
    seed: int = 0,
    has_state: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Selection:
    """Choose optimizer, schedule or controller, and the rate, for the compute of `budget` full runs.

    First come the range tests that the portfolio asks for. With m a tenth of the rate at which the loss was lowest, and
    c the default of the optimizer, the rates that are tried go in equal factors from 2 sqrt(m c) to 20 sqrt(m c).

    Then runs are raced in four rounds. All enter the first. The second has the favoured method at all its rates, and
    the three other methods that lead, at their best rate; the third the same with two others. The last has one other;
    the favoured method at its best rate, and where a parabola through the logarithms of rate and loss has its minimum;
    and schedules that differ only in how they decay, at the rate of the method that they follow, where that leads. Runs
    of the second round are at least 4 times as long as those of the first, those of the third 14 times, and the last
    takes all that is left of the budget. In a round all runs have the same length h, and each is made as if it were to
    end there: its schedule decays to its end, and its loss is not that of the middle of a schedule. What does not
    depend on the end, up to `carried` h steps, goes on from there in the next round and is not made again; the decay is
    a branch that is thrown away.

    Favoured is what the portfolio says so of, because short runs say the wrong thing about it: in `PORTFOLIO`
    schedule-free AdamW, of which low rates lead at a tenth of a run and lose at its end. Where nothing is favoured, it
    is what leads the first round. It is chosen only where it is the best of the last round.

    The last round is told by the metric, and of equals by the loss. Those before are told by the "loss" of the
    evaluation, where it has one, since what counts right answers hardly tells short runs apart.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: as for `sweep`.
      num_steps: length of the run that the method is chosen for; 10 epochs by default, where batches have epochs.
      budget: steps that may be made in all, in full runs.
      portfolio: name to `lrx.tuning.Method`, `lrx.tuning.PORTFOLIO | {"mine": Method(...)}`.
      metric: a result of the workload's `evaluate` to compare by; by default its "loss", or, where it has none, the
        training loss of the last tenth of the steps.
      mode: "min" or "max", what is better.
      seed: of all runs.
      has_state: as for `sweep`.
      checkpoint: a folder. After each round the survivors are kept there, and the same call goes on with the next one.
      progress: show a bar.

    Returns:
      A `Selection`: `lrx.train(workload, selection.tx, steps=selection.num_steps)`, and `print(selection)` for the
      table.

    Raises:
      ValueError: if an argument is out of its range, the portfolio is empty, the budget is too small for one round,
        every run diverged, or the folder holds another race.
      TypeError: if an argument is of another kind.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Source:
      The question is that of "Revisiting Learning Rate Control" (M. Henheik, T. Eimer, M. Lindauer, 2025); the race is
      successive halving (K. Jamieson, A. Talwalkar, 2016, arXiv:1502.07943) with the cooldown branches of A. Hägele et
      al., 2024, arXiv:2405.18392.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.tuning import PORTFOLIO
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> few = {name: PORTFOLIO[name] for name in ("sgd, warmup-stable-decay", "sgd, linear decay", "cocob")}
      >>> chosen = lrx.select(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=lrx.Batches((x, 3.0 * x), batch_size=16),
      ...     num_steps=200,
      ...     portfolio=few,
      ... )
      >>> chosen.method in few, chosen.cost <= 3.0
      (True, True)
    """
    began = time.monotonic()
    _checks.positive("budget", budget)
    _checks.one_of("mode", mode, ("min", "max"))
    _checks.flag("progress", progress)
    _checks.seed(seed)
    _require_portfolio(portfolio)
    if num_steps is not None:
        _checks.steps("num_steps", num_steps)
    elif not isinstance(loss_fn, Workload) and not isinstance(batches, Batches):
        raise ValueError(
            "num_steps must be given with batches that are no lrx.training.Batches, which alone know what an epoch is: "
            "give num_steps=1000, say."
        )
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=num_steps or 1)
    if num_steps is None:
        num_steps = DEFAULT_EPOCHS * workload.batches.steps_per_epoch
    if metric is not None and workload.evaluate is None:
        raise ValueError(f"metric needs a workload that evaluates, got metric={metric!r} and one without.")
    return Race(workload, num_steps, portfolio, metric, mode).run(budget, seed, checkpoint, progress, began)


def _require_portfolio(portfolio: Any) -> None:
    if not isinstance(portfolio, Mapping) or not all(isinstance(each, Method) for each in portfolio.values()):
        raise TypeError(
            f"portfolio must be a dict from names to lrx.tuning.Method, got portfolio={portfolio!r}: add a line to "
            "lrx.tuning.PORTFOLIO."
        )
    if all(each.follows for each in portfolio.values()):
        raise ValueError(
            f"portfolio must have at least one method that follows no other, got {list(portfolio)}: "
            "lrx.tuning.PORTFOLIO has the usual ones."
        )
    for name, method in portfolio.items():
        if method.follows is not None and method.follows not in portfolio:
            raise ValueError(
                f"portfolio[{name!r}] must follow a method of the portfolio, got follows={method.follows!r}."
            )
        try:
            _checks.transformation(method.make(method.default, 100))
        except TypeError as error:
            raise TypeError(
                f"portfolio[{name!r}].make must be a function of a rate and a number of steps, but "
                f"make({method.default}, 100) failed: {error}"
            ) from error


@dataclasses.dataclass(eq=False)
class _Run:
    """A method at a rate, and how far it has come."""

    method: str
    rate: float
    done: int = 0  # steps of the state that is carried
    runs: Any = ()  # `Runs`, () where nothing is carried
    value: float = math.inf
    loss: float = math.inf

    @property
    def name(self) -> str:
        return f"{self.method} at {self.rate:.9g}"


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
        self.compared = metric or "training loss"  # the evaluation's "loss" where it turns out to have one

    def run(
        self,
        budget: float,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = False,
        began: float | None = None,
    ) -> Selection:
        """Choose within `budget` full runs; see `select`."""
        began = time.monotonic() if began is None else began
        allowed = math.floor(budget * self.num_steps)
        leaders = {name: method for name, method in self.portfolio.items() if method.follows is None}
        # Each probe once, by the first method that uses it.
        probes = {method.probe: name for name, method in reversed(leaders.items()) if method.probe}
        each = min(PROBE_STEPS[1], max(PROBE_STEPS[0], int(PROBED * self.num_steps)))
        sizes = self._sizes(leaders)
        weights = [size * length for size, length in zip(sizes, LENGTHS, strict=True)]
        least = len(probes) * each + FEWEST_STEPS * sum(weights)
        if least > allowed:
            raise ValueError(
                f"budget must be at least {math.ceil(100 * least / self.num_steps) / 100:g} full runs of "
                f"{self.num_steps:,} steps for {len(probes)} range test(s) and a race of {sizes[0]} runs, got "
                f"budget={budget:g}: give more, a longer run, or a smaller portfolio."
            )
        with contextlib.ExitStack() as stack:
            folder = None
            if checkpoint is not None:
                folder = stack.enter_context(contextlib.closing(RunFolder(checkpoint)))
            status = stack.enter_context(
                reporter(progress, "select", step=0, total=allowed, batch_size=1, unit="steps")
            )
            tests = {
                name: range_test(
                    self.workload,
                    tx=probe,
                    min_rate=MIN_RATE,
                    max_rate=leaders[name].max_rate,
                    num_steps=each,
                    seeds=[seed],
                )
                for probe, name in probes.items()
            }
            spent = len(tests) * each
            status.start()
            running = self._entrants(leaders, probes, tests)
            evidence: list[Evidence] = []
            first = 1
            if folder is not None:
                about = self._about(budget, seed)
                first, spent, running, evidence = self._restored(folder, about, running, spent, seed)
            for number in range(first, ROUNDS + 1):
                if number > 1:
                    running = self._entering(number, running, self._favoured(evidence))
                horizon = self._horizon(running, allowed - spent, sum(weights[number:]) / LENGTHS[number - 1])
                for run in running:
                    paid = self._advance(run, horizon, seed)
                    spent += paid
                    evidence.append(Evidence(run.method, run.rate, number, horizon, run.value, run.loss, paid))
                    status.update(spent, run.value, run.rate)
                if not any(math.isfinite(run.value) for run in running):
                    raise ValueError(
                        f"every run diverged within {horizon:,} steps: look at the data, or add a method with lower "
                        "rates to the portfolio."
                    )
                if folder is not None:
                    self._save(folder, number, spent, running, evidence, about)
        best = self._ranked(running, last=True)[0]
        return Selection(
            best.method,
            best.rate,
            self.portfolio[best.method].make(best.rate, self.num_steps),
            self.num_steps,
            self.portfolio,
            evidence,
            tests,
            spent / self.num_steps,
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
        low, high = 1, self.num_steps
        while low < high:
            middle = (low + high + 1) // 2
            if sum(self._price(run, middle) for run in running) + later * middle <= left:
                low = middle
            else:
                high = middle - 1
        return low

    def _price(self, run: _Run, horizon: int) -> int:
        return horizon - (run.done if run.done <= self._carried(run, horizon) else 0)

    def _carried(self, run: _Run, horizon: int) -> int:
        return math.floor(self.portfolio[run.method].carried * horizon + 1e-9)

    def _advance(self, run: _Run, horizon: int, seed: int) -> int:
        """Make a run of `horizon` steps, measure it, and keep what a longer one goes on from; give the steps made."""
        plan, seeds = self.plan(run.method), np.array([seed])
        hyper = hyperparameters(run.rate, horizon)
        kept = self._carried(run, horizon)
        if run.runs == () or run.done > kept:
            trunk, run.done = plan.start(hyper, seeds), 0
        else:
            trunk = plan.put(run.runs)
        made = horizon - run.done
        trunk = advanced(plan, trunk, hyper, seeds, run.done, kept)
        ended = trunk
        if kept < horizon:
            ended = advanced(plan, jax.tree.map(jnp.copy, trunk), hyper, seeds, kept, horizon)
        # On the host, where there is room for all of them.
        run.runs, run.done = (jax.device_put(trunk, jax.devices("cpu")[0]), kept) if kept else ((), 0)
        run.value, run.loss = self.measured(ended, seed)
        return made

    def plan(self, method: str) -> Plan:
        """Give the program of a method, compiled once: rate and length are its arguments."""
        if method not in self._plans:
            make = self.portfolio[method].make

            def make_tx(hyper: Any, count: jax.Array) -> optax.GradientTransformation:
                del count
                return make(hyper["rate"], jnp.int32(jnp.round(hyper["num_steps"])))

            engine = Engine(self.workload, make_tx, self.num_steps, min(NUM_POINTS, self.num_steps))
            self._plans[method] = engine.planned(hyperparameters(1.0, 1), np.zeros(1, np.int64), strategy="map")
        return self._plans[method]

    def trained(self, method: str, rate: float, seed: int) -> float:
        """Make a full run, and give the metric at its end; not finite where it diverged."""
        plan, seeds, hyper = self.plan(method), np.array([seed]), hyperparameters(rate, self.num_steps)
        return self.measured(plan.advance(plan.start(hyper, seeds), hyper, seeds, 0, self.num_steps), seed)[0]

    def measured(self, runs: Runs, seed: int) -> tuple[float, float]:
        """Give metric and loss of a run as it is now, as in `Evidence`."""
        if not np.all(np.asarray(runs.alive)):
            return self._sign * math.inf, math.inf
        results = evaluated(self.workload, runs, np.array([seed]), 1)
        if self.metric is None and "loss" in results:
            self.compared = "loss"
        elif self.metric is None:
            results = {self.compared: tail_loss(runs)}
        elif self.metric not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={self.metric!r}.")
        value = float(results[self.compared][0, 0])
        told = self.compared != "loss" and "loss" in results
        return value, float(results["loss"][0, 0]) if told else self._sign * value

    @property
    def _sign(self) -> int:
        """Of a metric, to make it one of which less is better."""
        return 1 if self.mode == "min" else -1

    def _ranked(self, running: list[_Run], last: bool = False) -> list[_Run]:
        """Those that did not diverge, the best first; of equals the one that the portfolio has first."""

        def order(run: _Run) -> tuple[float, float]:
            loss = run.loss if math.isfinite(run.loss) else math.inf
            return (self._sign * run.value, loss) if last else (loss, self._sign * run.value)

        return sorted((run for run in running if math.isfinite(run.value)), key=order)

    def _sizes(self, leaders: Mapping[str, Method]) -> list[int]:
        """The most runs that a round can have."""
        rates = {name: method.trials if method.probe else 1 for name, method in leaders.items()}
        favoured = [number for name, number in rates.items() if leaders[name].favoured] or [max(rates.values())]
        others = [min(most, len(leaders) - len(favoured)) for most in OTHERS]
        followers = max(sum(method.follows == name for method in self.portfolio.values()) for name in leaders)
        last = sum(min(2, number) for number in favoured) + followers
        return [sum(rates.values()), sum(favoured) + others[0], sum(favoured) + others[1], last + others[2]]

    def _favoured(self, evidence: list[Evidence]) -> list[str]:
        """The methods that keep their rates: those that the portfolio favours, or the one that led the first round."""
        favoured = [name for name, method in self.portfolio.items() if method.favoured]
        first = [_Run(each.method, each.rate, 0, (), each.value, each.loss) for each in evidence if each.round == 1]
        return favoured or [self._ranked(first)[0].method]

    def _entering(self, number: int, running: list[_Run], favoured: list[str]) -> list[_Run]:
        """The runs of a round after the first."""
        ranked = self._ranked(running)
        best: dict[str, list[_Run]] = {}
        for run in ranked:
            best.setdefault(run.method, []).append(run)
        kept = [run for name in favoured for run in best.pop(name, [])]
        if number == ROUNDS:
            kept = [run for name in favoured for run in self._nearer([run for run in kept if run.method == name])]
        kept += [runs[0] for runs in list(best.values())[: OTHERS[number - 2]]]
        return kept + (self._followers(ranked[0]) if number == ROUNDS else [])

    def _nearer(self, runs: list[_Run]) -> list[_Run]:
        """Of the runs of a method, the best first: the best, and a new one where its rates say that the minimum is.

        That is the vertex of the parabola through the logarithms of the losses at the best rate and the two beside it,
        over the logarithm of the rate; half a step beyond the best rate, where that is the last one on its side. The
        second best takes the place of one that would be no new rate.
        """
        method = self.portfolio[runs[0].method] if runs else None
        if method is None or method.probe is None or method.trials == 1:
            return runs[:1]
        step = (RATE_SPAN[1] / RATE_SPAN[0]) ** (1 / (method.trials - 1))
        best = runs[0]
        below, above = (
            next((run.loss for run in runs if math.isclose(run.rate, factor * best.rate, rel_tol=1e-3)), None)
            for factor in (1 / step, step)
        )
        if below is None or above is None:
            shift = 0.5 if above is None else -0.5
        else:
            low, middle, high = np.log([below, best.loss, above]) if best.loss > 0 else (below, best.loss, above)
            bend = low - 2 * middle + high
            shift = (low - high) / (2 * bend) if bend > 0 else 0.0
        if abs(shift) < NEAREST:
            return runs[:2]
        return [best, _Run(best.method, float(np.float32(best.rate * step**shift)))]

    def _followers(self, leader: _Run) -> list[_Run]:
        return [_Run(name, leader.rate) for name, method in self.portfolio.items() if method.follows == leader.method]

    def _about(self, budget: float, seed: int) -> dict[str, Any]:
        return {
            "kind": "select",
            "workload": self.workload.name,
            "steps": self.num_steps,
            "rounds": ROUNDS,
            "budget": budget,
            "seed": seed,
            "metric": self.metric,
            "mode": self.mode,
            "portfolio": list(self.portfolio),
        }

    def _save(
        self,
        folder: RunFolder,
        number: int,
        spent: int,
        running: list[_Run],
        evidence: list[Evidence],
        about: dict[str, Any],
    ) -> None:
        places = {name: place for place, name in enumerate(self.portfolio)}
        record = {
            "spent": np.array([spent]),
            "evidence": np.array([(places[each.method], *each[1:]) for each in evidence], np.float64),
            "running": np.array(
                [(places[run.method], run.rate, run.done, run.value, run.loss) for run in running], np.float64
            ),
        }
        folder.save(number, {run.name: run.runs for run in running}, record, about)

    def _restored(
        self, folder: RunFolder, about: dict[str, Any], running: list[_Run], spent: int, seed: int
    ) -> tuple[int, int, list[_Run], list[Evidence]]:
        """Go on after the newest checkpoint: the number of the next round, the steps made, the runs, the evidence."""
        made = folder.latest()
        if made is None:
            return 1, spent, running, []
        folder.require_same_run(about)
        _, _, record = folder.restore(())
        names = list(self.portfolio)
        evidence = [
            Evidence(names[int(method)], float(rate), int(number), int(steps), float(value), float(loss), int(paid))
            for method, rate, number, steps, value, loss, paid in record["evidence"]
        ]
        running = [
            _Run(names[int(method)], float(rate), int(done), (), float(value), float(loss))
            for method, rate, done, value, loss in record["running"]
        ]
        carried = [run for run in running if run.done]
        seeds = np.array([seed])
        _, states, _ = folder.restore(
            {run.name: self.plan(run.method).start(hyperparameters(run.rate, run.done), seeds) for run in carried}
        )
        for run in carried:
            run.runs = states[run.name]
        return made + 1, int(record["spent"][0]), running, evidence


def hyperparameters(rate: float, num_steps: int) -> dict[str, np.ndarray]:
    """Give what the program of a method takes, for one run."""
    return {"rate": np.array([rate], np.float32), "num_steps": np.array([num_steps], np.float32)}


def trial_rates(test: RangeTest, number: int, default: float) -> np.ndarray:
    """Give the rates to try, from the geometric mean of what a range test says and of the optimizer's default."""
    found = test.suggestions["minimum"]
    middle = default if found is None else math.sqrt(found * default)
    low, high = (factor * middle for factor in RATE_SPAN)
    return np.geomspace(low, high, number) if number > 1 else np.array([math.sqrt(low * high)])
