"""Numbers that claims are made of: slopes and rises of curves, correlations, and bounds around a value."""

from __future__ import annotations

import numpy as np


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Return the slope of log y over log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of two samples; 0 if all values of either are equal."""
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(np.corrcoef(x, y)[0, 1])


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation, in which equal values have the mean of their ranks."""
    from scipy.stats import rankdata  # of JAX's own dependencies

    return correlation(rankdata(x), rankdata(y))


def around(value: float, part: float) -> tuple[float, float]:
    """Return bounds that are apart from a value by a part of it, below and above."""
    return (1 - part) * value, (1 + part) * value


def rising_parts(losses: np.ndarray, every: int) -> np.ndarray:
    """Return which part of the steps raises the loss, of each `every` steps; whether the last one does is not known.

    Args:
      losses: (steps,) losses before each step.
      every: a divisor of the number of steps.
    """
    rises = np.diff(losses, append=losses[-1]) > 0
    return rises.reshape(-1, every).mean(axis=-1)


def median_of_last(values: np.ndarray, part: float) -> np.ndarray:
    """Return the median over the last part of each curve, (curves,), of values (curves, points)."""
    return np.median(values[:, -round(part * values.shape[1]) :], axis=1)
