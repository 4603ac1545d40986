"""Rates, gradients and updates that the tests of reading and editing a state share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

import lrx
import lrx.editing
import lrx.rate_paths
from lrx.rates import Controller

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.float32(0.5)}


GRADS = {"w": jnp.array([0.3, -0.7]), "b": jnp.array(2.0)}


LABELS = {"w": "body", "b": "head"}


def linear() -> lrx.Schedule:
    return lrx.linear_decay(0.8, decay_steps=8)


def plateau(**arguments: Any) -> Controller:
    return lrx.reduce_on_plateau(**{"factor": 0.5, "patience": 0, **arguments})


def advance(tx: Any, state: Any, steps: int = 1, **extra_args: Any) -> Any:
    for _ in range(steps):
        _, state = tx.update(GRADS, state, PARAMS, **extra_args)
    return state


def rate_of(state: Any) -> float:
    return round(float(lrx.learning_rate(state)), 6)


ADAM_KEYS = ["adam/b1", "adam/b2", "adam/first_weight", "adam/second_weight"]
