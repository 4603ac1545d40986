"""Schedules from given rates: at some steps, with a curve through them, or at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.schedules._time import segment_of, steps_table
from lrx.schedules.cosine import half_cosine
from lrx.transformations import factory


@factory
def interpolate(
    points: Mapping[int, ArrayLike] | Sequence[tuple[ArrayLike, ArrayLike]], *, kind: str = "linear"
) -> Schedule:
    """Interpolate between the rates at given steps.

    Between two points (a, alpha_a) and (b, alpha_b) the rate is `alpha_a + (alpha_b - alpha_a) f(u)` with
    `u = (t - a) / (b - a)`, where f is u for "linear" and `(1 - cos(pi u)) / 2` for "cosine". The first rate
    holds before the first point, and the last rate after the last.

    Args:
      points: `{step: rate}`, or pairs `(step, rate)` if a step is to be traced; steps >= 0 and strictly increasing,
        rates >= 0, at least one point.
      kind: "linear" or "cosine".

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if there is no point, steps are not whole numbers that increase, a rate is negative or not finite, or
        `kind` is unknown.
      TypeError: if `points` is neither a dict nor a list of pairs.

    Source:
      No paper; its usual form is the piecewise linear schedule of fast CIFAR-10 training.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.interpolate({0: 0.0, 2: 0.4, 6: 0.0})(jnp.arange(8)))
      [0.  0.2 0.4 0.3 0.2 0.1 0.  0. ]
    """
    steps, rates = _checks.pairs_of_steps("points", points, at_least=0, what="rate")
    _checks.one_of("kind", kind, ("linear", "cosine"))
    if not steps:
        raise ValueError(f"points must hold at least one point, got points={points!r}: give {{0: 0.1}}.")
    known = all(_checks.is_concrete(rate) for rate in rates)

    def rate_at(count: jax.Array) -> jax.Array:
        at = jnp.asarray(steps_table(steps))
        values = jnp.asarray(np.array(rates, np.float32)) if known else _as_array(rates)
        later = segment_of(count, at)
        first, second = jnp.maximum(later - 1, 0), jnp.minimum(later, len(steps) - 1)
        begin, end = at[first], at[second]
        length = jnp.maximum(end - begin, 1).astype(jnp.float32)
        now = jnp.clip(count, begin, end)
        passed, left = (now - begin).astype(jnp.float32) / length, (end - now).astype(jnp.float32) / length
        # Before the first point and after the last, both points are the same.
        left = jnp.where(begin == end, 1.0, left)
        if kind == "cosine":
            return half_cosine(values[first], values[second], passed, left)
        return values[first] * left + values[second] * passed

    return Schedule.of_counts(
        rate_at,
        peak=max(float(rate) for rate in rates) if known else None,
    )


@factory
def tabulated(values: Sequence[ArrayLike] | jax.Array | np.ndarray) -> Schedule:
    """Read the rate of every step from a table.

    The rate is `alpha_t = values[t]`, and the last value after the table ends. Use it for rates from elsewhere, such as
    another program's log.

    Args:
      values: the rates, (n,) float, >= 0, n >= 1; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `values` is empty, not one-dimensional, or holds a number that is negative or not finite.
      TypeError: if `values` holds no numbers.

    Source:
      No paper.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.tabulated([0.1, 0.4, 0.2])(jnp.arange(5)))
      [0.1 0.4 0.2 0.2 0.2]
    """
    known = _checks.non_negative_list("values", values)
    rounded = None if known is None else known.astype(np.float32)

    def rate_at(count: jax.Array) -> jax.Array:
        table = _as_array(values if rounded is None else rounded)
        return table[jnp.minimum(count, table.shape[0] - 1)]

    return Schedule.of_counts(
        rate_at,
        peak=None if known is None else float(np.max(known)),
    )


def _as_array(values: Sequence[ArrayLike] | jax.Array | np.ndarray) -> jax.Array:
    if isinstance(values, list | tuple):
        return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
    return jnp.asarray(values, jnp.float32)
