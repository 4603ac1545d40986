"""MoMo and MoMo-Adam against plain NumPy."""

from __future__ import annotations

import numpy as np
from quadratic import STEPS, gradient_at, loss_at
from units import (
    DECAYS,
    EPS,
    INF,
    NAN,
    RATES,
    WEIGHTS,
    Case,
    refuse,
    refuse_flags,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
    refuse_rates,
    refuse_words,
)

import lrx


def momo(x: np.ndarray, alpha: float, beta: float, lam: float) -> np.ndarray:
    f_mean, gamma, d = 0.0, 0.0, np.zeros(6)
    for t in range(STEPS):
        f, g, b = loss_at(x, t), gradient_at(x, t), beta if t else 0.0
        d, f_mean, gamma = b * d + (1 - b) * g, b * f_mean + (1 - b) * f, b * gamma + (1 - b) * (g @ x)
        tau = min(alpha, max((1 + alpha * lam) * (f_mean - gamma) + d @ x, 0) / (d @ d))
        x = x / (1 + alpha * lam) - tau * d
    return x


def momo_with_its_own_bound(x: np.ndarray, alpha: float, beta: float, lam: float, bound: float) -> np.ndarray:
    f_mean, gamma, d, lowest, shrink = 0.0, 0.0, np.zeros(6), bound, 1 + alpha * lam
    for t in range(STEPS):
        f, g, b = loss_at(x, t), gradient_at(x, t), beta if t else 0.0
        d, f_mean, gamma = b * d + (1 - b) * g, b * f_mean + (1 - b) * f, b * gamma + (1 - b) * (g @ x)
        cap = shrink * (f_mean - gamma) + d @ x
        if cap < shrink * bound:  # the model says that the bound is too high
            bound = max(cap / (2 * shrink), lowest)
        tau = min(alpha, max(cap - shrink * bound, 0) / (d @ d))
        bound = max(f_mean + d @ x - gamma - tau * (d @ d) / 2, lowest)
        x = x / shrink - tau * d
    return x


def momo_adam(x: np.ndarray, alpha: float, b1: float, b2: float, eps: float, bound: float) -> np.ndarray:
    f_mean, gamma, d, v = 0.0, 0.0, np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        f, g = loss_at(x, t), gradient_at(x, t)
        d, v = b1 * d + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        f_mean, gamma = b1 * f_mean + (1 - b1) * f, b1 * gamma + (1 - b1) * (g @ x)
        c, scale = 1 - b1 ** (t + 1), eps + np.sqrt(v / (1 - b2 ** (t + 1)))
        tau = min(alpha / c, max(f_mean - c * bound - gamma + d @ x, 0) / (d @ (d / scale)))
        x = x - tau * d / scale
    return x


CASES = {
    "momo": Case(
        lrx.momo,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "momentum": DECAYS,
            "lower_bound": (0.0, 0.3, 0.6),
            "weight_decay": WEIGHTS,
        },
        needs_params=True,
        needs_value=True,
        coupled=True,
    ),
    "momo with its switch": Case(
        lrx.momo,
        {"learning_rate": 1.0, "adapt_lower_bound": True, "weight_decay": 0.1},
        {"lower_bound": (-1.0, 0.0, 0.9)},
        needs_params=True,
        needs_value=True,
        decays=True,
        coupled=True,
    ),
    "momo_adam": Case(
        lrx.momo_adam,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": DECAYS,
            "eps": EPS,
            "lower_bound": (0.0, 0.3, 0.6),
            "weight_decay": WEIGHTS,
        },
        needs_params=True,
        needs_value=True,
        coupled=True,
    ),
}


REFUSED = [
    *refuse_moment_dtypes(lrx.momo),
    *refuse_moment_dtypes(lrx.momo_adam),
    *refuse_learning_rates(lrx.momo),
    *refuse_learning_rates(lrx.momo_adam),
    *refuse_rates(lrx.momo, "weight_decay"),
    *refuse_rates(lrx.momo_adam, "weight_decay"),
    *refuse(lrx.momo_adam, "eps", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.momo, "lower_bound", (NAN, INF), ValueError, "must be a finite number, got {0}="),
    *refuse(lrx.momo_adam, "lower_bound", (NAN, INF), ValueError, "must be a finite number, got {0}="),
    *refuse_fractions(lrx.momo, "momentum", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.momo_adam, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.momo_adam, "b2", "[0, 1)", (-0.1, 1.0)),
    *refuse_flags(lrx.momo, "adapt_lower_bound"),
    *refuse_flags(lrx.momo_adam, "adapt_lower_bound"),
    *refuse_words(lrx.momo, "feedback"),
    *refuse_words(lrx.momo_adam, "feedback"),
]


DESCENDS = {
    "momo": lambda: lrx.momo(),
    "momo_adam": lambda: lrx.momo_adam(0.1),
}


REFERENCE = {
    "momo": (lrx.momo(), lambda x: momo(x, 1.0, 0.9, 0.0)),
    "momo, other": (lrx.momo(0.2, momentum=0.5, weight_decay=0.1), lambda x: momo(x, 0.2, 0.5, 0.1)),
    "momo, its own bound": (
        lrx.momo(0.5, adapt_lower_bound=True, lower_bound=-1.0, weight_decay=0.1),
        lambda x: momo_with_its_own_bound(x, 0.5, 0.9, 0.1, -1.0),
    ),
    "momo_adam": (lrx.momo_adam(), lambda x: momo_adam(x, 1e-2, 0.9, 0.999, 1e-8, 0.0)),
    "momo_adam, other": (
        lrx.momo_adam(1.0, b1=0.5, b2=0.9, lower_bound=0.9),
        lambda x: momo_adam(x, 1.0, 0.5, 0.9, 1e-8, 0.9),
    ),
}
