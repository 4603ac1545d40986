"""A bowl whose lowest point is another in each minibatch, and range tests on it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.training import Batches, Workload

CURVATURES = np.array([1.0, 4.0, 10.0], np.float32)  # a rate above 2 / 10 diverges


def bowl(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
    del key
    noise, offset = batch[:3], batch[3]
    return offset + 0.5 * jnp.sum(jnp.asarray(CURVATURES) * (params - noise) ** 2)


def noisy(number: int = 400, offset: float = 0.0) -> np.ndarray:
    """Batches that move the lowest point, and shift the loss."""
    noise = 0.1 * np.random.default_rng(0).normal(size=(number, 3))
    return np.concatenate([noise, np.full((number, 1), offset)], axis=1).astype(np.float32)


BATCHES = noisy()


def ones(key: jax.Array) -> jax.Array:
    del key
    return jnp.ones(3)


def laddered(**arguments: Any) -> lrx.tuning.RangeTest:
    """A range test of SGD on a bowl."""
    loss_fn, init_fn = arguments.pop("loss_fn", bowl), arguments.pop("init_fn", ones)
    workload = Workload.from_functions(loss_fn, init_fn, Batches.stack(arguments.pop("batches", BATCHES)))
    return lrx.range_test(workload, **({"tx": lrx.sgd} | arguments))
