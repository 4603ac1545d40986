"""D-Adaptation against plain NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from quadratic import STEPS, gradient_at
from units import (
    DECAYS,
    EPS,
    INF,
    NAN,
    OPEN,
    RATES,
    WEIGHTS,
    Case,
    refuse,
    refuse_flags,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
    refuse_rates,
)

import lrx


def d_adaptation(theta: np.ndarray, b1: float, b2: float, eps: float, d0: float, decay: float) -> np.ndarray:
    m, v, s, numerator, d, root = 0.0, 0.0, np.zeros(6), 0.0, d0, np.sqrt(b2)
    for t in range(STEPS):
        g, a = gradient_at(theta, t), d
        accumulated = a * np.sum(g * s / (np.sqrt(v) + eps))
        m, v, s = b1 * m + (1 - b1) * a * g, b2 * v + (1 - b2) * g**2, root * s + (1 - root) * a * g
        numerator = root * numerator + (1 - root) * accumulated
        d = max(d, numerator / ((1 - root) * np.abs(s).sum()))
        theta = theta - m / (np.sqrt(v) + eps) - decay * a * theta
    return theta


CASES = {
    "d_adaptation": Case(
        lrx.d_adaptation,
        {"d0": 0.01},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": OPEN,
            "eps": EPS,
            "weight_decay": WEIGHTS,
            "d0": (1e-6, 1e-3, 0.1),
        },
        coupled=True,
        rolls_on=True,
    ),
    "d_adaptation with its switches": Case(
        lrx.d_adaptation,
        {"learning_rate": 1.0, "d0": 1e-3, "bias_correction": True, "weight_decay": 0.1, "growth_rate": 1.1},
        {"growth_rate": (1.01, 1.1, 2.0)},
        needs_params=True,
        decays=True,
        coupled=True,
        rolls_on=True,
    ),
}


REFUSED = [
    *refuse_moment_dtypes(lrx.d_adaptation),
    *refuse_learning_rates(lrx.d_adaptation),
    *refuse_rates(lrx.d_adaptation, "eps"),
    *refuse_rates(lrx.d_adaptation, "weight_decay"),
    *refuse(lrx.d_adaptation, "d0", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.d_adaptation, "growth_rate", (1.0, NAN), ValueError, "must be a finite number > 1, got {0}="),
    *refuse_fractions(lrx.d_adaptation, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.d_adaptation, "b2", "(0, 1)", (0.0, 1.0)),
    *refuse_flags(lrx.d_adaptation, "bias_correction"),
]


DESCENDS = {
    "d_adaptation": lambda: lrx.d_adaptation(),
}


REFERENCE = {
    "d_adaptation": (lrx.d_adaptation(), lambda x: d_adaptation(x, 0.9, 0.999, 1e-8, 1e-6, 0.0)),
    "d_adaptation, other": (
        lrx.d_adaptation(b1=0.5, b2=0.99, d0=1e-3, weight_decay=0.1),
        lambda x: d_adaptation(x, 0.5, 0.99, 1e-8, 1e-3, 0.1),
    ),
}


def test_before_the_first_update_the_rate_is_that_of_the_initial_estimate():
    state = lrx.d_adaptation(0.5, d0=1e-3).init(jnp.ones(2))
    np.testing.assert_allclose(lrx.learning_rate(state), 0.5 * 1e-3, rtol=1e-6)


def test_the_bias_correction_of_d_adaptation_counts_from_the_first_rate_above_zero():
    tx = lrx.d_adaptation(lrx.tabulated([0.0, 0.0, 1.0]), d0=0.1, bias_correction=True)
    later, at_once = tx.init(jnp.zeros(2)), lrx.d_adaptation(1.0, d0=0.1, bias_correction=True).init(jnp.zeros(2))
    for _ in range(3):
        _, later = tx.update(jnp.ones(2), later)
    _, at_once = lrx.d_adaptation(1.0, d0=0.1, bias_correction=True).update(jnp.ones(2), at_once)
    assert lrx.learning_rate(later) == lrx.learning_rate(at_once)
