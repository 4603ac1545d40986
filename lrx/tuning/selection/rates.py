"""The rates that a race tries, and the one that their losses point to."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lrx.tuning.range_test import RangeTest

RATE_SPAN = (1.5, 18.0)  # the rates that are tried, times the mean of what a range test says and of the default
FARTHEST = 10.0  # that mean may be from what the range test says, as a factor
NEAREST = 1 / 8  # of the step from a rate to the next one: what is nearer to a rate is no new one


def trial_rates(test: RangeTest, number: int, default: float) -> np.ndarray:
    """Give the rates to try, from the geometric mean of what a range test says and of the optimizer's default.

    Where the default is out of all proportion, that is not farther than `FARTHEST` from what the range test says. Where
    nothing was learnt at any rate, it is the default, or a tenth of the rate that diverged, where that is less.
    """
    found = test.suggestions["minimum"]
    if found is not None:
        middle = min(max(math.sqrt(found * default), found / FARTHEST), found * FARTHEST)
    else:
        middle = default if test.diverged_at is None else min(default, test.diverged_at / FARTHEST)
    low, high = (factor * middle for factor in RATE_SPAN)
    return np.geomspace(low, high, number) if number > 1 else np.array([math.sqrt(low * high)])


def rate_of_least_loss(losses: Mapping[float, float], best: float, number: int) -> float | None:
    """Give the rate, near the best of `number` in equal factors, where the loss seems to be least; None at a known one.

    That is the vertex of the parabola through the logarithms of the losses at the best rate and the two beside it, over
    the logarithm of the rate. A best rate that is the last on its side has half a step above it, even where it is the
    lowest, for short runs prefer rates that are too low. `losses` has those that are finite.
    """
    step = (RATE_SPAN[1] / RATE_SPAN[0]) ** (1 / (number - 1))
    below, above = (
        next((loss for rate, loss in losses.items() if math.isclose(rate, factor * best, rel_tol=1e-3)), None)
        for factor in (1 / step, step)
    )
    if below is None or above is None:
        shift = 0.5
    else:
        least = losses[best]
        low, middle, high = np.log([below, least, above]) if least > 0 else (below, least, above)
        bend = low - 2 * middle + high
        shift = (low - high) / (2 * bend) if bend > 0 else 0.0
    return None if abs(shift) < NEAREST else float(np.float32(best * step**shift))
