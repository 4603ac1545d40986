"""Inverse decay: the rate falls as a power of the time that has passed, and never ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.schedules._time import as_steps
from lrx.transformations import factory


@factory
def inverse_time_decay(init_value: ArrayLike, decay_rate: ArrayLike, *, power: ArrayLike = 1.0) -> Schedule:
    """Decay the rate like Robbins and Monro's gains: so slowly that their sum is infinite.

    The rate is `alpha_t = alpha_0 / (1 + k t)^p`. For p in (1/2, 1] the rates add up to infinity and their squares do
    not, which makes stochastic approximation converge; for p = 1 the gain sequence is `a_n = c / n` in the
    limit, with c = alpha_0 / k.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      decay_rate: k, per step, >= 0; may be traced.
      power: p, > 0, dimensionless; may be traced.

    Returns:
      A `Schedule`, which has no end. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `init_value` or `decay_rate` is negative or not finite, or `power` is not > 0.

    Source:
      H. Robbins, S. Monro, "A Stochastic Approximation Method", Ann. Math. Stat. 22(3), 1951, condition (6) and (27).

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.inverse_time_decay(0.1, 1.0)(jnp.array([0, 1, 3, 9])))
      [0.1   0.05  0.025 0.01 ]
    """
    _checks.non_negative("init_value", init_value)
    _checks.non_negative("decay_rate", decay_rate, "the rate would grow, and pass through infinity")
    _checks.positive("power", power, "the rate would not fall; for a constant rate take constant")

    def rate_at(count: jax.Array) -> jax.Array:
        grown = 1.0 + jnp.float32(decay_rate) * count.astype(jnp.float32)
        if _checks.is_concrete(power) and float(power) in (0.5, 1.0):
            return jnp.float32(init_value) / (grown if float(power) == 1.0 else jnp.sqrt(grown))
        return jnp.float32(init_value) * jnp.power(grown, -jnp.float32(power))

    return Schedule.of_counts(
        rate_at,
        peak=init_value,
    )


@factory
def inverse_sqrt_decay(peak_value: ArrayLike, warmup_steps: ArrayLike) -> Schedule:
    """Warm up along a line, then decay as the inverse square root of time.

    The rate is `alpha_t = alpha* min(t / W, sqrt(W / t))`: it reaches `alpha*` at step W, and the length of the
    run does not matter.

    Args:
      peak_value: alpha*, the rate at step W, >= 0; may be traced.
      warmup_steps: W, in optimizer steps, >= 1; may be traced.

    Returns:
      A `Schedule`, which has no end. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `peak_value` is negative or not finite, or `warmup_steps` is not a whole number >= 1.

    Differs from the source:
      The source ties the peak to the width of the model, alpha* = (d W)^(-1/2), and counts steps from 1.

    Source:
      A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762, equation 3.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.inverse_sqrt_decay(0.1, warmup_steps=4)(jnp.array([0, 2, 4, 16, 64])))
      [0.    0.05  0.1   0.05  0.025]
    """
    _checks.non_negative("peak_value", peak_value)
    _checks.steps("warmup_steps", warmup_steps)

    def rate_at(count: jax.Array) -> jax.Array:
        length = jnp.maximum(as_steps(warmup_steps), 1)
        time, end = count.astype(jnp.float32), length.astype(jnp.float32)
        falling = jnp.sqrt(end / jnp.maximum(time, 1.0))
        return jnp.float32(peak_value) * jnp.where(count < length, time / end, falling)

    return Schedule.of_counts(
        rate_at,
        peak=peak_value,
    )
