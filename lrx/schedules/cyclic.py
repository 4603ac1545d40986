"""Cyclical learning rates: the rate climbs and falls between two bounds, again and again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.schedules._time import as_steps, power
from lrx.transformations import factory


@factory
def cyclical(
    min_value: ArrayLike,
    max_value: ArrayLike,
    half_period_steps: ArrayLike,
    *,
    down_steps: ArrayLike | None = None,
    mode: str = "triangular",
    decay_rate: ArrayLike = 1.0,
) -> Schedule:
    """Raise the rate from one bound to the other and lower it again, cycle after cycle.

    With s the half period, c = floor(t / 2s) the number of finished cycles and w_t the triangle wave, 0 at the ends
    of a cycle and 1 in its middle, the rate is `alpha_t = min + (max - min) w_t k_t`, where k_t is 1 for
    "triangular", 2^-c for "triangular2" and gamma^t for "exp_range".

    Args:
      min_value: the lower bound, the rate at step 0, >= 0; may be traced.
      max_value: the upper bound, >= `min_value`; may be traced.
      half_period_steps: s, the paper's stepsize, in optimizer steps, >= 1; may be traced. The paper uses 2 to 10
        epochs, and lets runs end with a cycle.
      down_steps: the length of the way down if it differs from the way up, >= 1; may be traced.
      mode: "triangular", "triangular2" (the amplitude halves with each cycle) or "exp_range" (it shrinks by gamma
        with each step).
      decay_rate: gamma, in (0, 1], for "exp_range" only; may be traced.

    Returns:
      A `Schedule`, which has no end. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a bound is negative or not finite, the bounds are the wrong way round, a duration is not a whole
        number >= 1, `mode` is unknown, `decay_rate` is not in (0, 1], or is given for another mode.

    Differs from the source:
      The paper's text lets gamma^t shrink both bounds, its code the amplitude only; this is the code.

    Source:
      L. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv:1506.01186, section 3.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.cyclical(0.0, 1.0, 2, mode="triangular2")(jnp.arange(9)))
      [0.   0.5  1.   0.5  0.   0.25 0.5  0.25 0.  ]
    """
    _checks.non_negative("min_value", min_value)
    _checks.non_negative("max_value", max_value)
    _checks.not_above("min_value", min_value, "max_value", max_value, "swap them")
    _checks.steps("half_period_steps", half_period_steps)
    if down_steps is not None:
        _checks.steps("down_steps", down_steps)
    _checks.one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
    _checks.near_one("decay_rate", decay_rate)
    _checks.in_interval("decay_rate", decay_rate, "(0, 1]", "it multiplies the amplitude at each step")
    if mode != "exp_range" and _checks.is_concrete(decay_rate) and float(decay_rate) != 1.0:
        raise ValueError(f'decay_rate must be 1 in mode={mode!r}, got decay_rate={decay_rate}: use mode="exp_range".')

    def rate_at(count: jax.Array) -> jax.Array:
        up = jnp.maximum(as_steps(half_period_steps), 1)
        down = up if down_steps is None else jnp.maximum(as_steps(down_steps), 1)
        # up + down could exceed 2^31 for one very long cycle, so time is counted in unsigned integers.
        period = up.astype(jnp.uint32) + down.astype(jnp.uint32)
        cycle = count.astype(jnp.uint32) // period
        position = count.astype(jnp.uint32) - cycle * period
        climbing = position < up.astype(jnp.uint32)
        height = jnp.where(climbing, position, period - position).astype(jnp.float32)
        length = jnp.where(climbing, up, down).astype(jnp.float32)
        depth = jnp.where(climbing, up - position.astype(jnp.int32), position.astype(jnp.int32) - up)
        wave = height / length
        if mode == "triangular":
            return jnp.float32(max_value) * wave + jnp.float32(min_value) * (depth.astype(jnp.float32) / length)
        shrink = power(0.5, cycle.astype(jnp.int32)) if mode == "triangular2" else power(decay_rate, count)
        return jnp.float32(min_value) + (jnp.float32(max_value) - jnp.float32(min_value)) * wave * shrink

    return Schedule.of_counts(
        rate_at,
        peak=max_value,
    )
