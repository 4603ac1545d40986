"""What a step and an evaluation of a selection cost, in seconds and in steps, as measured before its first run."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import numpy as np

from lrx.run_state import moves_evaluation
from lrx.training.batch_stats import NUM_BATCHES
from lrx.tuning.selection.policy import FREE_SECONDS
from lrx.tuning.selection.runner import MethodRunner, hyperparameters

FORWARD = 1 / 3  # of a step: a forward pass
TIMED_STEPS = 4  # that a step's duration is measured on


class Costs:
    """Measures each cost once, when it is first asked for.

    Args:
      runner: of the methods; it must have evaluated the initial parameters, if its workload can.
      seed: of the run on which steps are measured.
    """

    def __init__(self, runner: MethodRunner, seed: int) -> None:
        self.runner, self.seed = runner, seed

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

    @functools.cached_property
    def step_seconds(self) -> float:
        """The seconds of a step of the first method, by the fastest of a few steps."""
        runner, seeds = self.runner, np.array([self.seed])
        plan, hyper = runner.plan(), hyperparameters(0, 1e-6, runner.num_steps)
        runs = jax.block_until_ready(plan.advance(plan.start(hyper, seeds), hyper, seeds, 0, 1))
        done, least = 1, math.inf
        for steps in (TIMED_STEPS, TIMED_STEPS, 8 * TIMED_STEPS):  # the last ones only if they take less than a moment
            began = time.monotonic()
            runs = jax.block_until_ready(plan.advance(runs, hyper, seeds, done, done + steps))
            done += steps
            least = min(least, (time.monotonic() - began) / steps)
            if 16 * TIMED_STEPS * least > 0.2:
                break
        return least

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
