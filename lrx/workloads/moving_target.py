"""A target that jumps: f_t(theta) = s_t |theta - c_t|^2 / 2 with noisy gradients, whose scale s_t may fall half way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lrx._numbers import ArrayLike

PERIOD = 100  # steps between jumps
DIMENSIONS = 10
NOISE = 1.0  # of the gradient, beside jumps of variance 2
SHRUNK = 0.01  # the scale of the gradients in the second half, if they shrink


class MovingTarget(NamedTuple):
    """The functions that follow a target needs.

    Attributes:
      gradient: `(theta, key, count) -> (0, gradient)`; the value is left out.
      error: `(theta, count) -> mean square distance from the target`.
    """

    gradient: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    error: Callable[[jax.Array, jax.Array], jax.Array]


def moving_target(steps: int, seed: jax.Array, shrinks: ArrayLike = False) -> MovingTarget:
    """Build the target of a run, a point of `DIMENSIONS` normal coordinates that is drawn anew every `PERIOD` steps.

    Args:
      steps: length of the run.
      seed: of the jumps; it may be traced.
      shrinks: whether gradients become smaller by the factor `SHRUNK` half way; it may be traced.
    """
    jumps = jax.random.normal(jax.random.fold_in(jax.random.key(1), seed), (steps // PERIOD + 1, DIMENSIONS))

    def gradient(theta: jax.Array, key: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = jnp.where(jnp.asarray(shrinks) & (count >= steps // 2), SHRUNK, 1.0)
        noise = NOISE * jax.random.normal(key, theta.shape)
        return jnp.float32(0), scale * (theta - jumps[count // PERIOD] + noise)

    def error(theta: jax.Array, count: jax.Array) -> jax.Array:
        return jnp.mean((theta - jumps[count // PERIOD]) ** 2)

    return MovingTarget(gradient, error)
