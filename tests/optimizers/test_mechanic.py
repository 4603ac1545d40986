"""Mechanic against plain NumPy."""

from __future__ import annotations

import numpy as np
from quadratic import STEPS, gradient_at
from units import (
    EPS,
    INF,
    NAN,
    WEIGHTS,
    Case,
    refuse,
    refuse_links,
    refuse_rates,
)

import lrx


def mechanic(x: np.ndarray, rate: float, betas: tuple[float, ...], s_init: float, lam: float, eps: float) -> np.ndarray:
    beta, start, delta = np.array(betas), x, np.zeros(6)
    s, r, m, v = (np.zeros(len(betas)) for _ in range(4))
    for t in range(STEPS):
        g = gradient_at(x, t)
        h = (g + lam * s.sum() * np.linalg.norm(g) / (np.linalg.norm(x) + eps) * x) @ delta
        delta = delta + rate * g
        r = beta * r + np.clip(h, -m, m) * s
        m, v = np.maximum(beta * m, abs(h) + eps), beta**2 * v + h**2
        s = (s_init / len(betas) * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        x = start - s.sum() * delta
    return x


CASES = {
    "mechanic": Case(
        lrx.mechanic,
        {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9), "betas": (0.9, 0.99), "s_init": 0.1},
        {"s_init": (1e-6, 1e-3, 0.1), "weight_decay": WEIGHTS, "eps": EPS},
        needs_params=True,
        coupled=True,
    ),
}


REFUSED = [
    *refuse_rates(lrx.mechanic, "weight_decay"),
    *refuse(lrx.mechanic, "s_init", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.mechanic, "eps", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse_links(lrx.mechanic),
    (lrx.mechanic, {"betas": (0.9, 1.0)}, ValueError, "^betas must be numbers in \\[0, 1\\), got betas="),
    (lrx.mechanic, {"betas": ()}, ValueError, "^betas must be a list of at least one number"),
]


DESCENDS = {
    "mechanic": lambda: lrx.mechanic(lrx.sgd(0.1)),
}


REFERENCE = {
    "mechanic": (
        lrx.mechanic(lrx.sgd(0.1)),
        lambda x: mechanic(x, 0.1, tuple(1 - 0.1**i for i in range(1, 7)), 1e-6, 1e-2, 1e-8),
    ),
    "mechanic, other": (
        lrx.mechanic(lrx.sgd(0.1), betas=(0.9, 0.99), s_init=1e-2, weight_decay=0.1),
        lambda x: mechanic(x, 0.1, (0.9, 0.99), 1e-2, 0.1, 1e-8),
    ),
}
