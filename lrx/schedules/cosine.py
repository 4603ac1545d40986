"""Cosine annealing: the rate follows half a period of a cosine, once or again and again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule, largest
from lrx.schedules._time import period_at, power, time_fractions
from lrx.transformations import factory


def half_cosine(start: ArrayLike, end: ArrayLike, passed: jax.Array, left: jax.Array) -> jax.Array:
    """Interpolate from `start` to `end` along half a cosine, at the fraction `passed` = 1 - `left` of the way.

    end + (start - end) (1 + cos(pi u)) / 2 = start sin^2(pi (1 - u) / 2) + end sin^2(pi u / 2), where nothing cancels.
    """
    falling, rising = jnp.square(jnp.sin(jnp.pi / 2 * left)), jnp.square(jnp.sin(jnp.pi / 2 * passed))
    return jnp.float32(start) * falling + jnp.float32(end) * rising


@factory
def cosine_decay(init_value: ArrayLike, decay_steps: ArrayLike, *, end_value: ArrayLike = 0.0) -> Schedule:
    """Anneal the rate along half a cosine, then hold the end value.

    The rate is `alpha_t = alpha_min + (alpha_max - alpha_min) (1 + cos(pi t / T)) / 2` for `t < T`, and stays at
    `alpha_min` from there on (other libraries' cosine rises again).

    Args:
      init_value: alpha_max, the rate at step 0, >= 0; may be traced.
      decay_steps: T, in optimizer steps, >= 1; may be traced.
      end_value: alpha_min, >= 0; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, or `decay_steps` is not a whole number >= 1.

    Source:
      I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, equation 5 without restarts.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.cosine_decay(0.1, decay_steps=4)(jnp.array([0, 2, 4, 1000])))
      [0.1  0.05 0.   0.  ]
    """
    _checks.non_negative("init_value", init_value)
    _checks.steps("decay_steps", decay_steps)
    _checks.non_negative("end_value", end_value)

    def rate_at(count: jax.Array) -> jax.Array:
        return half_cosine(init_value, end_value, *time_fractions(count, decay_steps))

    return Schedule.of_counts(
        rate_at,
        peak=largest(init_value, end_value),
    )


@factory
def cosine_restarts(
    init_value: ArrayLike,
    period_steps: ArrayLike,
    *,
    period_mult: ArrayLike = 1,
    end_value: ArrayLike = 0.0,
    restart_mult: ArrayLike = 1.0,
) -> Schedule:
    """Anneal along half a cosine, then start again: SGDR's warm restarts.

    Period i lasts `T_i = round(P m^i)` steps, and T_cur steps after its beginning the rate is
    `alpha_t = alpha_min + (alpha_max k^i - alpha_min) (1 + cos(pi T_cur / T_i)) / 2`. A restart is the first step of
    its period, so `alpha_min` itself is never reached. Run until the end of a period, where the rate is low.

    Args:
      init_value: alpha_max, the rate at step 0, >= 0; may be traced.
      period_steps: P, the length of the first period in optimizer steps, >= 1; may be traced.
      period_mult: m, the ratio of the lengths of successive periods, >= 1; may be traced (if it is just above 1, a loop
        then takes one iteration for each period).
      end_value: alpha_min, >= 0; may be traced.
      restart_mult: k, the ratio of successive peaks, in (0, 1]; may be traced. A peak does not fall below `end_value`.

    Returns:
      A `Schedule`, which has no end. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, `period_steps` is not a whole number >= 1, `period_mult` is
        below 1, or `restart_mult` is not in (0, 1].

    Differs from the source:
      Restarts come by the step; the source counts periods in epochs. k is our addition.

    Source:
      I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, arXiv:1608.03983, equation 5.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> schedule = lrx.cosine_restarts(0.8, 10, period_mult=2, restart_mult=0.5)
      >>> print(schedule(jnp.array([0, 10, 30, 70])))
      [0.8 0.4 0.2 0.1]
    """
    _checks.non_negative("init_value", init_value)
    _checks.steps("period_steps", period_steps)
    _checks.near_one("period_mult", period_mult)
    _checks.at_least("period_mult", period_mult, 1, "periods may not shrink; restart_mult lowers the peaks")
    _checks.non_negative("end_value", end_value)
    _checks.near_one("restart_mult", restart_mult)
    _checks.in_interval("restart_mult", restart_mult, "(0, 1]", "it multiplies the peak at each restart")

    def rate_at(count: jax.Array) -> jax.Array:
        index, passed, left = period_at(count, period_steps, period_mult)
        peak = jnp.float32(init_value) * power(restart_mult, index)
        peak = jnp.maximum(peak, jnp.minimum(jnp.float32(end_value), jnp.float32(init_value)))
        return half_cosine(peak, end_value, passed, left)

    return Schedule.of_counts(
        rate_at,
        peak=largest(init_value, end_value),
    )
