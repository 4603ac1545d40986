"""Shapes of schedules: at which steps they are kept, and the two numbers by which refined ones are judged."""

from __future__ import annotations

import numpy as np

POINTS = 200  # of the norms and schedules that are kept


def spread_counts(steps: int) -> np.ndarray:
    """Return counts from the first to the last step, at most POINTS of them."""
    return np.unique(np.round(np.linspace(0, steps - 1, POINTS)).astype(int))


def peak(refined: np.ndarray, places: np.ndarray) -> float:
    """Return the part of the run after which a schedule is highest."""
    return float(places[np.argmax(refined)])


def late(refined: np.ndarray, places: np.ndarray) -> float:
    """Return a schedule after 0.9 of the run."""
    return float(np.interp(0.9, places, refined))
