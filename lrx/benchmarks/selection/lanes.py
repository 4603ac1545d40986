"""Runs of one family of methods side by side, each with a rate, a schedule and a seed of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.benchmarks.selection.candidates import Family
from lrx.run_state import eval_params
from lrx.training.many import RunFamily, Runs, hold
from lrx.training.runs import evaluate
from lrx.training.sampling import Keys, keys_of_seeds
from lrx.training.workload import Workload

HYPER = ("rate", "schedule")
FINEST = 486  # points of a curve as it is trained; those that are kept are coarser
TRIAL_STEPS = 8  # for comparing the two ways of running lanes


class Recorded(NamedTuple):
    """What lanes leave; the first axis is that of the lanes."""

    losses: np.ndarray  # (lanes, points) float32: mean training losses; NaN where no step was made
    evaluations: dict[str, np.ndarray]  # name to (lanes, stops) float32, NaN where a run had diverged
    diverged: np.ndarray  # (lanes,) bool


@dataclasses.dataclass(frozen=True)
class _Make:
    family: Family
    num_steps: int

    def __call__(self, hyper: Mapping[str, Any], count: jax.Array) -> optax.GradientTransformation:
        del count
        return self.family.make(hyper, self.num_steps)

    def __hash__(self) -> int:
        return id(self.family)


class Lanes:
    """One family of methods on one workload, compiled once.

    Args:
      workload: what is trained.
      family: methods that differ in numbers.
      num_steps: length of each run.
      width: number of runs at a time.
      together: whether a step of all lanes is made at once, or lane after lane; None to measure which is faster.
      evaluator: evaluations that other families of the same workload have compiled.
    """

    def __init__(
        self,
        workload: Workload,
        family: Family,
        num_steps: int,
        width: int,
        together: bool | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.workload, self.num_steps, self.width = workload, num_steps, width
        self.runs = RunFamily(workload, _Make(family, num_steps), num_steps, FINEST)
        self.steps_per_point = self.runs.steps_per_point
        self._arrays = jax.tree.map(jnp.asarray, workload.batches.arrays)
        self._step, _ = self.runs.trace_step(HYPER, channels_last=True)
        self._evaluator = Evaluator(workload) if evaluator is None else evaluator
        # Parameters are built by one program for all families, and the states of optimizers op by op: to compile a
        # program for them takes longer than to run it.
        given = dataclasses.replace(workload, init=_given)
        self._begin = jax.vmap(RunFamily(given, _Make(family, num_steps), num_steps, FINEST).start)
        self.together = self._faster() if together is None else together
        self._advance = self._compile(self.together)

    def _compile(self, together: bool) -> Any:
        return jax.jit(self._all_at_once if together else self._one_by_one, donate_argnums=0)

    def _faster(self) -> bool:
        seconds = {}
        hyper, seeds = {"rate": np.full(self.width, 1e-4), "schedule": np.zeros(self.width)}, np.arange(self.width)
        for together in (True, False):
            program = self._compile(together)
            times = []
            for stop in (1, 1, 1 + TRIAL_STEPS, 1 + TRIAL_STEPS):
                placed, keys = self._place(hyper, seeds)
                runs = jax.block_until_ready(self._start(placed, keys))
                began = time.process_time()
                jax.block_until_ready(program(runs, placed, keys, self._arrays, np.int32(0), np.int32(stop)))
                times.append(time.process_time() - began)
            seconds[together] = times[3] - times[1]
        return seconds[True] < seconds[False]

    def _place(self, hyper: Mapping[str, Any], seeds: Any) -> tuple[dict[str, jax.Array], Keys]:
        placed = {name: jnp.asarray(hyper[name], jnp.float32) for name in HYPER}
        return placed, keys_of_seeds(jnp.asarray(seeds, jnp.int32))

    def _start(self, placed: dict[str, jax.Array], keys: Keys) -> Runs:
        return self._begin(placed, self._evaluator.init(keys.init))

    def _loop(self, runs: Runs, permutation_of: Any, draw: Any, step: Any, arrays: Any, start: Any, stop: Any) -> Runs:
        sampling = self.workload.batches.sampling

        def steps(count: jax.Array, permutation: jax.Array, runs: Runs) -> tuple[jax.Array, Runs]:
            batch, loss_keys = draw(permutation, count)
            return count + 1, step(runs, batch, loss_keys, count)

        number = len(sampling.in_order(arrays))
        return sampling.loop(steps, permutation_of, number, start, stop, runs, lambda runs: jnp.any(runs.alive))[1]

    def _one_by_one(self, runs: Runs, hyper: Any, keys: Keys, arrays: Any, start: Any, stop: Any) -> Runs:
        sampling = self.workload.batches.sampling

        def advance(lane: tuple[Runs, Any, Keys]) -> Runs:
            runs, hyper, keys = lane
            return self._loop(
                runs,
                lambda epoch: sampling.permutation(arrays, keys.shuffle, epoch),
                lambda permutation, count: sampling.draw(arrays, permutation, keys.step, count),
                lambda runs, batch, key, count: self._step(runs, hyper, batch, (), key, count),
                arrays,
                start,
                stop,
            )

        return jax.lax.map(advance, (runs, hyper, keys))

    def _all_at_once(self, runs: Runs, hyper: Any, keys: Keys, arrays: Any, start: Any, stop: Any) -> Runs:
        sampling = self.workload.batches.sampling
        permute = jax.vmap(lambda key, epoch: sampling.permutation(arrays, key, epoch), in_axes=(0, None))
        draw = jax.vmap(lambda order, key, count: sampling.draw(arrays, order, key, count), in_axes=(0, 0, None))
        step = jax.vmap(hold(self._step), in_axes=(0, 0, 0, None, 0, None))
        return self._loop(
            runs,
            partial(permute, keys.shuffle),
            lambda permutation, count: draw(permutation, keys.step, count),
            lambda runs, batch, key, count: step(runs, hyper, batch, (), key, count),
            arrays,
            start,
            stop,
        )

    def warm_up(self) -> None:
        """Compile everything, by a step of runs that are not kept."""
        self.record(np.full(1, 1e-4), np.zeros(1), np.zeros(1, int), [0, 1])

    def record(self, rates: np.ndarray, schedules: np.ndarray, seeds: np.ndarray, stops: Sequence[int]) -> Recorded:
        """Train runs from the start, and evaluate them after each of `stops` steps.

        Args:
          rates: (runs,) learning rates; any number of runs, trained `width` at a time.
          schedules: (runs,) places of the methods in the family.
          seeds: (runs,) seeds.
          stops: increasing; the last is the length of the run, and 0 is before the first step.
        """
        parts = []
        for first in range(0, len(rates), self.width):
            part = slice(first, first + self.width)
            number = len(rates[part])
            filled = np.minimum(np.arange(self.width), number - 1)
            hyper = {"rate": rates[part][filled], "schedule": schedules[part][filled]}
            parts.append(self._record(hyper, seeds[part][filled], number, stops))
        names = parts[0].evaluations
        return Recorded(
            np.concatenate([part.losses for part in parts]),
            {name: np.concatenate([part.evaluations[name] for part in parts]) for name in names},
            np.concatenate([part.diverged for part in parts]),
        )

    def _record(self, hyper: Mapping[str, Any], seeds: np.ndarray, number: int, stops: Sequence[int]) -> Recorded:
        placed, keys = self._place(hyper, seeds)
        runs = self._start(placed, keys)
        runs = runs._replace(alive=runs.alive & (jnp.arange(self.width) < number))  # the others fill up the lanes
        done, evaluations = 0, []
        for stop in stops:
            if stop > done:
                runs = self._advance(runs, placed, keys, self._arrays, jnp.int32(done), jnp.int32(stop))
                done = stop
            evaluations.append(self._evaluator(runs, seeds))
        counts, sums = np.asarray(runs.loss_counts), np.asarray(runs.loss_sums)
        losses = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
        names = dict.fromkeys(name for each in evaluations for name in each)
        missing = np.full(self.width, np.nan, np.float32)
        found = {name: np.stack([each.get(name, missing) for each in evaluations], -1)[:number] for name in names}
        return Recorded(losses[:number], found, np.asarray(runs.diverged)[:number])


def _given(made: Any) -> tuple[Any, Any]:
    """Return parameters and model state that exist already, where a function of a key is expected."""
    params, model_state = made
    return params, model_state


class Evaluator:
    """The initial parameters and the evaluation of a workload for many runs, compiled once for all families."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.init = jax.jit(jax.vmap(workload.init))
        self._compiled: Any = None

    def __call__(self, runs: Runs, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """Return name to (lanes,) float32; NaN where a run has diverged."""
        assert self.workload.evaluate is not None
        if jax.tree.leaves(runs.state.model_state):
            wide = jax.tree.map(lambda leaf: leaf[:, None], runs)
            return {name: values[:, 0] for name, values in evaluate(self.workload, wide, seeds, 1).items()}
        points = jax.vmap(eval_params)(runs.state.opt_state, runs.state.params)
        if self._compiled is None:
            model_state, run = runs.state.model_state, self.workload.evaluate
            self._compiled = jax.jit(partial(jax.lax.map, lambda params: run(params, model_state)))
        diverged = np.asarray(runs.diverged)
        found = self._compiled(points)
        return {name: np.where(diverged, np.nan, values).astype(np.float32) for name, values in found.items()}
