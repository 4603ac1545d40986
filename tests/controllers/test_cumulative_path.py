"""The cumulative path against plain NumPy."""

from __future__ import annotations

import numpy as np
from quadratic import STEPS, gradient_at
from units import (
    INF,
    NAN,
    Case,
    refuse,
    refuse_fractions,
)

import lrx


def cumulative_path(x: np.ndarray, alpha: float, c: float) -> np.ndarray:
    path, scale, mu = np.zeros(6), 1.0, c / (2 - c)
    damping = 2 * 2 * mu * (1 - c) / np.sqrt(((1 - c) ** 2 + 1) * 6)
    for t in range(STEPS):
        g = gradient_at(x, t)
        path = (1 - c) * path + c * g / np.linalg.norm(g)
        x = x - alpha * scale * g
        scale *= np.exp(damping * (path @ path / mu - 1))
    return x


CASES = {
    "cumulative_path": Case(
        lrx.cumulative_path,
        {"c": 0.5, "damping": 1.0},
        {
            "c": (0.1, 0.2, 0.9),
            "damping": (0.1, 1.0, 2.0),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.1, 9.0),
            "start_after": (0, 3, 5),
        },
        coupled=True,
    ),
    "cumulative_path with its own damping": Case(lrx.cumulative_path, {}, {"c": (0.1, 0.2, 0.9)}, coupled=True),
}


REFUSED = [
    *refuse(lrx.cumulative_path, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"),
    *refuse(lrx.cumulative_path, "damping", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.cumulative_path, "max_factor", (0.9, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse_fractions(lrx.cumulative_path, "c", "(0, 1)", (0.0, 1.0)),
    *refuse_fractions(lrx.cumulative_path, "min_factor", "(0, 1]", (0.0, 1.1)),
]


DESCENDS = {
    "cumulative_path": lambda: lrx.sgd(0.01 * lrx.cumulative_path(max_factor=3.0)),
}


REFERENCE = {
    "cumulative_path": (lrx.sgd(0.1 * lrx.cumulative_path()), lambda x: cumulative_path(x, 0.1, 0.2)),
}
