"""Schedules made of schedules: a warm-up before one, and one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.arguments import as_schedule
from lrx.rates import Schedule, largest
from lrx.schedules._time import as_steps, time_fractions
from lrx.transformations import factory


@factory
def warmup(
    schedule: Schedule | ArrayLike,
    warmup_steps: ArrayLike,
    *,
    init_value: ArrayLike = 0.0,
    mode: str = "linear",
) -> Schedule:
    """Start low and ramp up to a schedule, which begins when the ramp has ended.

    A low rate at first keeps large early gradients from spoiling the parameters, and allows higher peak rates.
    With W the warm-up steps and alpha* = schedule(0), the rate at t < W is `init + (alpha* - init) t / W` for
    "linear", `init` for "constant" and `init (alpha* / init)^(t / W)` for "exponential"; from t = W on it is
    `schedule(t - W)`.

    Args:
      schedule: the schedule to warm up to; a float is a constant rate. Multiply controllers afterwards. Give those that
        follow a loss `start_after=warmup_steps`, so that they do not judge the warm-up.
      warmup_steps: W, in optimizer steps, >= 0 (0: no warm-up); may be traced.
      init_value: the rate at step 0, >= 0, and > 0 for "exponential"; may be traced.
      mode: "linear", "constant" or "exponential".

    Returns:
      A `Schedule`, longer than `schedule` by W. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `warmup_steps` is not a whole number >= 0, `init_value` is negative, or 0 for "exponential", or
        `mode` is unknown.
      TypeError: if `schedule` is a rate that follows feedback.

    Source:
      P. Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677, section 2.2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.warmup(lrx.linear_decay(0.4, 4), 2)(jnp.arange(7)))
      [0.  0.2 0.4 0.3 0.2 0.1 0. ]
    """
    after = as_schedule(schedule, name="schedule")
    _checks.steps("warmup_steps", warmup_steps, at_least=0)
    _checks.one_of("mode", mode, ("linear", "constant", "exponential"))
    if mode == "exponential":
        _checks.positive("init_value", init_value, "an exponential ramp cannot leave 0; start at 1e-3 of the peak")
    else:
        _checks.non_negative("init_value", init_value)

    def rate_at(count: jax.Array) -> jax.Array:
        length = as_steps(warmup_steps)
        start, peak = jnp.float32(init_value), after.function(jnp.zeros_like(count))
        passed, left = time_fractions(count, length)
        if mode == "linear":
            ramp = start * left + peak * passed
        elif mode == "constant":
            ramp = jnp.broadcast_to(start, peak.shape)
        else:
            # The floor avoids log(0) if a traced bound is 0.
            tiny = jnp.finfo(jnp.float32).tiny
            ramp = start * jnp.exp(jnp.log(jnp.maximum(peak, tiny) / jnp.maximum(start, tiny)) * passed)
        return jnp.where(count < length, ramp, after.function(jnp.maximum(count - length, 0)))

    return Schedule.of_counts(
        rate_at,
        peak=largest(init_value, after.peak),
    )


@factory
def join(schedules: Sequence[Schedule | ArrayLike], boundaries: Sequence[ArrayLike]) -> Schedule:
    """Run schedules one after the other, each with its own time.

    With boundaries b_1 < ... < b_{n-1} and b_0 = 0, the rate is `schedule_i(t - b_i)` for `b_i <= t < b_{i+1}`.

    Args:
      schedules: n schedules, at least one; a float is a constant rate.
      boundaries: n - 1 steps at which the next one begins, >= 1 and strictly increasing; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if there is no schedule, the number of boundaries is not one less than that of schedules, or they
        are not whole numbers >= 1 that increase.
      TypeError: if one of them is a rate that follows feedback.

    Source:
      No paper: the concatenation of functions of time.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.join([0.1, lrx.linear_decay(0.4, 2)], [2])(jnp.arange(5)))
      [0.1 0.1 0.4 0.2 0. ]
    """
    if isinstance(schedules, Schedule) or not isinstance(schedules, Sequence):
        raise TypeError(f"schedules must be a list of schedules, got schedules={schedules!r}.")
    parts = [as_schedule(schedule, name=f"schedules[{index}]") for index, schedule in enumerate(schedules)]
    boundaries = list(boundaries)
    if not parts or len(boundaries) != len(parts) - 1:
        raise ValueError(
            f"boundaries must be one fewer than schedules, got {len(boundaries)} boundaries for {len(parts)} "
            "schedules: a boundary is the step at which the next schedule begins."
        )
    _checks.increasing_steps("boundaries", boundaries)

    def rate_at(count: jax.Array) -> jax.Array:
        rate = parts[0].function(count)
        for boundary, part in zip(boundaries, parts[1:], strict=True):
            begin = as_steps(boundary)
            rate = jnp.where(count >= begin, part.function(jnp.maximum(count - begin, 0)), rate)
        return rate

    return Schedule.of_counts(
        rate_at,
        peak=largest(*(part.peak for part in parts)),
    )
