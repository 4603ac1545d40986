"""Polynomial decay: the rate falls as a power of the remaining time, by the first power for `linear_decay`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.rates import ArrayLike, Schedule
from lrx.schedules._time import passed_and_left


def linear_decay(init_value: ArrayLike, decay_steps: ArrayLike, *, end_value: ArrayLike = 0.0) -> Schedule:
    """Decay the rate along a straight line, then hold its end.

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
        passed, left = passed_and_left(count, decay_steps)
        return jnp.float32(init_value) * left + jnp.float32(end_value) * passed

    return Schedule(
        rate_at,
        factory=linear_decay,
        arguments={"init_value": init_value, "decay_steps": decay_steps, "end_value": end_value},
    )
