"""DoG against plain NumPy."""

from __future__ import annotations

import numpy as np
from quadratic import STEPS, gradient_at
from units import (
    EPS,
    INF,
    NAN,
    RATES,
    Case,
    refuse,
    refuse_flags,
    refuse_learning_rates,
)

import lrx


def dog(theta: np.ndarray, reps: float, eps: float, averaging: float) -> np.ndarray:
    start, r, total, mean = theta, reps * (1 + np.linalg.norm(theta)), 0.0, theta
    for t in range(STEPS):
        g = gradient_at(theta, t)
        r, total = max(r, float(np.linalg.norm(theta - start))), total + g @ g
        theta = theta - r / np.sqrt(total + eps) * g
        w = (1 + averaging) / (t + 1 + averaging)
        mean = (1 - w) * mean + w * theta
    return mean


CASES = {
    "dog": Case(
        lrx.dog,
        {"learning_rate": 1.0, "reps_rel": 0.1},
        {"learning_rate": RATES, "reps_rel": (1e-6, 1e-2, 0.1), "eps": EPS},
        needs_params=True,
        coupled=True,
    ),
    "dog by layers": Case(
        lrx.dog,
        {"learning_rate": 1.0, "reps_rel": 0.1, "layerwise": True, "averaging": None},
        {"learning_rate": RATES},
        needs_params=True,
        coupled=True,
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.dog),
    *refuse(lrx.dog, "reps_rel", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.dog, "eps", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse_flags(lrx.dog, "layerwise"),
    *refuse(lrx.dog, "averaging", (-0.1, NAN), ValueError, "must be a finite number >= 0, got {0}="),
]


DESCENDS = {
    "dog": lambda: lrx.dog(),
}


REFERENCE = {
    "dog": (lrx.dog(reps_rel=1e-4), lambda x: dog(x, 1e-4, 1e-8, 8.0)),
    "dog, other": (lrx.dog(reps_rel=1e-2, eps=0.1, averaging=1.0), lambda x: dog(x, 1e-2, 0.1, 1.0)),
}
