"""Reduce the rate when the loss has stopped improving.

This is the rule of PyTorch, as a factor that multiplies any schedule.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.controllers._progress import Progress, check_accumulation_size, judge, no_progress, prepare
from lrx.feedback import feedback_core
from lrx.rates import Controller, Feedback
from lrx.states import shows
from lrx.transformations import factory


@shows()
class ReduceOnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`."""

    scale: jax.Array  # () float32: multiplies the rate, dimensionless
    plateau_count: jax.Array  # () int32: consecutive means without improvement
    cooldown_count: jax.Array  # () int32: means that are still not counted
    patience: jax.Array  # () int32: for the next judgement
    lowered_scale: jax.Array  # () float32: the scale after the next reduction
    rest_count: jax.Array  # () int32: means that are not counted after the next reduction
    progress: Progress  # of the loss

    def judge(self, value: jax.Array) -> ReduceOnPlateauState:
        """Return the next state, given one more loss."""
        progress, judgement = judge(self.progress, value)
        cooling = self.cooldown_count > 0
        plateau = jnp.where(judgement.better | judgement.renewed | cooling, 0, optax.safe_increment(self.plateau_count))
        reduce = judgement.complete & (plateau > self.patience)
        rest = jnp.where(reduce, self.rest_count, jnp.maximum(self.cooldown_count - 1, 0))
        return self._replace(
            scale=jnp.where(reduce, self.lowered_scale, self.scale),
            plateau_count=jnp.where(judgement.complete, jnp.where(reduce, 0, plateau), self.plateau_count),
            cooldown_count=jnp.where(judgement.complete, rest, self.cooldown_count),
            progress=progress,
        )

    def shown(self) -> dict[str, jax.Array]:
        """Return what `monitor` shows."""
        return {
            "reduce_on_plateau/scale": self.scale,
            "reduce_on_plateau/best_value": self.progress.best_value,
            "reduce_on_plateau/plateau_count": self.plateau_count,
            "reduce_on_plateau/cooldown_count": self.cooldown_count,
            "reduce_on_plateau/value_count": self.progress.value_count,
            "reduce_on_plateau/accumulation_size": self.progress.needed_count,
        }


