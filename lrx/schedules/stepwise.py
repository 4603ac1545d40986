"""Piecewise constant rates: the rate stays, then drops by a factor."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.rates import ArrayLike, Schedule
from lrx.schedules._time import as_steps, power


def step_decay(init_value: ArrayLike, step_size: ArrayLike, *, factor: ArrayLike = 0.1) -> Schedule:
    """Multiply the rate by a factor every so many steps.

    The rate is `alpha_t = alpha_0 gamma^floor(t / s)`; the first drop is at step s exactly.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      step_size: s, in optimizer steps, >= 1; may be traced.
      factor: gamma, in (0, 1]; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `init_value` is negative or not finite, `step_size` is not a whole number >= 1, or `factor` is
        not in (0, 1].

    Source:
      R. Ge, S. Kakade, R. Kidambi, P. Netrapalli, "The Step Decay Schedule", NeurIPS 2019, arXiv:1904.12838.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.step_decay(0.1, 2, factor=0.5)(jnp.arange(5)))
      [0.1   0.1   0.05  0.05  0.025]
    """
    _checks.non_negative("init_value", init_value)
    _checks.steps("step_size", step_size)
    _checks.in_interval("factor", factor, "(0, 1]", "it multiplies the rate at each step")

    def rate_at(count: jax.Array) -> jax.Array:
        return jnp.float32(init_value) * power(factor, count // jnp.maximum(as_steps(step_size), 1))

    return Schedule(
        rate_at,
        factory=step_decay,
        arguments={"init_value": init_value, "step_size": step_size, "factor": factor},
    )
