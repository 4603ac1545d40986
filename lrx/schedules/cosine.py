"""Cosine annealing: the rate follows half a period of a cosine."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.rates import ArrayLike, Schedule
from lrx.schedules._time import passed_and_left


def half_cosine(start: ArrayLike, end: ArrayLike, passed: jax.Array, left: jax.Array) -> jax.Array:
    """From `start` to `end` along half a cosine, at the fraction `passed` = 1 - `left` of the way.

    end + (start - end) (1 + cos(pi u)) / 2 = start sin^2(pi (1 - u) / 2) + end sin^2(pi u / 2), where nothing cancels.
    """
    falling, rising = jnp.square(jnp.sin(jnp.pi / 2 * left)), jnp.square(jnp.sin(jnp.pi / 2 * passed))
    return jnp.float32(start) * falling + jnp.float32(end) * rising


def cosine_decay(init_value: ArrayLike, decay_steps: ArrayLike, *, end_value: ArrayLike = 0.0) -> Schedule:
    """Anneal the rate along half a cosine, then hold its end.

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
        return half_cosine(init_value, end_value, *passed_and_left(count, decay_steps))

    return Schedule(
        rate_at,
        factory=cosine_decay,
        arguments={"init_value": init_value, "decay_steps": decay_steps, "end_value": end_value},
    )
