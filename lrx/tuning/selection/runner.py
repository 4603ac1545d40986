"""The runs of `select`: one compiled program for all methods; method, rate and length are its arguments."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training.batch_stats import recompute_batch_stats
from lrx.training.checks import initial_shapes
from lrx.training.following import BestBy
from lrx.training.identity import Identity, describe, family_identity, run_identity
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import Plan, choose_plan
from lrx.training.program_cache import settings_key
from lrx.training.progress import ProgressMeter
from lrx.training.runs import TAIL, advance, curves, evaluate, run_at, tail_loss, tail_steps, to_host
from lrx.training.step import State
from lrx.training.workload import Workload
from lrx.tuning.arguments import require_descent_on
from lrx.tuning.execution import NUM_POINTS
from lrx.tuning.initial_loss import InitialLoss
from lrx.tuning.ladder import extend_ladder, make_ladder
from lrx.tuning.range_reading import read_losses
from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.grouping import group, merge
from lrx.tuning.selection.policy import Observation, RangeProbe, Run, Scores, Training
from lrx.tuning.selection.portfolio import PORTFOLIO, Method
from lrx.tuning.selection.switch import Branch, switch

LONGEST_LADDER = 200  # steps of a range test, with those that it is continued by
KEPT_TAILS = 32  # stretches of steps whose losses of the initial parameters are kept
LADDER_PARTS = 4  # of a range test, after each of which it may end


@dataclasses.dataclass(frozen=True)
class _Switched:
    """The transformation from its hyperparameters; equal for equal methods, so that it compiles once.

    Behind the methods come the optimizers of the range tests, whose rate follows a ladder of `num_steps` steps from
    `rate` to `last_rate`.
    """

    names: tuple[str, ...]
    makes: tuple[Callable[[Any, Any], optax.GradientTransformation], ...]
    tested: tuple[Callable[[Any], optax.GradientTransformation], ...]
    flat: tuple[bool, ...]  # one for each method and for each optimizer
    groups: tuple[int, ...]  # likewise: numbers of those that share an update

    def __call__(self, hyper: Any, count: jax.Array) -> optax.GradientTransformation:
        method, num_steps = (jnp.int32(jnp.round(hyper[name])) for name in ("method", "num_steps"))
        place = count / jnp.maximum(num_steps - 1, 1)
        on_ladder = hyper["rate"] * (hyper["last_rate"] / hyper["rate"]) ** place
        made = [make(hyper["rate"], num_steps) for make in self.makes] + [tx(on_ladder) for tx in self.tested]
        names = [*self.names, *map(str, self.tested)]
        branches = []
        for number in dict.fromkeys(self.groups):
            members = [each for each, group_of in enumerate(self.groups) if group_of == number]
            places = [members.index(each) if each in members else 0 for each in range(len(made))]
            merged = merge([made[each] for each in members], jnp.asarray(places, jnp.int32)[method])
            branches.append(Branch(merged, names[members[0]], self.flat[members[0]]))
        return switch(branches, jnp.asarray(self.groups, jnp.int32)[method])

    @classmethod
    def of(cls, portfolio: Mapping[str, Method], tested: Sequence[Callable[[Any], Any]]) -> _Switched:
        """Group the methods of a portfolio and the optimizers of its range tests."""
        flat = [each.flat for each in portfolio.values()]
        flat += [all(each.flat for each in portfolio.values() if each.range_test_of is tx) for tx in tested]
        made = [each.make(each.default, 100) for each in portfolio.values()] + [tx(0.01) for tx in tested]
        makes = tuple(each.make for each in portfolio.values())
        return cls(tuple(portfolio), makes, tuple(tested), tuple(flat), group(made, flat))


class MethodRunner:
    """The methods of a portfolio, compiled once for one workload.

    Args:
      workload: the model, its data and its loss.
      num_steps: length of a full run.
      portfolio: name to method.
      best_by: the result of an evaluation that `score` returns; None as for `select`.
    """

    def __init__(
        self, workload: Workload, num_steps: int, portfolio: Mapping[str, Method], best_by: BestBy | None
    ) -> None:
        self.workload, self.num_steps, self.portfolio = workload, num_steps, dict(portfolio)
        self.best_by = best_by
        # or the evaluation's "loss", if it has one
        self.compared = "training loss" if best_by is None else best_by.metric
        self._sign = -1 if best_by is not None and best_by.mode == "max" else 1
        self._places = {name: place for place, name in enumerate(portfolio)}
        self._tested = list(dict.fromkeys(each.range_test_of for each in portfolio.values() if each.range_test_of))
        transformation = _Switched.of(portfolio, self._tested)
        # Method to the number of its update, which is shared by methods that differ in their schedules only.
        self.groups = dict(zip(portfolio, transformation.groups, strict=False))
        # A point for each step, since range tests look at each.
        points = max(num_steps, LONGEST_LADDER if self._tested else 0)
        self._family = RunFamily(workload, transformation, points, points)
        self._initial: dict[int, tuple[Any, Any]] = {}  # of the latest seed
        self._initial_tails: dict[tuple[int, int, int], np.ndarray] = {}  # by seed, start and stop, the latest last
        self.first_evaluation = 0.0  # seconds of `initial_scores`, with its compilation
        self._plan: Plan | None = None
        self._compilation: Future[object] | None = None
        longest = max(math.ceil(TAIL * num_steps) + 1, min(points, LONGEST_LADDER))
        self._initial_loss = InitialLoss(workload, initial=self.initial_state, longest=longest)

    def run_once(self, method: str, rate: float, seed: int) -> float:
        """Train for `num_steps`, and return the metric; it is not finite if the run diverged."""
        return next(self.run_in_parts(method, rate, seed, [self.num_steps]))

    def run_in_parts(self, method: str, rate: float, seed: int, stops: Sequence[int]) -> Iterator[float]:
        """Train one full run, and yield the metric after each of `stops` steps.

        The steps up to a stop are made when its metric is asked for.
        """
        plan, seeds, hyper = self.plan(), np.array([seed]), self._of_run(Run(method, rate, seed, self.num_steps))
        runs, done = plan.start(hyper, seeds), 0
        for stop in stops:
            runs, done = plan.advance(runs, hyper, seeds, done, stop), stop
            yield self.score(runs, method, seed).metric

    def train(
        self, training: Training, state: Runs | None, status: ProgressMeter, before: int
    ) -> tuple[Observation, Runs | None]:
        """Train what a policy asks for.

        Args:
          training: the request.
          state: the state at `training.start`, on the host; None if that is 0.
          status: shows the steps.
          before: the steps that `status` has seen until now.

        Returns:
          What was observed, and the state to keep, on the host; None if none is.
        """
        method, _, seed, _ = training.run
        plan, seeds, hyper = self.plan(), np.array([seed]), self._of_run(training.run)
        runs = plan.start(hyper, seeds) if state is None else plan.put(state)
        kept, scores, done, seconds = None, {}, training.start, 0.0
        for stop in sorted({training.keep, *training.evaluate_at, training.stop}):
            if stop > done:
                began = time.monotonic()
                runs = advance(plan, runs, hyper, seeds, done, stop, status, before + done - training.start)
                jax.block_until_ready(runs.steps)
                done, seconds = stop, seconds + time.monotonic() - began
            if stop == training.keep > 0:
                kept = to_host(runs)
            if stop in training.evaluate_at:
                scores[stop] = self.score(runs, method, seed)
        initial, noise = self._initial_tail(runs, seed)
        observation = Observation(
            training,
            self._bins(runs),
            self._steps_per_bin,
            scores,
            float(tail_loss(runs)[0, 0]),
            initial,
            bool(np.asarray(runs.diverged)[0, 0]),
            seconds,
            noise,
        )
        return observation, kept

    def _initial_tail(self, runs: Runs, seed: int) -> tuple[float, float]:
        """Return mean loss of the initial parameters over the tail of a run, and the noise of its difference."""
        start, stop = (int(steps[0, 0]) for steps in tail_steps(runs))
        if stop <= start:
            return math.nan, 0.0
        window = seed, start, stop
        if window not in self._initial_tails:  # runs that end at one step share it
            self._initial_tails[window] = self._initial_loss.losses(*window)
            if len(self._initial_tails) > KEPT_TAILS:
                del self._initial_tails[next(iter(self._initial_tails))]
        initial = self._initial_tails[window].astype(np.float64)
        differences = initial - curves(runs)[0, 0, start:stop]
        noise = 2 * float(np.std(differences, ddof=1)) / math.sqrt(len(differences)) if len(differences) > 2 else 0.0
        return float(initial.mean()), noise if math.isfinite(noise) else 0.0

    def start(self, run: Run) -> Runs:
        """Return a run before its first step, as a checkpoint restores it."""
        return self._begin().start(self._of_run(run), np.array([run.seed]))

    def initial_state(self, seed: int) -> tuple[Any, Any]:
        """Return parameters and model state before the first step."""
        if seed not in self._initial:
            state = run_at(self._begin().start(hyperparameters(0, 1.0, 1), np.array([seed])).state, 0, 0)
            self._initial = {seed: (state.params, state.model_state)}
        return self._initial[seed]

    def test_range(self, probe: RangeProbe) -> RangeTest:
        """Make the range test that a policy asks for.

        Raises:
          ValueError: if the loss is not finite at the first rate.
        """
        rates = make_ladder(probe.min_rate, probe.max_rate, probe.num_steps, "exponential")
        longer = np.concatenate([rates, extend_ladder(rates, "exponential")]) if probe.extend else rates
        if len(longer) > self._family.num_steps:
            raise ValueError(
                f"a range test must have at most {self._family.num_steps} steps, with those that it is continued by, "
                f"got {len(longer)}."
            )
        tested = self.portfolio[probe.method].range_test_of
        assert tested is not None
        optimizer = self._tested.index(tested)
        hyper = hyperparameters(len(self.portfolio) + optimizer, probe.min_rate, probe.num_steps, probe.max_rate)
        plan, seeds = self.plan(), np.array([probe.seed])
        runs, done = plan.start(hyper, seeds), 0
        for number in dict.fromkeys((len(rates), len(longer))):
            for stop in np.linspace(done, number, LADDER_PARTS + 1).astype(int)[1:].tolist():
                runs, done = plan.advance(runs, hyper, seeds, done, stop), stop
                test = self._read_ladder(longer[:number], runs, probe)
                if test.diverged_at is not None:
                    return test
            if not test.is_flat():
                break
        return test

    def _read_ladder(self, rates: np.ndarray, runs: Runs, probe: RangeProbe) -> RangeTest:
        losses, initial = curves(runs)[0, 0, : len(rates)], np.full(len(rates), np.nan, np.float32)
        made = int(np.isfinite(losses).sum())
        initial[:made] = self._initial_loss.losses(probe.seed, 0, made)
        diverged = bool(np.asarray(runs.diverged)[0, 0])
        return read_losses(rates, losses, initial, probe.num_steps, diverged=diverged)

    def compile_ahead(self) -> None:
        """Begin to compile in a thread, behind what runs meanwhile."""
        plan = self._begin()
        if self._compilation is None:
            executor = ThreadPoolExecutor(1, "lrx-select")
            settings = settings_key()
            # A thread does not see what a context manager has set.
            self._compilation = executor.submit(lambda: settings_key() == settings and plan.compile())
            executor.shutdown(wait=False)

    def plan(self) -> Plan:
        """Return the compiled program of all methods."""
        plan = self._begin()
        if self._compilation is not None:
            self._compilation.result()
        return plan.compile()

    def _begin(self) -> Plan:
        """Return the program whose steps may still have to be compiled."""
        if self._plan is None:
            self._plan = choose_plan(
                self._family, hyperparameters(0, 1.0, 1), np.zeros(1, np.int64), strategy="map", compile_later=True
            )
        return self._plan

    def _of_run(self, run: Run) -> dict[str, np.ndarray]:
        return hyperparameters(self._places[run.method], run.rate, run.length)

    @property
    def _steps_per_bin(self) -> int:
        return -(-self.num_steps // NUM_POINTS)

    def _bins(self, runs: Runs) -> np.ndarray:
        """Return (bins,) float32, means of the losses of a run; NaN where no step was made."""
        width = self._steps_per_bin
        room = -(-self.num_steps // width) * width
        losses = np.full(room, np.nan)
        losses[: self.num_steps] = curves(runs)[0, 0, : self.num_steps]
        counts = np.isfinite(losses).reshape(-1, width).sum(axis=1)
        sums = np.nansum(losses.reshape(-1, width), axis=1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)

    def score(self, runs: Runs, method: str, seed: int) -> Scores:
        """Evaluate a run of a method as it is now."""
        if np.any(np.asarray(runs.diverged)):
            return Scores(math.inf, self._sign * math.inf)
        place = self.groups[method]

        def point(state: State, seed: int) -> tuple[Any, Any]:
            params = state.opt_state.evaluation_point(place, state.params)
            if params is state.params:
                return params, state.model_state
            return params, recompute_batch_stats(self.workload, params, state.model_state, seed=seed)

        found = evaluate(self.workload, runs, np.array([seed]), 1, point)
        return self._scores({name: float(values[0, 0]) for name, values in found.items()}, runs)

    def _scores(self, results: Mapping[str, float], runs: Runs | None) -> Scores:
        self._set_compared(results)
        if self.compared not in results and runs is not None:
            results = {self.compared: float(tail_loss(runs)[0, 0])}
        metric = results.get(self.compared, math.nan)
        has_loss = self.compared != "loss" and "loss" in results
        return Scores(results["loss"] if has_loss else self._sign * metric, metric)

    def _set_compared(self, results: Mapping[str, Any]) -> None:
        """Choose the result by which runs are compared, from those of an evaluation."""
        if self.best_by is None:
            self.compared = "loss" if "loss" in results else "training loss"
        elif self.compared not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={self.compared!r}.")

    def initial_scores(self, seed: int) -> Scores | None:
        """Evaluate the initial parameters, which refuses an unknown metric; None if the workload does not evaluate."""
        if self.workload.evaluate is None:
            return None
        state, began = self.initial_state(seed), time.monotonic()
        results = {name: float(value) for name, value in self.workload.evaluate(*state).items()}
        self.first_evaluation = time.monotonic() - began
        scores = self._scores(results, None)
        return None if self.compared == "training loss" else scores

    def require_states(self) -> None:
        """Check that every method has a state for the workload's parameters and descends; nothing is trained."""
        for name, method in self.portfolio.items():
            try:
                self._describe_state(name)
            except Exception as error:
                raise TypeError(
                    f"portfolio[{name!r}].make gives a transformation whose init fails on the parameters of workload "
                    f"{self.workload.name!r}: {error}"
                ) from error
            if any(method is known for known in PORTFOLIO.values()):
                continue  # these descend
            made = {"make": method.make(method.default, self.num_steps)}
            if method.range_test_of is not None:
                made["range_test_of"] = method.range_test_of(method.default / method.scale)
            for field, tx in made.items():
                try:
                    require_descent_on(self.workload, tx)
                except ValueError as error:
                    raise ValueError(f"portfolio[{name!r}].{field}: {error}") from error

    def _describe_state(self, method: str) -> dict[str, str]:
        """Return path to type and shape of a method's state, by tracing only."""
        rate, steps = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
        params, _ = initial_shapes(self.workload)
        make = self.portfolio[method].make
        return describe(jax.eval_shape(lambda rate, steps, params: make(rate, steps).init(params), rate, steps, params))

    def identity(self, **settings: Any) -> Identity:
        """Return everything that determines the numbers of all runs.

        Args:
          **settings: everything else that determines them.
        """
        params, _ = initial_shapes(self.workload)
        known = run_identity(
            self.workload,
            optax.identity(),
            kind="select",
            steps=self.num_steps,
            metric=None if self.best_by is None else list(self.best_by),
            methods=list(self.portfolio),  # runs are kept by their places
            **settings,
        )
        rate, steps = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.float32, jnp.int32))
        for name, method in self.portfolio.items():
            place = f"portfolio[{name!r}]"
            known[place] = {
                f".{field.name}": value
                for field in dataclasses.fields(method)
                if not callable(value := getattr(method, field.name))
            }
            known[f"{place}.state"] = self._describe_state(name)
            programs = {"make": family_identity(method.make, (rate, steps), params)}
            if method.range_test_of is not None:
                programs["range_test_of"] = family_identity(method.range_test_of, (rate,), params)
            for field, parts in programs.items():
                known |= {f"{place}.{field}{part.removeprefix('tx')}": program for part, program in parts.items()}
        return known


def hyperparameters(method: int, rate: float, num_steps: int, last_rate: float = 1.0) -> dict[str, np.ndarray]:
    """Return what the program takes, for one run of the method at a place."""
    values = {"method": method, "rate": rate, "num_steps": num_steps, "last_rate": last_rate}
    return {name: np.array([value], np.float32) for name, value in values.items()}
