"""Observations that were not made, for what reads them."""

from __future__ import annotations

import math

import numpy as np

from lrx.tuning import RangeTest
from lrx.tuning.selection.policy import Answer, Ask, Observation, Observed, RangeProbe, Run, Scores, Training
from lrx.tuning.selection.portfolio import PORTFOLIO

STEPS = 1000


def beginning(budget: float = 3.0, mode: str = "min", first: float = 1.0, steps: int = STEPS) -> Observed:
    return Observed(steps, budget, PORTFOLIO, "loss", mode, 0, Scores(first, first))


def run_of(method: str, rate: float, steps: int, value: float, *, learnt: bool = True, seed: int = 0) -> Observation:
    """A run that was made to the end of its length, and its metric there."""
    training = Training(Run(method, rate, seed, steps), steps, evaluate_at=(steps,))
    lost = not math.isfinite(value)
    final = math.inf if lost else 0.5 if learnt else 1.0
    losses = np.full(100, 0.5, np.float32)
    return Observation(training, losses, 10, {steps: Scores(value, value)}, final, 1.0, lost, 1.0)


def add(observed: Observed, *runs: Observation) -> Observed:
    return observed.extend(Ask(runs=tuple(each.training for each in runs)), Answer(runs=runs))


def range_test_of(
    minimum: float | None, *, gain: float = 0.5, last: float = 10.0, diverged_at: float | None = None
) -> RangeTest:
    curve = np.full(30, 1.0, np.float32)
    suggestions = dict.fromkeys(("steepest", "valley", "minimum", "slide", "divergence"), minimum)
    rates = np.geomspace(1e-6, last, 30).astype(np.float32)
    return RangeTest(rates, curve, curve, curve[None], curve, gain, 0.01, diverged_at, suggestions)


def add_range_test(observed: Observed, method: str, test: RangeTest) -> Observed:
    probe = RangeProbe(method, 0, len(test.rates))
    return observed.extend(Ask(range_tests=(probe,)), Answer(range_tests=(test,)))
