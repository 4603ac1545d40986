"""What a step and an evaluation of a selection cost, in seconds and in steps, as measured before its first run."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lrx.run_state import moves_evaluation
from lrx.training.batch_stats import NUM_BATCHES
from lrx.tuning.selection.policy import FREE_RUN_SECONDS, FREE_SECONDS
from lrx.tuning.selection.runner import MethodRunner, hyperparameters

FORWARD = 1 / 3  # of a step: a forward pass
TIMED = (4, 2), (32, 1)  # steps that a step's duration is measured on, and how often; the latter if it is short
MOMENT = 0.1  # seconds
COMPARED = 64  # steps of each method by which they are compared, at most, and no more than
OF_RUN = 0.01  # of a full run, and
OF_BUDGET = 0.05  # of the budget, for all methods together
LONG = 1.25  # usual steps that a step takes, from which on it counts as more than one
AGAIN = 3  # further timings of such a step and of a usual one, of all of which the least counts


class Costs:
    """Measures each cost once, when it is first asked for.

    Args:
      runner: of the methods; it must have evaluated the initial parameters, if its workload can.
      seed: of the run on which steps are measured.
      allowed: steps of the budget, a part of which may be made to compare the methods; 0 to compare none.
    """

    def __init__(self, runner: MethodRunner, seed: int, allowed: int) -> None:
        self.runner, self.seed, self.allowed = runner, seed, allowed
        self._groups = list(runner.groups.values())

    def evaluation_steps(self) -> dict[str, float]:
        """Return, for each method, how many steps take as long as an evaluation of its runs.

        What takes less than `FREE_SECONDS` is left out.
        """
        if self.runner.workload.evaluate is None:
            return {}
        recomputing = self._recomputing()
        if self.runner.first_evaluation < FREE_SECONDS and not recomputing:
            return {}
        step = self.step_seconds  # first, since it waits until nothing is compiled behind
        evaluation = self.evaluation_seconds / step
        costs = {name: evaluation + FORWARD * NUM_BATCHES * (name in recomputing) for name in self.runner.portfolio}
        return {name: cost for name, cost in costs.items() if cost * step >= FREE_SECONDS}

    def step_costs(self) -> dict[str, float]:
        """Return, for each method whose steps take long, how many usual ones take as long as one of its own.

        A usual step is the median of the methods', the lower one of two. The numbers are rounded to halves, so that a
        choice hardly depends on the noise of clocks, and what is near 1 is left out.
        """
        costs = {
            name: round(2 * self._compared[group] / self.step_seconds) / 2
            for name, group in self.runner.groups.items()
            if group in self._compared
        }
        return {name: cost for name, cost in costs.items() if cost > 1}

    @functools.cached_property
    def step_seconds(self) -> float:
        """The seconds of a usual step; of one of the first method if steps are not compared."""
        return self._compared[self._usual(self._compared)] if self._compared else self._first[0]

    def _usual(self, seconds: Mapping[int, float]) -> int:
        return sorted(self._groups, key=lambda group: seconds[group])[(len(self._groups) - 1) // 2]

    @functools.cached_property
    def _compared(self) -> dict[int, float]:
        """The seconds of a step of each group of methods; none if a full run or the budget is too short."""
        step, num_steps = self._first[0], self.runner.num_steps
        groups = list(dict.fromkeys(self._groups))
        most = min(OF_BUDGET * self.allowed / len(groups), COMPARED)
        if step * num_steps < FREE_RUN_SECONDS or most < 1:
            return {}
        steps = max(1, round(min(most, OF_RUN * num_steps, MOMENT / step)))
        seconds = {group: self._seconds(group, steps) for group in groups}
        usual = self._usual(seconds)
        long = [group for group in groups if seconds[group] > LONG * seconds[usual]]
        for group in (usual, *long) * AGAIN if long else ():
            seconds[group] = min(seconds[group], self._seconds(group, steps))
        return seconds

    @functools.cached_property
    def _first(self) -> tuple[float, float]:
        """The seconds of a step of the first method, and of what a call for several steps takes beside them.

        That is above all the permutation of an epoch, which may take as long as many steps.
        """
        once = min(self._call(0, 1)[0], self._call(0, 1)[0])
        if once > 10 * MOMENT:  # a permutation takes less
            return once, 0.0
        step = math.inf
        for steps, times in TIMED:
            if step == math.inf or steps * step < 3 * MOMENT:
                calls = [self._call(0, 1 + steps) for _ in range(times)]
                step = max(min((seconds - once) / max(made - 1, 1) for seconds, made in calls), once / 100)
        return step, max(once - step, 0.0)

    def _seconds(self, group: int, steps: int) -> float:
        """Return the seconds of a step of a group of methods, measured on so many steps."""
        step, beside = self._first
        seconds, made = self._call(self._groups.index(group), steps)
        return max((seconds - beside) / max(made, 1), step / 10)

    def _call(self, place: int, steps: int) -> tuple[float, int]:
        """Return the seconds that the first steps of a run of the method at a place take, and how many are made."""
        runner, seeds = self.runner, np.array([self.seed])
        rate = list(runner.portfolio.values())[place].default
        plan, hyper = runner.plan(), hyperparameters(place, rate, runner.num_steps)
        runs = jax.block_until_ready(plan.start(hyper, seeds))
        began = time.monotonic()
        runs = jax.block_until_ready(plan.advance(runs, hyper, seeds, 0, steps))
        return time.monotonic() - began, int(np.asarray(runs.steps)[0, 0])

    @functools.cached_property
    def evaluation_seconds(self) -> float:
        """The seconds of an evaluation, without its compilation."""
        assert self.runner.workload.evaluate is not None
        state, began = self.runner.initial_state(self.seed), time.monotonic()
        jax.block_until_ready(self.runner.workload.evaluate(*state))
        return time.monotonic() - began

    def _recomputing(self) -> set[str]:
        """Return the methods for whose evaluation the model's batch statistics are recomputed."""
        params, model_state = self.runner.initial_state(self.seed)
        if not jax.tree.leaves(model_state):
            return set()
        found = set()

        def look(params: Any) -> None:
            for name, method in self.runner.portfolio.items():
                if moves_evaluation(method.make(method.default, self.runner.num_steps).init(params), params):
                    found.add(name)

        jax.eval_shape(look, params)
        return found
