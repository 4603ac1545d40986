"""A constant rate is the same at every step."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from units import (
    Case,
    refuse_rates,
)

import lrx


def test_constant_is_the_value_at_every_step():
    np.testing.assert_array_equal(lrx.constant(0.25)(np.asarray([0, 1, 10**9, 2**31 - 1])), [0.25] * 4)
    assert lrx.constant(0.25)(7).shape == ()


def test_constant_descends_along_the_gradient():
    tx = lrx.constant(0.25)
    updates, state = tx.update({"w": jnp.asarray([2.0, -4.0])}, tx.init(None))
    np.testing.assert_array_equal(updates["w"], [-0.5, 1.0])
    assert state.count == 1


# ---------------------------------------------------------------------- what the laws hold it to


def constant_formula(t: np.ndarray, *, value: Any) -> np.ndarray:
    return np.full(t.shape, float(value))


CASES = {
    "constant": Case(lrx.constant, {"value": 0.3}, {"value": (0.0, 0.1, 2.0)}, endless=True),
}


REFUSED = [
    *refuse_rates(lrx.constant, "value"),
]


REFERENCE = {
    "constant": constant_formula,
}
