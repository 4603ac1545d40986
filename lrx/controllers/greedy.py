"""Raise the rate while the loss improves, lower it while it stalls.

The two-sided companion of the plateau rule: what a plateau takes, progress gives back.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx.controllers._smoothing import RunningMean, add, empty_mean
from lrx.feedback import controller
from lrx.rates import ArrayLike, Controller
from lrx.states import shows
from lrx.transformations import factory


@shows("scale", "best_value", "improving_count", "stalled_count")
class GreedyState(NamedTuple):
    """State of `greedy`."""

    scale: jax.Array  # () float32: multiplies the rate, dimensionless
    best_value: jax.Array  # () float32: lowest smoothed loss so far; infinite before the first
    improving_count: jax.Array  # () int32: losses in a row that improved
    stalled_count: jax.Array  # () int32: losses in a row that did not
    mean: RunningMean  # of the loss


@factory
def greedy(
    *,
    factor: ArrayLike = 0.95,
    patience: ArrayLike = 10,
    min_factor: ArrayLike = 1e-2,
    max_factor: ArrayLike = 10.0,
    smoothing: ArrayLike = 0.9,
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Divide the rate by a factor while the loss improves, multiply it by the same factor while it stalls.

    With l the smoothed loss and l* the lowest so far, a loss improves if `l < l*`, and l becomes l*. After more than
    `patience` improvements in a row `scale <- min(scale / factor, max_factor)`, after more than `patience` losses in a
    row without one `scale <- max(scale * factor, min_factor)`; either run of losses then begins anew. It suits runs
    whose starting rate is within a factor of ten of a good one. At the noise floor of a loss nothing improves, so that
    the rate falls to `min_factor`: that anneals.

    Args:
      factor: F, by which the rate changes at once, in (0, 1), dimensionless; may be traced.
      patience: losses in a row that change nothing yet, >= 0; may be traced.
      min_factor: lower bound of the scale, in (0, 1], dimensionless; may be traced.
      max_factor: upper bound of the scale, >= 1, dimensionless; may be traced.
      smoothing: s of the running mean of the loss, in [0, 1): about 1 / (1 - s) losses count; 0 takes each by itself;
        may be traced.
      feedback: "value" where `update` is given `value=loss`, "observed" where the loss comes through `observe`.
      start_after: updates before the first whose loss is looked at, >= 0: the length of a warm-up, in which a loss that
        does not fall yet lowers the rate, and one that falls raises it beyond the schedule's; may be traced.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Differs from the source:
      The running mean, the bounds and the default of `patience` are ours; the source's smoothing is a window.

    Source:
      "GreedyLR", 2025, arXiv:2512.14527 (the rule as summarised in its abstract; the text was not at hand).

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.greedy(factor=0.5, patience=1, smoothing=0.0))
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (4.0, 3.0, 2.0):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      ...     print(lrx.learning_rate(state))
      0.1
      0.2
      0.2
    """
    _checks.in_interval("factor", factor, "(0, 1)", "the rate is divided by it while the loss improves")
    _checks.steps("patience", patience, at_least=0)
    _checks.factor_bounds(min_factor, max_factor)
    _checks.decay("smoothing", smoothing)

    def init(params: object) -> GreedyState:
        del params
        zero = jnp.zeros([], jnp.int32)
        infinity = jnp.asarray(jnp.inf, jnp.float32)
        return GreedyState(jnp.ones([], jnp.float32), infinity, zero, jnp.zeros([], jnp.int32), empty_mean())

    def update(state: GreedyState, value: jax.Array) -> tuple[jax.Array, GreedyState]:
        loss, mean = add(state.mean, value, smoothing)
        improved = loss < state.best_value
        improving = jnp.where(improved, optax.safe_increment(state.improving_count), 0)
        stalled = jnp.where(improved, 0, optax.safe_increment(state.stalled_count))
        rise = improving > jnp.asarray(patience, jnp.int32)
        fall = stalled > jnp.asarray(patience, jnp.int32)
        step = jnp.asarray(factor, jnp.float32)
        # A bound that the scale is beyond by rounding must not move it back.
        raised = jnp.maximum(jnp.minimum(state.scale / step, jnp.asarray(max_factor, jnp.float32)), state.scale)
        lowered = jnp.minimum(jnp.maximum(state.scale * step, jnp.asarray(min_factor, jnp.float32)), state.scale)
        scale = jnp.where(rise, raised, jnp.where(fall, lowered, state.scale))
        return scale, GreedyState(
            scale,
            jnp.where(improved, loss, state.best_value),
            jnp.where(rise, 0, improving),
            jnp.where(fall, 0, stalled),
            mean,
        )

    arguments = {
        "factor": factor,
        "patience": patience,
        "min_factor": min_factor,
        "max_factor": max_factor,
        "smoothing": smoothing,
        "feedback": feedback,
        "start_after": start_after,
    }
    return controller(greedy, arguments, init=init, update=update, feedback=feedback, start_after=start_after)
