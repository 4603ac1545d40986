"""The 1cycle policy: one climb to a high rate, then down, far below the beginning; and its mirror for the momentum."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.schedules._time import as_steps, digits_of, multiply, whole_and_fraction
from lrx.schedules.cosine import half_cosine
from lrx.transformations import factory


def _through_phases(
    count: jax.Array,
    total_steps: ArrayLike,
    pct_start: ArrayLike,
    values: Sequence[ArrayLike],
    *,
    anneal: str,
) -> jax.Array:
    """Go from value to value, in phases that end where PyTorch's do: at p T - 1, 2 p T - 2 and T - 1.

    An end may lie between two steps. It is kept as the whole number and the fraction of end + 1, which is never
    negative.
    """
    total, zero = jnp.maximum(as_steps(total_steps), 1), jnp.zeros([], jnp.float32)
    climbed = _share_of(total, pct_start)
    ends = [(jnp.int32(1), zero), climbed, (total, zero)]
    if len(values) == 4:
        twice, fraction = _share_of(total, 2 * pct_start)
        ends.insert(2, (twice - 1, fraction))
    time = jnp.minimum(count, total - 1)

    def steps_between(later: tuple[jax.Array, jax.Array], earlier: tuple[jax.Array, jax.Array]) -> jax.Array:
        return (later[0] - earlier[0]).astype(jnp.float32) + (later[1] - earlier[1])

    now = (time + 1, zero)
    rate = jnp.broadcast_to(jnp.asarray(values[-1], jnp.float32), count.shape)
    for index in reversed(range(len(values) - 1)):
        begin, end = ends[index], ends[index + 1]
        length = steps_between(end, begin)
        length = jnp.where(length > 0, length, 1.0)
        passed = jnp.clip(steps_between(now, begin) / length, 0.0, 1.0)
        left = jnp.clip(steps_between(end, now) / length, 0.0, 1.0)
        start, target = values[index], values[index + 1]
        if anneal == "cosine":
            within = half_cosine(start, target, passed, left)
        else:
            within = jnp.float32(start) * left + jnp.float32(target) * passed
        inside = steps_between(end, now) > 0
        # A phase has reached its target at its end, whatever its length.
        arrived = (steps_between(end, now) == 0) & (count < total)
        rate = jnp.where(inside, within, jnp.where(arrived, jnp.float32(target), rate))
    return rate


def _share_of(total: jax.Array, share: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return the product as a whole number and a fraction; one within rounding of a step is that step."""
    whole, fraction = whole_and_fraction(multiply(digits_of(total), digits_of(share)))
    whole = jnp.where(fraction > 1 - 2.0**-20, whole + 1, whole)
    return whole, jnp.where((fraction < 2.0**-20) | (fraction > 1 - 2.0**-20), 0.0, fraction)


def _check_phases(total_steps: ArrayLike, pct_start: ArrayLike, anneal: str, three_phase: bool) -> None:
    _checks.steps("total_steps", total_steps)
    _checks.flag("three_phase", three_phase)
    if three_phase:
        _checks.in_interval("pct_start", pct_start, "(0, 0.5]", "with three_phase=True the way down takes as long")
    else:
        _checks.in_interval("pct_start", pct_start, "(0, 1)", "it is the share of the run that climbs")
    _checks.one_of("anneal", anneal, ("cosine", "linear"))


