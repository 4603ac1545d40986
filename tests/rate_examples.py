"""Rates, gradients and a run that the tests of the algebra share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.rates import Controller, Schedule

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}


GRADS = {"w": jnp.array([0.3, -0.7]), "b": jnp.array(2.0)}


def cosine() -> Schedule:
    return lrx.cosine_decay(0.1, decay_steps=20)


def plateau(**arguments: Any) -> Controller:
    return lrx.reduce_on_plateau(**{"factor": 0.5, "patience": 0, **arguments})


def halving(count: jax.Array) -> jax.Array:
    """Return a rate as a user writes a schedule, at the top level of a module."""
    return 0.5 ** (count + 1.0)


def leaves_equal(left: Any, right: Any, rtol: float = 0.0) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=0.0)


def run(tx: Any, losses: list[float], params: Any = PARAMS, grads: Any = GRADS) -> tuple[list[Any], list[float]]:
    """Return the updates and the rates of a run with constant gradients."""
    state = tx.init(params)
    updates, rates = [], []
    for loss in losses:
        update, state = tx.update(grads, state, params, value=jnp.float32(loss))
        updates.append(update)
        rates.append(float(lrx.learning_rate(state)))
    return updates, rates


COUNTS = np.arange(40)
