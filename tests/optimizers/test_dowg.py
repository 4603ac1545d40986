"""DoWG against plain NumPy."""

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
    refuse_learning_rates,
)

import lrx


def dowg(theta: np.ndarray, r0: float, eps: float) -> np.ndarray:
    start, squared, total = theta, r0**2, 0.0
    for t in range(STEPS):
        g = gradient_at(theta, t)
        squared = max(squared, float(np.sum((theta - start) ** 2)))
        total += squared * (g @ g)
        theta = theta - squared / (np.sqrt(total) + eps) * g
    return theta


CASES = {
    "dowg": Case(
        lrx.dowg,
        {"learning_rate": 1.0},
        {"learning_rate": RATES, "r0": (1e-3, 1e-2, 0.1), "eps": EPS},
        needs_params=True,
        coupled=True,
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.dowg),
    *refuse(lrx.dowg, "r0", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.dowg, "eps", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
]


DESCENDS = {
    "dowg": lambda: lrx.dowg(0.3),
}


REFERENCE = {
    "dowg": (lrx.dowg(), lambda x: dowg(x, 1e-2, 1e-4)),
}
