"""The runs of `select`: one compiled program for each method, which takes the rate and the length as arguments."""

from __future__ import annotations

import dataclasses
import math
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
from lrx.training.runs import advance, evaluate, tail_loss, tail_steps, to_host
from lrx.training.workload import Workload
from lrx.tuning.arguments import require_descent_on
from lrx.tuning.execution import NUM_POINTS
from lrx.tuning.initial_loss import InitialLoss, is_below
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.state import Candidate


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
            yield self.score(runs, seed)[0]

    def advance(
        self, candidate: Candidate, length: int, reusable: int, seed: int, status: ProgressMeter, before: int
    ) -> None:
        """Train a run of `length` steps, score it, and keep the state that a longer run can continue from.

        Args:
          candidate: what to run; it is updated.
          length: length of the run, whose schedule ends there.
          reusable: number of steps after which a longer run can reuse the state.
          seed: seed of the run.
          status: shows the steps.
          before: the steps that `status` has seen until now.
        """
        plan, seeds = self.plan(candidate.method), np.array([seed])
        hyper = hyperparameters(candidate.rate, length)
        if candidate.runs == () or candidate.done > reusable:
            runs, candidate.done = plan.start(hyper, seeds), 0
        else:
            runs = plan.put(candidate.runs)
        runs = advance(plan, runs, hyper, seeds, candidate.done, reusable, status, before)
        ended = runs
        if reusable < length:
            copy = jax.tree.map(jnp.copy, runs)
            ended = advance(plan, copy, hyper, seeds, reusable, length, status, before + reusable - candidate.done)
        kept = to_host(runs) if reusable else ()
        candidate.runs, candidate.done = kept, reusable if reusable else 0
        candidate.length = length
        candidate.value, candidate.loss = self.score(ended, seed)
        candidate.learnt = self._has_learnt(ended, seed)

    def start(self, candidate: Candidate, seed: int) -> Runs:
        """Return the runs of a candidate before their first step, as a checkpoint restores them."""
        return self.plan(candidate.method).start(hyperparameters(candidate.rate, candidate.done), np.array([seed]))

    def plan(self, method: str) -> Plan:
        """Return the compiled program of a method; rate and length are its arguments."""
        if method not in self._plans:
            hyper, seeds = hyperparameters(1.0, 1), np.zeros(1, np.int64)
            self._plans[method] = choose_plan(self._family(method), hyper, seeds, strategy="map")
        return self._plans[method]

    def _family(self, method: str) -> RunFamily:
        make_tx = _MadeForLength(self.portfolio[method].make)
        return RunFamily(self.workload, make_tx, self.num_steps, min(NUM_POINTS, self.num_steps))

    def score(self, runs: Runs, seed: int) -> tuple[float, float]:
        """Return metric and loss of a run as it is now, as in `RunRecord`."""
        if np.any(np.asarray(runs.diverged)):
            return self._sign * math.inf, math.inf
        results = evaluate(self.workload, runs, np.array([seed]), 1)
        self._set_compared(results)
        if self.compared not in results:
            results = {self.compared: tail_loss(runs)}
        value = float(results[self.compared][0, 0])
        has_loss = self.compared != "loss" and "loss" in results
        return value, float(results["loss"][0, 0]) if has_loss else self._sign * value

    def _has_learnt(self, runs: Runs, seed: int) -> bool:
        """Return whether the training loss of a run is below that of the initial parameters."""
        initial = self._initial_loss.means(np.array([seed]), *tail_steps(runs))
        return bool(is_below(initial, tail_loss(runs)).any())

    def _set_compared(self, results: Mapping[str, Any]) -> None:
        """Choose the result by which runs are compared, from those of an evaluation."""
        if self.best_by is None:
            self.compared = "loss" if "loss" in results else "training loss"
        elif self.compared not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={self.compared!r}.")

    def require_metric(self, seed: int) -> None:
        """Evaluate the initial parameters once, so that an unknown metric is refused before anything is trained."""
        name, seeds = next(iter(self.portfolio)), np.array([seed])
        untrained = self.plan(name).start(hyperparameters(self.portfolio[name].default, self.num_steps), seeds)
        self._set_compared(evaluate(self.workload, untrained, seeds, 1))

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
