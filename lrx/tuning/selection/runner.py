"""The runs of `select`: one compiled program for each method, which takes the rate and the length as arguments."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training.following import BestBy
from lrx.training.identity import Identity, family_identity, run_identity
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import ProgressMeter
from lrx.training.runs import advance, curves, evaluate, tail_loss, tail_steps, to_host
from lrx.training.workload import Workload
from lrx.tuning.arguments import require_descent_on
from lrx.tuning.execution import NUM_POINTS
from lrx.tuning.initial_loss import InitialLoss
from lrx.tuning.selection.policy import Observation, Run, Scores, Training
from lrx.tuning.selection.portfolio import Method


@dataclasses.dataclass(frozen=True)
class _MadeForLength:
    """A method's transformation from its hyperparameters; equal for equal methods, so that it compiles once."""

    make: Callable[[Any, Any], optax.GradientTransformation]

    def __call__(self, hyper: Any, count: jax.Array) -> optax.GradientTransformation:
        del count
        return self.make(hyper["rate"], jnp.int32(jnp.round(hyper["num_steps"])))


class MethodRunner:
    """The methods of a portfolio, each compiled once for one workload.

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
        self._plans: dict[str, Plan] = {}
        self._initial_loss = InitialLoss(workload)

    def run_once(self, method: str, rate: float, seed: int) -> float:
        """Train for `num_steps`, and return the metric; it is not finite if the run diverged."""
        return next(self.run_in_parts(method, rate, seed, [self.num_steps]))

    def run_in_parts(self, method: str, rate: float, seed: int, stops: Sequence[int]) -> Iterator[float]:
        """Train one full run, and yield the metric after each of `stops` steps.

        The steps up to a stop are made when its metric is asked for.
        """
        plan, seeds, hyper = self.plan(method), np.array([seed]), hyperparameters(rate, self.num_steps)
        runs, done = plan.start(hyper, seeds), 0
        for stop in stops:
            runs, done = plan.advance(runs, hyper, seeds, done, stop), stop
            yield self.score(runs, seed).metric

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
        began = time.monotonic()
        method, rate, seed, length = training.run
        plan, seeds, hyper = self.plan(method), np.array([seed]), hyperparameters(rate, length)
        runs = plan.start(hyper, seeds) if state is None else plan.put(state)
        kept, scores, done = None, {}, training.start
        for stop in sorted({training.keep, *training.evaluate_at, training.stop}):
            if stop > done:
                runs = advance(plan, runs, hyper, seeds, done, stop, status, before + done - training.start)
                done = stop
            if stop == training.keep > 0:
                kept = to_host(runs)
            if stop in training.evaluate_at:
                scores[stop] = self.score(runs, seed)
        observation = Observation(
            training,
            curves(runs)[0, 0],
            self._family(method).steps_per_point,
            scores,
            float(tail_loss(runs)[0, 0]),
            float(self._initial_loss.means(seeds, *tail_steps(runs))[0, 0]),
            bool(np.asarray(runs.diverged)[0, 0]),
            time.monotonic() - began,
        )
        return observation, kept

    def start(self, run: Run) -> Runs:
        """Return a run before its first step, as a checkpoint restores it."""
        return self.plan(run.method).start(hyperparameters(run.rate, run.length), np.array([run.seed]))

    def plan(self, method: str) -> Plan:
        """Return the compiled program of a method; rate and length are its arguments."""
        if method not in self._plans:
            hyper, seeds = hyperparameters(1.0, 1), np.zeros(1, np.int64)
            self._plans[method] = choose_plan(self._family(method), hyper, seeds, strategy="map")
        return self._plans[method]

    def _family(self, method: str) -> RunFamily:
        make_tx = _MadeForLength(self.portfolio[method].make)
        return RunFamily(self.workload, make_tx, self.num_steps, min(NUM_POINTS, self.num_steps))

    def score(self, runs: Runs, seed: int) -> Scores:
        """Evaluate a run as it is now."""
        if np.any(np.asarray(runs.diverged)):
            return Scores(math.inf, self._sign * math.inf)
        results = evaluate(self.workload, runs, np.array([seed]), 1)
        self._set_compared(results)
        if self.compared not in results:
            results = {self.compared: tail_loss(runs)}
        metric = float(results[self.compared][0, 0])
        has_loss = self.compared != "loss" and "loss" in results
        return Scores(float(results["loss"][0, 0]) if has_loss else self._sign * metric, metric)

    def _set_compared(self, results: Mapping[str, Any]) -> None:
        """Choose the result by which runs are compared, from those of an evaluation."""
        if self.best_by is None:
            self.compared = "loss" if "loss" in results else "training loss"
        elif self.compared not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={self.compared!r}.")

    def initial_scores(self, seed: int) -> Scores | None:
        """Evaluate the initial parameters, which refuses an unknown metric; None if the workload does not evaluate."""
        name = next(iter(self.portfolio))
        untrained = self.start(Run(name, self.portfolio[name].default, seed, self.num_steps))
        scores = self.score(untrained, seed)
        return None if self.compared == "training loss" else scores

    def require_states(self) -> None:
        """Check that every method has a state for the workload's parameters and descends; nothing is trained."""
        for name, method in self.portfolio.items():
            try:
                self._family(name).describe_state(hyperparameters(1.0, 1))
            except Exception as error:
                raise TypeError(
                    f"portfolio[{name!r}].make gives a transformation whose init fails on the parameters of workload "
                    f"{self.workload.name!r}: {error}"
                ) from error
            made = {"make": method.make(method.default, self.num_steps)}
            if method.range_test_of is not None:
                made["range_test_of"] = method.range_test_of(method.default / method.scale)
            for field, tx in made.items():
                try:
                    require_descent_on(self.workload, tx)
                except ValueError as error:
                    raise ValueError(f"portfolio[{name!r}].{field}: {error}") from error

    def identity(self, **settings: Any) -> Identity:
        """Return everything that determines the numbers of all runs.

        Args:
          **settings: everything else that determines them.
        """
        params, _ = jax.eval_shape(self.workload.init, jax.random.key(0))
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
            known[f"{place}.state"] = self._family(name).describe_state(hyperparameters(1.0, 1))["opt_state"]
            programs = {"make": family_identity(method.make, (rate, steps), params)}
            if method.range_test_of is not None:
                programs["range_test_of"] = family_identity(method.range_test_of, (rate,), params)
            for field, parts in programs.items():
                known |= {f"{place}.{field}{part.removeprefix('tx')}": program for part, program in parts.items()}
        return known


def hyperparameters(rate: float, num_steps: int) -> dict[str, np.ndarray]:
    """Return what the program of a method takes, for one run."""
    return {"rate": np.array([rate], np.float32), "num_steps": np.array([num_steps], np.float32)}
