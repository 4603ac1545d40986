"""Armijo's line search: its rule, and where no step is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import STEPS, gradient_at, loss_at
from units import (
    INF,
    NAN,
    Case,
    refuse,
    refuse_fractions,
)

import lrx


def armijo(x: np.ndarray, c: float, backtrack: float, cap: float) -> np.ndarray:
    for t in range(STEPS):
        g, rate = gradient_at(x, t), cap
        while loss_at(x - rate * g, t) > loss_at(x, t) - c * rate * (g @ g):
            rate *= backtrack
        x = x - rate * g
    return x


CASES = {
    "armijo": Case(
        lrx.armijo,
        {"max_evaluations": 5},
        {
            "c": (1e-3, 0.1, 0.9),
            "backtrack": (0.1, 0.5, 0.9),
            "max_rate": (0.01, 0.1, 1.0),
            "max_evaluations": (1, 5, 20),
        },
        needs_params=True,
        needs_value=True,
        coupled=True,
        searches=True,
    ),
    "armijo with growth": Case(
        lrx.armijo,
        {"backtrack": 0.3, "growth": 2.0},
        {"growth": (1.0, 1.5, 3.0)},
        needs_params=True,
        needs_value=True,
        coupled=True,
        searches=True,
    ),
}


REFUSED = [
    *refuse(lrx.armijo, "max_rate", (0.0, -1.0, NAN, INF), ValueError, "must be a finite number > 0, got {0}="),
    *refuse(lrx.armijo, "growth", (0.9, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse_fractions(lrx.armijo, "c", "(0, 1)", (0.0, 1.0)),
    *refuse_fractions(lrx.armijo, "backtrack", "(0, 1)", (0.0, 1.0)),
    *refuse(lrx.armijo, "max_evaluations", (0, 2.5, NAN), ValueError, "must be a whole number of evaluations >= 1"),
]


DESCENDS = {
    "armijo": lambda: lrx.armijo(),
}


REFERENCE = {
    "armijo": (lrx.armijo(), lambda x: armijo(x, 0.1, 0.9, 1.0)),
}


def searched(value_fn: Callable[[jax.Array], Any], **arguments: Any) -> tuple[float, Any]:
    """Return the rate and the report of one search from 1 along a gradient of 1, where the loss is 1."""
    tx = lrx.armijo(backtrack=0.5, **arguments)
    one = jnp.ones([])
    updates, state = tx.update(one, tx.init(one), one, value=1.0, value_fn=value_fn)
    np.testing.assert_array_equal(updates, -lrx.learning_rate(state))
    return float(lrx.learning_rate(state)), lrx.monitor(state)


def test_armijo_makes_no_step_where_none_decreases_the_loss() -> None:
    rate, report = searched(lambda theta: theta * 0 + 2.0, max_evaluations=7)
    assert rate == 0.0
    assert report["armijo/evaluations"] == 7
    assert not report["armijo/accepted"]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_armijo_refuses_a_loss_that_is_not_finite(bad: float) -> None:
    rate, report = searched(lambda theta: jnp.where(theta < 0.7, bad, theta - 0.1))
    assert rate == 0.25
    assert report["armijo/evaluations"] == 3


def test_armijo_starts_where_growth_leads_from_the_rate_before() -> None:
    tx, params = lrx.armijo(backtrack=0.5, growth=1.5), jnp.ones([])
    state, rates = tx.init(params), []
    for most in (0.25, 9.0, 9.0, 9.0, 9.0, 9.0):  # the largest rate that decreases the loss
        _, state = tx.update(params, state, params, value=1.0, value_fn=lambda theta, m=most: 2.0 * (1 - theta > m))
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.25, 0.375, 0.5625, 0.84375, 1.0, 1.0], rtol=1e-5)
