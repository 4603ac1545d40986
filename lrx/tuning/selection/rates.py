"""The rates that `select` tries, and the rate at which a fit to their losses has the minimum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from lrx.tuning.range_test_result import RangeTest

RATE_SPAN = (1.5, 18.0)  # of the rates to try, in means of the range test's suggestion and of the default
FARTHEST = 10.0  # factor between that mean and the suggestion, at most
FLAT = 1e-3  # times the last rate: a lowest loss below that rate may be one by chance
SMALL_GAIN = 0.02  # of the loss: such a lowest loss counts only if its gain is above this
NEAREST = 1 / 8  # of the step from one rate to the next: a rate that is nearer to a known one is not new


def sees_fall(test: RangeTest) -> bool:
    """Return whether a range test has shown at which rates the loss falls.

    On a plateau the lowest loss lies anywhere. If its rate is far below the rates at which the loss rises, and it is
    hardly below the others, it is taken to be there by chance.
    """
    found = test.suggestions["minimum"]
    if found is None:
        return False
    last = float(test.rates[-1]) if test.diverged_at is None else test.diverged_at
    return 10 * found >= FLAT * last or test.gain > SMALL_GAIN * abs(float(np.nanmedian(test.losses)))


def trial_rates(test: RangeTest, number: int, default: float) -> np.ndarray:
    """Return the rates to try, around the geometric mean of a range test's suggestion and the optimizer's default.

    That mean is at most a factor `FARTHEST` away from the suggestion. If no fall was seen (`sees_fall`), the default
    takes its place, or a tenth of the rate that diverged if that is less.

    Args:
      test: the range test, whose suggestion by the rule "minimum" is used.
      number: number of rates.
      default: default learning rate of the optimizer.

    Returns:
      (number,) float64, equally spaced in the logarithm.
    """
    found = test.suggestions["minimum"]
    if found is not None and sees_fall(test):
        middle = min(max(math.sqrt(found * default), found / FARTHEST), found * FARTHEST)
    else:
        middle = default if test.diverged_at is None else min(default, test.diverged_at / FARTHEST)
    low, high = (factor * middle for factor in RATE_SPAN)
    return np.geomspace(low, high, number) if number > 1 else np.array([math.sqrt(low * high)])


def rate_of_least_loss(losses: Mapping[float, float], best: float, number: int) -> float | None:
    """Return the rate near the best one at which the loss has its minimum, or None if that is not a new rate.

    It is the vertex of the parabola through the logarithms of the losses at the best rate and its two neighbours, over
    the logarithm of the rate. If a neighbour is missing, it is half a step above the best rate, even if that is the
    lowest one: short runs prefer rates that are too low.

    Args:
      losses: rate to finite loss.
      best: the rate of the least loss.
      number: number of the rates that `trial_rates` returned, which are equally spaced in the logarithm.
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