@factory
def reduce_on_plateau(
    *,
    factor: ArrayLike = 0.1,
    patience: ArrayLike = 10,
    rtol: ArrayLike = 1e-4,
    atol: ArrayLike = 0.0,
    cooldown: ArrayLike = 0,
    min_scale: ArrayLike = 0.0,
    accumulation_size: ArrayLike | None = None,
    mode: str = "min",
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Multiply the rate by a factor when the loss has stopped improving.

    Usually it follows a validation loss, and `patience` counts evaluations:

        tx = lrx.adam(schedule * lrx.reduce_on_plateau(factor=0.5, patience=5, feedback="observed"))
        state = lrx.observe(state, value=validation_loss)  # once an epoch

    With the loss of each minibatch as `value=`, `accumulation_size=steps_per_epoch` gives the same unit of time.

    With v the loss, or the mean of several, and v* the best so far, v is an improvement when
    `v < v* - (rtol |v*| + atol)`. An improvement becomes the best; otherwise the plateau grows by one. When it is
    longer than `patience`, `scale <- max(factor * scale, min_scale)`, the plateau restarts, and `cooldown` means are
    not counted. All statistics are float32 whatever the type of the parameters or the loss.

    The lowest loss of many minibatches is a matter of luck, and the next ones do not beat it even in a healthy run. By
    default, losses that come with every update are therefore averaged, n at a time, so that the noise of the mean is
    below the required improvement: `n = (sigma / (rtol |v*| + atol))^2`, at most 100, or a fiftieth of the losses so
    far if that is more (and at most half of them). If the noise is still above that improvement, a mean must improve by
    its standard deviation, sigma / sqrt(n). With the default patience, a plateau under noise is found after 1,200 to
    2,700 losses, half of them within 1,500; in a run of more than 5,000 losses, after a quarter of its length. Sigma is
    measured where losses turn from falling to rising and back; without noise n is 1. A loss that comes after several
    updates, such as one that is observed once an epoch, is always compared by itself.

    Args:
      factor: multiplies the rate at each plateau, in (0, 1); may be traced.
      patience: largest number of losses, or means, in a row without improvement, >= 0: 0 reduces at the first; may be
        traced.
      rtol: least improvement relative to |v*|, in [0, 1); negative losses are treated alike; may be traced.
      atol: least absolute improvement, in the loss's units, >= 0; may be traced.
      cooldown: means after a reduction that are not counted, >= 0; may be traced.
      min_scale: lower bound of the scale, in [0, 1], dimensionless; may be traced.
      accumulation_size: losses in a mean, >= 1: the steps of an epoch, or 1 to compare each loss by itself, whatever
        its noise; may be traced. By default as many as their noise requires.
      mode: "min" for a loss, "max" for an accuracy.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`.
      start_after: updates before the first whose loss is used, >= 0; may be traced. Set it to the length of a warm-up,
        during which a loss that does not yet fall would count as a plateau and lower the rate.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored: it is neither averaged nor counted.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Differs from the source:
      Optax compares with `(1 - rtol) v*`, which is easier to reach for negative losses, and with patience 0 also
      reduces after an improvement; here patience counts as in PyTorch. The means by noise are ours; for losses that are
      observed once an epoch, and with `accumulation_size=1`, the decisions are those of PyTorch. Keras reduces one loss
      earlier, so its `patience=3` is 2 here, and its `min_delta` is `atol`, with `rtol=0`.

    Source:
      No paper; the rule of `ReduceLROnPlateau` in Keras and PyTorch with the argument names of optax.contrib.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(factor=0.5, patience=1, feedback="observed"))
      >>> state = tx.init(jnp.zeros(2))
      >>> for validation_loss in (1.0, 0.5, 0.5, 0.5):
      ...     state = lrx.observe(state, value=validation_loss)
      ...     for _ in range(10):  # the steps of an epoch
      ...         updates, state = tx.update(jnp.ones(2), state)
      >>> print(lrx.learning_rate(state))
      0.05
    """
    _checks.in_interval("factor", factor, "(0, 1)", "it multiplies the rate at each plateau")
    _checks.steps("patience", patience, at_least=0)
    _checks.in_interval("rtol", rtol, "[0, 1)", "it is a fraction of the best loss")
    _checks.non_negative("atol", atol)
    _checks.steps("cooldown", cooldown, at_least=0)
    _checks.in_interval("min_scale", min_scale, "[0, 1]", "it is a fraction of the rate, not a rate")
    check_accumulation_size(accumulation_size)
    _checks.one_of("mode", mode, ("min", "max"))

    def prepare_next(state: ReduceOnPlateauState, interval: ArrayLike) -> ReduceOnPlateauState:
        best, known = state.progress.best_value, state.progress.best_size > 0
        margin = jnp.float32(rtol) * jnp.where(known, jnp.abs(best), 0.0) + jnp.float32(atol)
        lower = jnp.maximum(state.scale * jnp.float32(factor), jnp.float32(min_scale))
        return state._replace(
            patience=jnp.array(patience, jnp.int32),
            # The floor must not raise a scale that is below it by rounding.
            lowered_scale=jnp.minimum(lower, state.scale),
            rest_count=jnp.array(cooldown, jnp.int32),
            progress=prepare(state.progress, margin=margin, accumulation_size=accumulation_size, interval=interval),
        )

    def init(params: object) -> tuple[ArrayLike, ReduceOnPlateauState]:
        del params
        start = ReduceOnPlateauState(
            scale=jnp.ones([], jnp.float32),
            plateau_count=jnp.zeros([], jnp.int32),
            cooldown_count=jnp.zeros([], jnp.int32),
            patience=jnp.zeros([], jnp.int32),
            lowered_scale=jnp.ones([], jnp.float32),
            rest_count=jnp.zeros([], jnp.int32),
            progress=no_progress(1.0 if mode == "min" else -1.0),
        )
        return 1.0, prepare_next(start, 1)

    def update(state: ReduceOnPlateauState, value: jax.Array, seen: Feedback) -> tuple[jax.Array, ReduceOnPlateauState]:
        # A restored state may come from a transformation with other arguments.
        after = prepare_next(prepare_next(state, state.progress.interval).judge(value), seen.interval)
        return after.scale, after

    core = feedback_core(init=init, update=update, feedback=feedback, start_after=start_after)
    return Controller.from_cores((core,))
