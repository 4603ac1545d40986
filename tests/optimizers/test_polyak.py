"""Polyak's step size against plain NumPy, and its bounds."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from quadratic import STEPS, gradient_at, loss_at
from units import (
    INF,
    NAN,
    Case,
    refuse,
    refuse_words,
)

import lrx


def polyak(x: np.ndarray, c: float, cap: float, lowest: float) -> np.ndarray:
    for t in range(STEPS):
        g = gradient_at(x, t)
        x = x - min(cap, max(loss_at(x, t) - lowest, 0) / (c * (g @ g))) * g
    return x


CASES = {
    "polyak": Case(
        lrx.polyak,
        {"max_rate": 10.0},
        {"c": (0.1, 0.5, 1.0), "max_rate": (1e-3, 0.1, 10.0), "f_min": (-1.0, 0.0, 0.9)},
        needs_value=True,
        coupled=True,
    ),
    "polyak with growth": Case(
        lrx.polyak,
        {"max_rate": 10.0, "f_min": 0.94, "growth": 1.1},
        {"growth": (1.0, 1.1, 2.0)},
        needs_value=True,
        coupled=True,
    ),
}


REFUSED = [
    *refuse(lrx.polyak, "c", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.polyak, "max_rate", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.polyak, "growth", (0.9, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse(lrx.polyak, "f_min", (NAN, INF), ValueError, "must be a finite number, got {0}="),
    *refuse_words(lrx.polyak, "feedback"),
]


DESCENDS = {
    "polyak": lambda: lrx.polyak(),
}


REFERENCE = {
    "polyak": (lrx.polyak(f_min=0.9), lambda x: polyak(x, 0.5, 1.0, 0.9)),
}


def test_polyak_starts_again_after_a_rate_of_zero() -> None:
    tx = lrx.polyak(max_rate=0.8, f_min=1.0, growth=1.5)
    state, rates = tx.init(jnp.ones(1)), []
    for value in (1.1, 0.9, 9.0, 9.0):
        _, state = tx.update(jnp.ones(1), state, value=value)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.2, 0.0, 0.8, 0.8], rtol=1e-5)


def test_polyak_lets_the_rate_grow_by_no_more_than_its_factor() -> None:
    tx = lrx.polyak(max_rate=0.8, growth=1.5)
    state, rates = tx.init(jnp.ones(1)), []
    for value in (0.1, 9.0, 9.0, 9.0, 9.0):
        _, state = tx.update(jnp.ones(1), state, value=value)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.2, 0.3, 0.45, 0.675, 0.8], rtol=1e-5)
