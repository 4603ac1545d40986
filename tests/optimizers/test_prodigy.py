"""Prodigy against plain NumPy and the authors' code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import NOISE, SCALES, START, STEPS, gradient_at
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


def prodigy(
    theta: np.ndarray, b1: float, b2: float, eps: float, d0: float, decay: float, growth: float = np.inf
) -> np.ndarray:
    start, m, v, s, numerator, d, b3, largest = theta, 0.0, 0.0, np.zeros(6), 0.0, d0, np.sqrt(b2), d0
    for t in range(STEPS):
        g, a = gradient_at(theta, t), d
        numerator = b3 * numerator + d / d0 * a * np.sum(g * (start - theta))
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
        s = b3 * s + d / d0 * a * g
        estimate = numerator / np.abs(s).sum()
        d = max(d, estimate) if d == d0 else d
        largest = max(largest, estimate)
        d = min(largest, d * growth)
        theta = theta - a * m / (np.sqrt(v) + d * eps) - decay * a * theta
    return theta


CASES = {
    "prodigy": Case(
        lrx.prodigy,
        {"learning_rate": 1.0, "d0": 0.01},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": OPEN,
            "b3": OPEN,
            "eps": EPS,
            "weight_decay": WEIGHTS,
            "d0": (1e-6, 1e-3, 0.1),
            "d_coef": (0.1, 1.0, 10.0),
        },
        needs_params=True,
        coupled=True,
    ),
    "prodigy with its switches": Case(
        lrx.prodigy,
        {
            "learning_rate": 1.0,
            "d0": 1e-3,
            "bias_correction": True,
            "safeguard_warmup": True,
            "weight_decay": 0.1,
            "growth_rate": 1.1,
            "d_coef": 10.0,
        },
        {"growth_rate": (1.01, 1.1, 2.0)},
        needs_params=True,
        decays=True,
        coupled=True,
    ),
}


REFUSED = [
    *refuse_moment_dtypes(lrx.prodigy),
    *refuse_learning_rates(lrx.prodigy),
    *refuse_rates(lrx.prodigy, "eps"),
    *refuse_rates(lrx.prodigy, "weight_decay"),
    *refuse(lrx.prodigy, "d0", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.prodigy, "d_coef", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.prodigy, "growth_rate", (1.0, NAN), ValueError, "must be a finite number > 1, got {0}="),
    *refuse_fractions(lrx.prodigy, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.prodigy, "b2", "(0, 1)", (0.0, 1.0)),
    *refuse_fractions(lrx.prodigy, "b3", "(0, 1)", (0.0, 1.0)),
    *refuse_flags(lrx.prodigy, "bias_correction"),
    *refuse_flags(lrx.prodigy, "safeguard_warmup"),
]


DESCENDS = {
    "prodigy": lambda: lrx.prodigy(),
}


REFERENCE = {
    "prodigy": (lrx.prodigy(d0=1e-3), lambda x: prodigy(x, 0.9, 0.999, 1e-8, 1e-3, 0.0)),
    "prodigy, other": (
        lrx.prodigy(b1=0.5, b2=0.99, d0=1e-3, weight_decay=0.1),
        lambda x: prodigy(x, 0.5, 0.99, 1e-8, 1e-3, 0.1),
    ),
    "prodigy, growing slowly": (
        lrx.prodigy(d0=1e-3, growth_rate=1.1),
        lambda x: prodigy(x, 0.9, 0.999, 1e-8, 1e-3, 0.0, 1.1),
    ),
}


def prodigy_with_rates(
    theta: np.ndarray, rates: np.ndarray, b1: float, b2: float, d0: float, correct: bool, safeguard: bool
) -> np.ndarray:
    """Apply the authors' code, which leaves everything as it is while the rate is 0."""
    start, m, v, s, numerator, d, largest, b3, k = theta, 0.0, 0.0, np.zeros(6), 0.0, d0, d0, np.sqrt(b2), 0
    for t, rate in enumerate(rates):
        g = gradient_at(theta, t)
        correction = np.sqrt(1 - b2 ** (k + 1)) / (1 - b1 ** (k + 1)) if correct else 1.0
        a, gathered, length = d * rate * correction, b3 * numerator, 0.0
        if rate > 0:
            gathered += d / d0 * a * np.sum(g * (start - theta))
            m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
            s = b3 * s + d / d0 * (d if safeguard else a) * g
            length = np.abs(s).sum()
        if length == 0:
            continue
        numerator, estimate = gathered, gathered / length
        d = max(d, estimate) if d == d0 else d
        largest = max(largest, estimate)
        d = min(largest, d * 1.2)
        theta = theta - a * m / (np.sqrt(v) + d * 1e-8)
        k += 1
    return theta


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("safeguard", [False, True])
def test_prodigy_at_a_rate_of_zero_leaves_everything_alone_as_the_authors_code(correct, safeguard):
    rates = np.concatenate([np.zeros(2), np.linspace(0, 1, 4), np.zeros(3), np.ones(STEPS - 9)])
    expected = prodigy_with_rates(START, rates, 0.9, 0.999, 0.1, correct, safeguard)
    tx = lrx.prodigy(lrx.tabulated(rates), d0=0.1, growth_rate=1.2, bias_correction=correct, safeguard_warmup=safeguard)
    theta, state = jnp.asarray(START, jnp.float32), tx.init(jnp.asarray(START, jnp.float32))
    update = jax.jit(tx.update)
    for t in range(STEPS):
        gradient = jnp.asarray(SCALES, jnp.float32) * theta + jnp.asarray(NOISE[t], jnp.float32)
        updates, state = update(gradient, state, theta)
        theta = theta + updates
    np.testing.assert_allclose(theta, expected, rtol=1e-3, atol=1e-5)
    assert int(state.moved_count) == np.count_nonzero(rates)
