"""Exponential decay: the rate shrinks by the same factor in every step."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule, largest
from lrx.schedules._time import as_steps, power
from lrx.transformations import factory


@factory
def exponential_decay(
    init_value: ArrayLike,
    decay_rate: ArrayLike,
    *,
    transition_steps: ArrayLike = 1,
    staircase: bool = False,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    """Shrink the rate by a factor over regular intervals, smoothly or in steps.

    The rate is `alpha_t = max(alpha_0 r^(t / s), alpha_end)`, or, with `staircase=True`, `max(alpha_0 r^floor(t / s),
    alpha_end)`. With r = e^-k and s = 1 this is `alpha_0 e^(-k t)`.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      decay_rate: r, in (0, 1]; may be traced.
      transition_steps: s, the optimizer steps over which the rate shrinks by r, >= 1; may be traced.
      staircase: shrink at whole multiples of s only, which is `step_decay` with a floor.
      end_value: alpha_end, the floor, >= 0 and <= `init_value`; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, `end_value` is above `init_value`, `decay_rate` is not in (0, 1],
        or `transition_steps` is not a whole number >= 1.
      TypeError: if `staircase` is not a bool.

    Source:
      M. Abadi et al., "TensorFlow", 2016, arXiv:1603.04467, whose `exponential_decay` gave the parameters their names.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.exponential_decay(0.8, 0.25, transition_steps=2, end_value=0.1)(jnp.arange(5)))
      [0.8 0.4 0.2 0.1 0.1]
    """
    _checks.non_negative("init_value", init_value)
    _checks.near_one("decay_rate", decay_rate)
    _checks.in_interval("decay_rate", decay_rate, "(0, 1]", "it multiplies the rate")
    _checks.steps("transition_steps", transition_steps)
    _checks.flag("staircase", staircase)
    _checks.non_negative("end_value", end_value)
    _checks.not_above("end_value", end_value, "init_value", init_value, "the floor would lie above the rate")

    def rate_at(count: jax.Array) -> jax.Array:
        length = jnp.maximum(as_steps(transition_steps), 1)
        if staircase:
            shrunk = power(decay_rate, count // length)
        elif _checks.is_concrete(decay_rate) and _checks.is_concrete(transition_steps):
            shrunk = power(float(decay_rate) ** (1 / int(transition_steps)), count)
        else:
            # The whole and fractional parts of the exponent are kept apart, so that only a number below 1 is rounded.
            whole, rest = count // length, (count % length).astype(jnp.float32) / length.astype(jnp.float32)
            shrunk = power(decay_rate, whole) * jnp.power(jnp.float32(decay_rate), rest)
        return jnp.maximum(jnp.float32(init_value) * shrunk, jnp.float32(end_value))

    return Schedule.of_counts(
        rate_at,
        peak=largest(init_value, end_value),
    )
