"""Schedule-free SGD and AdamW against plain NumPy."""

from __future__ import annotations

import numpy as np
from quadratic import STEPS, gradient_at
from units import (
    DECAYS,
    EPS,
    RATES,
    WEIGHTS,
    Case,
    refuse_fractions,
    refuse_learning_rates,
    refuse_rates,
)

import lrx


def schedule_free(
    x: np.ndarray, gamma: float, beta: float, lam: float, r: float, adam: tuple[float, ...]
) -> np.ndarray:
    z, total, v = x, 0.0, np.zeros(6)
    for t in range(STEPS):
        y = (1 - beta) * z + beta * x
        g = gradient_at(y, t)
        if adam:
            v = adam[0] * v + (1 - adam[0]) * g**2
            g = g / (np.sqrt(v / (1 - adam[0] ** (t + 1))) + adam[1])
        z = z - gamma * (g + lam * y)
        weight = (t + 1) ** r * gamma**2
        total += weight
        x = (1 - weight / total) * x + weight / total * z
    return x


CASES = {
    "schedule_free_sgd": Case(
        lrx.schedule_free_sgd,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "b1": (0.5, 0.9, 1.0),
            "weight_decay": WEIGHTS,
            "r": (0.0, 1.0, 2.0),
        },
        needs_params=True,
        rolls_on=True,
    ),
    "schedule_free_sgd under a warmup": Case(
        lrx.schedule_free_sgd,
        {"learning_rate": lrx.warmup(0.1, 4)},
        {"weight_power": (0.0, 1.0, 2.0)},
        needs_params=True,
        rolls_on=True,
    ),
    "schedule_free_adamw": Case(
        lrx.schedule_free_adamw,
        {"learning_rate": lrx.warmup(0.1, 4)},
        {
            "learning_rate": RATES,
            "b1": (0.5, 0.9, 1.0),
            "b2": DECAYS,
            "eps": EPS,
            "weight_decay": WEIGHTS,
            "r": (0.0, 1.0, 2.0),
            "weight_power": (0.0, 1.0, 2.0),
        },
        needs_params=True,
        rolls_on=True,
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.schedule_free_sgd),
    *refuse_learning_rates(lrx.schedule_free_adamw),
    *refuse_rates(lrx.schedule_free_adamw, "eps"),
    *refuse_rates(lrx.schedule_free_sgd, "weight_decay"),
    *refuse_rates(lrx.schedule_free_sgd, "r"),
    *refuse_rates(lrx.schedule_free_sgd, "weight_power"),
    *refuse_rates(lrx.schedule_free_adamw, "weight_decay"),
    *refuse_rates(lrx.schedule_free_adamw, "r"),
    *refuse_rates(lrx.schedule_free_adamw, "weight_power"),
    *refuse_fractions(lrx.schedule_free_adamw, "b2", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.schedule_free_sgd, "b1", "(0, 1]", (0.0, 1.1)),
    *refuse_fractions(lrx.schedule_free_adamw, "b1", "(0, 1]", (0.0, 1.1)),
]


DESCENDS = {
    "schedule_free_sgd": lambda: lrx.schedule_free_sgd(0.1),
    "schedule_free_adamw": lambda: lrx.schedule_free_adamw(0.1, weight_decay=0.0),
}


REFERENCE = {
    "schedule_free_sgd": (lrx.schedule_free_sgd(0.1), lambda x: schedule_free(x, 0.1, 0.9, 0.0, 0.0, ())),
    "schedule_free_sgd, other": (
        lrx.schedule_free_sgd(0.3, b1=0.5, weight_decay=0.1, r=1.0),
        lambda x: schedule_free(x, 0.3, 0.5, 0.1, 1.0, ()),
    ),
    "schedule_free_adamw": (
        lrx.schedule_free_adamw(0.1, weight_decay=0.1),
        lambda x: schedule_free(x, 0.1, 0.9, 0.1, 0.0, (0.999, 1e-8)),
    ),
}
