"""Exact time: what every schedule computes from integer step counts.

Schedules are right to 1e-6 relative at every step up to 2^31 - 1 in float32. Three habits make that possible: time is
counted in int32 and turned into a fraction once, what remains is counted as well as what has passed (so that nothing
cancels near an end), and powers of a known base come from a table in float64.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.rates import ArrayLike


def as_steps(steps: ArrayLike) -> jax.Array:
    """A duration as int32; what is not traced has been checked to be a whole number."""
    return jnp.asarray(int(steps) if _checks.is_concrete(steps) and jnp.ndim(steps) == 0 else steps).astype(jnp.int32)


def passed_and_left(count: jax.Array, steps: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The fractions t/T and 1 - t/T, each right to rounding, both within [0, 1]."""
    total = as_steps(steps)
    passed = jnp.clip(count, 0, total)
    # A traced T of 0 is over at once; the maximum keeps 0/0 out.
    length = jnp.maximum(total, 1).astype(jnp.float32)
    left = jnp.where(total > 0, (total - passed).astype(jnp.float32) / length, 0.0)
    return jnp.where(total > 0, passed.astype(jnp.float32) / length, 1.0), left


def power(base: ArrayLike, exponent: jax.Array) -> jax.Array:
    """base^exponent for 0 <= base and a whole exponent >= 0, right to 5e-6 relative.

    A known base is raised bit by bit from float64 powers base^(2^j): in float32, rounding the base alone would cost a
    relative error of exponent * 3e-8.
    """
    if not _checks.is_concrete(base) or jnp.ndim(base) != 0:
        return jnp.power(jnp.asarray(base, jnp.float32), exponent.astype(jnp.float32))
    result = jnp.ones(jnp.shape(exponent), jnp.float32)
    factor = float(base)
    for bit in range(31):
        if factor == 1.0:
            break
        # Beyond the range of float32 the product is 0 (or infinite) whatever the other bits say.
        rounded = factor if factor > 1e-37 else 0.0
        rounded = rounded if rounded < 3e38 else math.inf
        result = jnp.where((exponent >> bit) & 1 == 1, result * jnp.float32(rounded), result)
        factor = factor * factor if factor < 1e150 else math.inf
    return result
