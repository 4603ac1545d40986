"""The rules of a range test: smooth the curve, find where it diverges, and suggest rates to start with."""

from __future__ import annotations

import bisect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RULES = ("steepest", "valley", "minimum", "slide", "divergence")
RULE_TITLES = {"minimum": "minimum / 10", "divergence": "divergence / 10"}
VALLEY = (0.1, 0.9)  # of the fall: a curve may fall slowly for decades before and after it
RISE = 0.25  # of the fall, above the lowest loss: a higher loss belongs to the rise
NOISE = 2.0  # standard deviations of the smoothed gain
FEWEST = 6  # gains from which a deviation is estimated, at least
SLIDE_WIDTH = 0.15  # of the ladder
SLIDE_CHANGE = 0.1  # of the steepest slope; below it two slopes count as equal


def divergence_bound(best: Any, first: Any, factor: float) -> Any:
    """Return the loss above which a run has diverged."""
    gain = 0.1 * (first - best)
    numpy = jnp if isinstance(best, jax.Array) else np
    return best + (factor - 1) * numpy.maximum(numpy.abs(best), gain)


def smooth(losses: np.ndarray, beta: float, factor: float) -> np.ndarray:
    """Smooth the finite values of a curve, without a lag and without a bias at its ends."""
    result = np.full(losses.shape, np.nan)
    known = np.isfinite(losses)
    values = losses[known].astype(np.float64)
    if not len(values):
        return result
    values = _without_outliers(values)
    values = np.minimum(values, np.maximum(divergence_bound(values.min(), values[0], factor), values[0]))
    sums, weights = np.zeros(len(values)), np.zeros(len(values))
    for direction in (slice(None), slice(None, None, -1)):
        total = weight = 0.0
        for index, value in list(enumerate(values))[direction]:
            total, weight = beta * total + value, beta * weight + 1
            sums[index] += total
            weights[index] += weight
    sums, weights = sums - values, weights - 1  # each value was counted in both directions
    result[known] = sums / weights
    return result


def smooth_apart(losses: np.ndarray, beta: float, factor: float) -> np.ndarray:
    """Smooth a curve separately before and after it rises for good, so that it does not rise before the losses do.

    It rises for good after the last loss that exceeds the lowest one by at most a quarter of the fall. The rules use
    `smooth`, whose minimum stays away from the rise.
    """
    known = np.flatnonzero(np.isfinite(losses))
    result = np.full(losses.shape, np.nan)
    if not len(known):
        return result
    values = _without_outliers(losses[known].astype(np.float64))
    begun, lowest = np.max(values[: max(1, len(values) // 10)]), np.min(values)
    rise = int(np.flatnonzero(values <= lowest + RISE * (begun - lowest))[-1]) + 1
    for part in (known[:rise], known[rise:]):
        result[part] = smooth(losses[part], beta, factor)
    return result


def blow_up_place(losses: np.ndarray, limit: float) -> int:
    """Return the index of the first of the losses that stay too high up to the end of a run that diverged.

    Args:
      losses: the finite ones; later ones, which were not finite or not computed, count as infinite.
      limit: a loss above it is too high.
    """
    values = _without_outliers(np.append(losses.astype(np.float64), [np.inf, np.inf]))
    place = len(values)
    while place > 0 and values[place - 1] > min(limit, np.finfo(np.float64).max):
        place -= 1
    return place


def noise_of(gains: np.ndarray, smoothed: np.ndarray, beta: float) -> float:
    """Return how far above zero the maximum of smoothed gains may lie by chance.

    The deviation of a gain is estimated from the median deviation of the differences between neighbours, up to the
    maximum; smoothing leaves sqrt((1 - beta) / (1 + beta)) of it.
    """
    known = np.isfinite(gains) & np.isfinite(smoothed)
    values = gains[known].astype(np.float64)
    highest = int(np.argmax(smoothed[known])) if len(values) else 0
    near = values[max(0, highest + 1 - max(FEWEST, round(0.1 * len(values)))) : highest + 1]
    if len(near) < 3:
        return 0.0
    differences = np.diff(near)
    deviation = 1.4826 * np.median(np.abs(differences - np.median(differences))) / np.sqrt(2)
    return float(NOISE * deviation * np.sqrt((1 - beta) / (1 + beta)))


def suggest(rates: np.ndarray, smoothed: np.ndarray, diverged_at: float | None) -> dict[str, float | None]:
    """Return rule to rate for each of the `RULES`, which `RangeTest` describes; None if a rule finds none."""
    found: dict[str, float | None] = dict.fromkeys(RULES)
    # On a ladder of plateaus a rate has several losses; the last one counts.
    is_last = np.append(np.diff(rates) > 0, True) & np.isfinite(smoothed)
    ladder, losses = rates[is_last].astype(np.float64), smoothed[is_last].astype(np.float64)
    lowest = int(np.argmin(losses)) if len(losses) else 0
    if lowest == 0:  # the loss never fell
        return found
    if diverged_at is not None:
        found["divergence"] = diverged_at / 10
    logs = np.log10(ladder)
    found["minimum"] = float(ladder[lowest] / 10)
    slopes = np.gradient(losses, logs)
    found["steepest"] = float(ladder[int(np.argmin(slopes[: lowest + 1]))])
    descent = _longest_descent(losses[: lowest + 1])
    fallen = (losses[descent[0]] - losses[descent]) / max(losses[descent[0]] - losses[descent[-1]], 1e-30)
    first, last = (np.interp(part, fallen, logs[descent]) for part in VALLEY)
    found["valley"] = float(10 ** ((first + last) / 2))
    width = max(1, round(SLIDE_WIDTH * len(losses)))
    change = SLIDE_CHANGE * np.abs(slopes[: lowest + 1]).max()
    for right in range(lowest, width - 1, -1):
        if abs(slopes[right] - slopes[right - width]) <= change:
            break
        found["slide"] = float(ladder[right - width])
    return found


def _without_outliers(losses: np.ndarray) -> np.ndarray:
    """Replace each loss by the median of three; each end takes the median of its neighbour."""
    if len(losses) < 3:
        return losses
    return np.median(losses[np.clip(np.arange(len(losses)), 1, len(losses) - 2)[:, None] + [-1, 0, 1]], axis=1)


def _longest_descent(losses: np.ndarray) -> list[int]:
    """Return the indices of the longest strictly decreasing subsequence."""
    ends: list[int] = []  # index at which the best descent of each length ends
    keys: list[float] = []  # minus the losses there, increasing
    came_from = [-1] * len(losses)
    for place, loss in enumerate(losses):
        length = bisect.bisect_left(keys, -loss)
        came_from[place] = ends[length - 1] if length else -1
        if length == len(ends):
            ends.append(place)
            keys.append(-loss)
        else:
            ends[length], keys[length] = place, -loss
    descent = [ends[-1]]
    while came_from[descent[-1]] >= 0:
        descent.append(came_from[descent[-1]])
    return descent[::-1]
