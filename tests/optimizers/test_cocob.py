"""COCOB against plain NumPy."""

from __future__ import annotations

import numpy as np
from quadratic import STEPS, gradient_at
from units import (
    EPS,
    INF,
    NAN,
    Case,
    refuse,
)

import lrx


def cocob(w: np.ndarray, alpha: float, eps: float) -> np.ndarray:
    first, largest, magnitudes, reward, theta = w, np.full(6, eps), np.zeros(6), np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        g = gradient_at(w, t)
        largest, magnitudes = np.maximum(largest, np.abs(g)), magnitudes + np.abs(g)
        reward, theta = np.maximum(reward - g * (w - first), 0), theta - g
        w = first + theta / (largest * np.maximum(magnitudes + largest, alpha * largest)) * (largest + reward)
    return w


CASES = {
    "cocob": Case(lrx.cocob, {}, {"alpha": (1.0, 10.0, 100.0), "eps": EPS}, needs_params=True),
}


REFUSED = [
    *refuse(lrx.cocob, "alpha", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.cocob, "eps", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
]


DESCENDS = {
    "cocob": lambda: lrx.cocob(),
}


REFERENCE = {
    "cocob": (lrx.cocob(), lambda x: cocob(x, 100.0, 1e-8)),
    "cocob, other": (lrx.cocob(alpha=5.0, eps=0.1), lambda x: cocob(x, 5.0, 0.1)),
}
