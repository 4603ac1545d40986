"""Hypergradient descent against plain NumPy, and scaled by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import STEPS, gradient_at
from units import (
    DECAYS,
    EPS,
    RATES,
    Case,
    refuse_flags,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
    refuse_rates,
)

import lrx


def hypergradient_sgd(x: np.ndarray, alpha: float, hyper: float, mu: float, nesterov: bool) -> np.ndarray:
    u, v = np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        g = gradient_at(x, t)
        alpha = max(alpha + hyper * (g @ u), 0.0)
        v = mu * v + g
        u = g + mu * v if nesterov else v
        x = x - alpha * u
    return x


def hypergradient_adam(x: np.ndarray, alpha: float, hyper: float, b1: float, b2: float, eps: float) -> np.ndarray:
    u, m, v = np.zeros(6), np.zeros(6), np.zeros(6)
    for t in range(STEPS):
        g = gradient_at(x, t)
        alpha = max(alpha + hyper * (g @ u), 0.0)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        x = x - alpha * u
    return x


CASES = {
    "hypergradient_sgd": Case(
        lrx.hypergradient_sgd,
        {"learning_rate": 0.1, "hyper_rate": 0.01, "momentum": 0.5, "nesterov": True},
        {
            "learning_rate": RATES,
            "hyper_rate": (0.0, 1e-3, 1e-2),
            "momentum": DECAYS,
            "min_value": (0.0, 0.09, 0.2),
        },
        coupled=True,
    ),
    "hypergradient_sgd without momentum": Case(
        lrx.hypergradient_sgd, {"learning_rate": 0.1, "hyper_rate": 0.01}, {"learning_rate": RATES}, coupled=True
    ),
    "hypergradient_adam": Case(
        lrx.hypergradient_adam,
        {"learning_rate": 0.1, "hyper_rate": 1e-3},
        {
            "learning_rate": RATES,
            "hyper_rate": (0.0, 1e-3, 1e-2),
            "b1": DECAYS,
            "b2": DECAYS,
            "eps": EPS,
            "eps_root": EPS,
            "min_value": (0.0, 0.09, 0.2),
        },
        coupled=True,
    ),
}


REFUSED = [
    *refuse_rates(lrx.hypergradient_adam, "eps_root"),
    *refuse_moment_dtypes(lrx.hypergradient_adam),
    *refuse_learning_rates(lrx.hypergradient_sgd),
    *refuse_learning_rates(lrx.hypergradient_adam),
    *refuse_rates(lrx.hypergradient_sgd, "hyper_rate"),
    *refuse_rates(lrx.hypergradient_sgd, "min_value"),
    *refuse_rates(lrx.hypergradient_adam, "hyper_rate"),
    *refuse_rates(lrx.hypergradient_adam, "min_value"),
    *refuse_rates(lrx.hypergradient_adam, "eps"),
    *refuse_fractions(lrx.hypergradient_sgd, "momentum", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.hypergradient_adam, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.hypergradient_adam, "b2", "[0, 1)", (-0.1, 1.0)),
    *refuse_flags(lrx.hypergradient_sgd, "nesterov"),
    (
        lrx.hypergradient_sgd,
        {"nesterov": True, "momentum": None},
        ValueError,
        "^nesterov needs momentum, got nesterov=True, momentum=None",
    ),
]


DESCENDS = {
    "hypergradient_sgd": lambda: lrx.hypergradient_sgd(0.01, hyper_rate=1e-4),
    "hypergradient_adam": lambda: lrx.hypergradient_adam(0.03, hyper_rate=1e-5),
}


REFERENCE = {
    "hypergradient_sgd": (lrx.hypergradient_sgd(), lambda x: hypergradient_sgd(x, 1e-3, 1e-3, 0.0, False)),
    "hypergradient_sgd, momentum": (
        lrx.hypergradient_sgd(0.01, momentum=0.5),
        lambda x: hypergradient_sgd(x, 0.01, 1e-3, 0.5, False),
    ),
    "hypergradient_sgd, nesterov": (
        lrx.hypergradient_sgd(0.01, momentum=0.5, nesterov=True),
        lambda x: hypergradient_sgd(x, 0.01, 1e-3, 0.5, True),
    ),
    "hypergradient_adam": (
        lrx.hypergradient_adam(0.01, hyper_rate=1e-4),
        lambda x: hypergradient_adam(x, 0.01, 1e-4, 0.9, 0.999, 1e-8),
    ),
}


@pytest.mark.parametrize("make", [lrx.hypergradient_sgd, lrx.hypergradient_adam])
def test_a_rate_scaled_by_hand_scales_what_a_hypergradient_has_learned(make: Callable[..., Any]) -> None:
    tx, gradient = make(1e-3, hyper_rate=0.1), jnp.ones(2)
    state = tx.init(gradient)
    for _ in range(3):
        _, state = tx.update(gradient, state)
    _, plain = tx.update(gradient, state)
    _, halved = tx.update(gradient, lrx.scale_learning_rate(state, 0.5))
    assert float(lrx.learning_rate(plain)) > 0.1
    np.testing.assert_allclose(lrx.learning_rate(halved), lrx.learning_rate(plain) / 2, rtol=1e-5)
    _, stopped = tx.update(gradient, lrx.scale_learning_rate(state, 0.0))
    assert lrx.learning_rate(stopped) == 0
