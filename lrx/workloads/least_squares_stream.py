"""Least squares on a stream: each step sees a fresh example, and the expected risk of every schedule is known exactly.

An example is z ~ N(0, H), y = <z, x*> + xi with xi ~ N(0, sigma^2), for f(x) = E (y - <z, x>)^2 / 2; H is diagonal and
x* = (1, ..., 1).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def fresh_gradient(diagonal: jax.Array, noise: float) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Return a function from x and a key to the loss of a fresh example and its gradient.

    Args:
      diagonal: (d,) that of H.
      noise: sigma.
    """

    def gradient(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        normal = jax.random.normal(key, (len(diagonal) + 1,))
        z = jnp.sqrt(diagonal) * normal[:-1]
        residual = jnp.sum(z * (x - 1)) - noise * normal[-1]
        return 0.5 * residual**2, residual * z

    return gradient


def excess_risk(diagonal: jax.Array, x: jax.Array) -> jax.Array:
    """Return f(x) - f(x*)."""
    return 0.5 * jnp.sum(diagonal * (x - 1) ** 2)


@jax.jit
def expected_risk(diagonal: jax.Array, noise: float, rates: jax.Array) -> jax.Array:
    """Return the exact expectation of the excess risk of SGD from x = 0 after 1, 2, ..., T steps with these rates.

    It follows, for m_i = E (x_i - x*_i)^2, from

        m_i <- m_i - 2 eta lambda_i m_i + eta^2 (2 lambda_i^2 m_i + lambda_i sum_j lambda_j m_j + sigma^2 lambda_i).

    Args:
      diagonal: (d,) that of H.
      noise: sigma.
      rates: (T,) eta of each step.
    """

    def one(m: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        made = 2 * diagonal**2 * m + diagonal * jnp.sum(diagonal * m) + noise**2 * diagonal
        m = m - 2 * rate * diagonal * m + rate**2 * made
        return m, 0.5 * jnp.sum(diagonal * m)

    return jax.lax.scan(one, jnp.ones_like(diagonal), rates)[1]
