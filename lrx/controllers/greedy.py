"""Raise the rate while the loss improves, lower it while it stalls.

This is the plateau rule in both directions: the rate also rises again.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx._smoothing import RunningMean, add, empty_mean
from lrx.controllers._progress import Progress, judge, no_progress, prepare
from lrx.feedback import feedback_core
from lrx.rates import Controller, Feedback
from lrx.states import shows
from lrx.transformations import factory

MOST_LOSSES = 20  # losses in a mean, early in a run: a wrong step is small, and is reversed later


@shows()
class GreedyState(NamedTuple):
    """State of `greedy`."""

    scale: jax.Array  # () float32: multiplies the rate, dimensionless
    improving_count: jax.Array  # () int32: means in a row that improved
    stalled_count: jax.Array  # () int32: means in a row that did not
    mean: RunningMean | tuple[()]  # of the loss, with `smoothing`
    progress: Progress  # of the loss

    def shown(self) -> dict[str, jax.Array]:
        """Return what `monitor` shows."""
        return {
            "greedy/scale": self.scale,
            "greedy/best_value": self.progress.best_value,
            "greedy/improving_count": self.improving_count,
            "greedy/stalled_count": self.stalled_count,
            "greedy/accumulation_size": self.progress.needed_count,
        }


@factory
def greedy(
    *,
    factor: ArrayLike = 0.95,
    patience: ArrayLike = 10,
    min_factor: ArrayLike = 1e-2,
    max_factor: ArrayLike = 10.0,
    smoothing: ArrayLike | None = None,
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Divide the rate by a factor while the loss improves, multiply it by the same factor while it stalls.

    With l the mean of some losses and l* the lowest so far, a mean improves if `l < l*`, and l becomes l*. After more
    than `patience` improvements in a row `scale <- min(scale / factor, max_factor)`, after more than `patience` means
    in a row without one `scale <- max(scale * factor, min_factor)`; the count then restarts. It suits runs whose
    starting rate is within a factor of ten of a good one. At the noise floor of a loss nothing improves, so the rate
    falls, in the end to `min_factor`: this anneals.

    Losses that come with every update are averaged, as many as their noise requires (see `reduce_on_plateau`), at most
    20 to a mean, or a fiftieth of the losses so far, so that a healthy run of noisy minibatches does not look stalled.
    Without noise, and if a loss is observed after several updates, each is a mean by itself. After 24 reversals in a
    row so is each loss: an oscillation that regular comes from a rate that was raised too far, not from noise.

    Args:
      factor: F, the ratio of a change of the rate, in (0, 1), dimensionless; may be traced.
      patience: means in a row before the rate changes, >= 0; may be traced.
      min_factor: lower bound of the scale, in (0, 1], dimensionless; may be traced.
      max_factor: upper bound of the scale, >= 1, dimensionless; may be traced.
      smoothing: s of a running mean, in [0, 1), that is compared at every loss in place of the means by noise: about
        1 / (1 - s) losses count; 0 compares each loss by itself, whatever its noise; may be traced.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`.
      start_after: updates before the first whose loss is used, >= 0: set it to the length of a warm-up, during which a
        loss that does not yet fall would lower the rate, and a falling one would raise it beyond the schedule's; may be
        traced.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Differs from the source:
      The means, the bounds and the default of `patience` are ours; the source's smoothing is a window.

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
    if smoothing is not None:
        _checks.decay("smoothing", smoothing)

    def prepare_next(state: GreedyState, interval: ArrayLike) -> GreedyState:
        # A running mean of all losses is compared at each loss.
        size = None if smoothing is None else 1
        progress = prepare(
            state.progress, margin=0.0, accumulation_size=size, interval=interval, most_losses=MOST_LOSSES
        )
        return state._replace(progress=progress)

    def init(params: object) -> tuple[ArrayLike, GreedyState]:
        del params
        start = GreedyState(
            scale=jnp.ones([], jnp.float32),
            improving_count=jnp.zeros([], jnp.int32),
            stalled_count=jnp.zeros([], jnp.int32),
            mean=() if smoothing is None else empty_mean(),
            progress=no_progress(1.0),
        )
        return 1.0, prepare_next(start, 1)

    def update(state: GreedyState, value: jax.Array, seen: Feedback) -> tuple[jax.Array, GreedyState]:
        mean = state.mean
        if smoothing is not None and isinstance(mean, RunningMean):
            value, mean = add(mean, value, smoothing)
        progress, judgement = judge(state.progress, value, forget_swings=True)
        improving = jnp.where(judgement.better, optax.safe_increment(state.improving_count), 0)
        stalled = jnp.where(judgement.better | judgement.renewed, 0, optax.safe_increment(state.stalled_count))
        rise = judgement.complete & (improving > jnp.asarray(patience, jnp.int32))
        fall = judgement.complete & (stalled > jnp.asarray(patience, jnp.int32))
        step = jnp.asarray(factor, jnp.float32)
        # If the scale is beyond a bound by rounding, the bound must not move it back.
        raised = jnp.maximum(jnp.minimum(state.scale / step, jnp.asarray(max_factor, jnp.float32)), state.scale)
        lowered = jnp.minimum(jnp.maximum(state.scale * step, jnp.asarray(min_factor, jnp.float32)), state.scale)
        scale = jnp.where(rise, raised, jnp.where(fall, lowered, state.scale))
        after = GreedyState(
            scale=scale,
            improving_count=jnp.where(judgement.complete, jnp.where(rise, 0, improving), state.improving_count),
            stalled_count=jnp.where(judgement.complete, jnp.where(fall, 0, stalled), state.stalled_count),
            mean=mean,
            progress=progress,
        )
        return scale, prepare_next(after, seen.interval)

    core = feedback_core(init=init, update=update, feedback=feedback, start_after=start_after)
    return Controller.from_cores((core,))