@factory
def one_cycle(
    peak_value: ArrayLike,
    total_steps: ArrayLike,
    *,
    pct_start: ArrayLike = 0.3,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
    anneal: str = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Climb once to a high rate, then anneal to far below the beginning: super-convergence.

    With start = peak / div_factor and end = start / final_div_factor, the rate climbs from start to peak, which it
    reaches at step p T - 1, and falls to end, which it reaches at step T - 1 and holds. With `three_phase=True`, as in
    the paper, it falls to start first, until step 2 p T - 2, and then to end. Cycle the momentum against it with
    `sgd(one_cycle(...), momentum=one_cycle_momentum(...))`.

    Args:
      peak_value: the highest rate, >= 0; may be traced. Take it from a range test.
      total_steps: T, the length of the run in optimizer steps, >= 1; may be traced.
      pct_start: p, the share of the run that climbs, in (0, 1), or in (0, 0.5] with three phases; may be traced.
      div_factor: peak / start, >= 1; may be traced.
      final_div_factor: start / end, >= 1; may be traced.
      anneal: "cosine" or "linear".
      three_phase: fall for as long as the climb took, then anneal to `end`.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `peak_value` is negative or not finite, `total_steps` is not a whole number >= 1, `pct_start` is
        outside its range, a divisor is below 1, or `anneal` is unknown.
      TypeError: if `three_phase` is not a bool.

    Differs from the source:
      The source uses straight lines; cosines and the two-phase form are fastai's. Phases end where PyTorch's do, but a
      run may have any length, and the rate stays at its end value, while PyTorch's jumps up again.

    Source:
      L. Smith, N. Topin, "Super-Convergence", 2017, arXiv:1708.07120; L. Smith, 2018, arXiv:1803.09820.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.one_cycle(1.0, 10, pct_start=0.5, div_factor=5.0, anneal="linear")(jnp.array([0, 2, 4, 9, 10])))
      [2.e-01 6.e-01 1.e+00 2.e-05 2.e-05]
    """
    _checks.non_negative("peak_value", peak_value)
    _check_phases(total_steps, pct_start, anneal, three_phase)
    _checks.at_least("div_factor", div_factor, 1, "the rate starts at peak_value / div_factor")
    _checks.at_least("final_div_factor", final_div_factor, 1, "the rate ends at its start / final_div_factor")

    def rate_at(count: jax.Array) -> jax.Array:
        # Divided as Python numbers if they are known, so that the rate is rounded once.
        start = peak_value / div_factor
        values = [start, peak_value, *([start] if three_phase else []), start / final_div_factor]
        return _through_phases(count, total_steps, pct_start, values, anneal=anneal)

    return Schedule.of_counts(
        rate_at,
        peak=peak_value,
    )


@factory
def one_cycle_momentum(
    total_steps: ArrayLike,
    *,
    min_value: ArrayLike = 0.85,
    max_value: ArrayLike = 0.95,
    pct_start: ArrayLike = 0.3,
    anneal: str = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Cycle the momentum against `one_cycle`: low while the rate is high.

    It falls from max to min while the rate climbs, until step p T - 1, climbs back until step T - 1 (with
    `three_phase=True` until step 2 p T - 2), and stays there.

    Args:
      total_steps: T, the length of the run in optimizer steps, >= 1; may be traced.
      min_value: the momentum at the highest rate, in [0, 1); may be traced.
      max_value: the momentum at both ends, in [0, 1), >= `min_value`; may be traced.
      pct_start: p, as in `one_cycle`; may be traced.
      anneal: "cosine" or "linear".
      three_phase: as in `one_cycle`.

    Returns:
      A `Schedule` of a momentum, for `sgd(rate, momentum=...)` and others.

    Raises:
      ValueError: if `total_steps` is not a whole number >= 1, a momentum is not in [0, 1), `min_value` is above
        `max_value`, `pct_start` is outside its range, or `anneal` is unknown.
      TypeError: if `three_phase` is not a bool.

    Source:
      L. Smith, "A disciplined approach to neural network hyper-parameters", 2018, arXiv:1803.09820, section 4.3.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> momentum = lrx.one_cycle_momentum(10, pct_start=0.5)
      >>> print(momentum(jnp.array([0, 4, 9])))
      [0.95 0.85 0.95]
      >>> tx = lrx.sgd(lrx.one_cycle(0.1, 10, pct_start=0.5), momentum=momentum)
    """
    _check_phases(total_steps, pct_start, anneal, three_phase)
    _checks.in_interval("min_value", min_value, "[0, 1)")
    _checks.in_interval("max_value", max_value, "[0, 1)")
    _checks.not_above("min_value", min_value, "max_value", max_value, "swap them")

    def momentum_at(count: jax.Array) -> jax.Array:
        values = [max_value, min_value, max_value, *([max_value] if three_phase else [])]
        return _through_phases(count, total_steps, pct_start, values, anneal=anneal)

    return Schedule.of_counts(
        momentum_at,
        peak=max_value,
    )
