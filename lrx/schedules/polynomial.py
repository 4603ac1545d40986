"""Polynomial decay: the rate falls as a power of the remaining time (in `linear_decay`, the first power)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule, largest
from lrx.schedules._time import time_fractions
from lrx.transformations import factory


@factory
def linear_decay(init_value: ArrayLike, decay_steps: ArrayLike, *, end_value: ArrayLike = 0.0) -> Schedule:
    """Decay the rate along a straight line, then hold the end value.

    After a short warm-up this is the best of the fixed schedules on most problems, and worst-case optimal for the last
    iterate. The rate is `alpha_t = alpha_end + (alpha_0 - alpha_end) (1 - t/T)` for `t < T`, `alpha_end` from
    there on.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      decay_steps: T, in optimizer steps, >= 1; may be traced.
      end_value: alpha_end, >= 0; may be traced. Above `init_value` the line rises.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, or `decay_steps` is not a whole number >= 1.

    Source:
      A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, 2023, arXiv:2310.07831.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.linear_decay(0.1, decay_steps=4)(jnp.arange(6)))
      [0.1   0.075 0.05  0.025 0.    0.   ]
    """
    _checks.non_negative("init_value", init_value)
    _checks.steps("decay_steps", decay_steps)
    _checks.non_negative("end_value", end_value)

    def rate_at(count: jax.Array) -> jax.Array:
        passed, left = time_fractions(count, decay_steps)
        return jnp.float32(init_value) * left + jnp.float32(end_value) * passed

    return Schedule.of_counts(
        rate_at,
        peak=largest(init_value, end_value),
    )


@factory
def polynomial_decay(
    init_value: ArrayLike, decay_steps: ArrayLike, *, power: ArrayLike = 1.0, end_value: ArrayLike = 0.0
) -> Schedule:
    """Decay the rate as a power of the remaining time, then hold the end value.

    The rate is `alpha_t = alpha_end + (alpha_0 - alpha_end) (1 - t/T)^p` for `t < T`, `alpha_end` from there on. With
    p = 1 it is `linear_decay`; above 1 it falls early, below 1 late.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      decay_steps: T, in optimizer steps, >= 1; may be traced.
      power: p, > 0, dimensionless; may be traced.
      end_value: alpha_end, >= 0; may be traced. Above `init_value` the rate rises.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, `decay_steps` is not a whole number >= 1, or `power` is not > 0.

    Source:
      L.-C. Chen et al., "DeepLab", 2016, arXiv:1606.00915, section 4.1.2 (the "poly" policy, p = 0.9).

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.polynomial_decay(0.1, 4, power=2.0)(jnp.arange(6)))
      [0.1     0.05625 0.025   0.00625 0.      0.     ]
    """
    _checks.non_negative("init_value", init_value)
    _checks.steps("decay_steps", decay_steps)
    _checks.positive("power", power, "the rate would not fall; for a constant rate take constant")
    _checks.non_negative("end_value", end_value)

    def rate_at(count: jax.Array) -> jax.Array:
        passed, left = time_fractions(count, decay_steps)
        exponent = jnp.float32(power)
        remaining = jnp.where(left > 0, jnp.power(left, exponent), 0.0)
        # 1 - (1 - u)^p without the cancellation near u = 0, where an end above the beginning would drown it.
        gone = jnp.where(passed < 0.5, -jnp.expm1(exponent * jnp.log1p(-jnp.minimum(passed, 0.5))), 1.0 - remaining)
        return jnp.float32(init_value) * remaining + jnp.float32(end_value) * gone

    return Schedule.of_counts(
        rate_at,
        peak=largest(init_value, end_value),
    )
