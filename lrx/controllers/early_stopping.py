"""Stop when the loss has not improved for a while.

As a factor it is 1 before and 0 afterwards, so a run that continues no longer moves the parameters.
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
class EarlyStoppingState(NamedTuple):
    """State of `early_stopping`."""

    stopped: jax.Array  # () bool: whether the run is over
    improvement_count: jax.Array  # () int32: means that were the best so far
    wait_count: jax.Array  # () int32: means since the last improvement
    patience: jax.Array  # () int32: for the next judgement
    progress: Progress  # of the loss

    def judge(self, value: jax.Array) -> EarlyStoppingState:
        """Return the next state, given one more loss."""
        progress, judgement = judge(self.progress, value)
        improved = ~self.stopped & (judgement.better | judgement.renewed)
        waited = jnp.where(improved, 0, optax.safe_increment(self.wait_count))
        wait = jnp.where(judgement.complete, waited, self.wait_count)
        kept = jnp.where(self.stopped, self.progress.best_value, progress.best_value)
        return EarlyStoppingState(
            # This is final, because nothing counts as an improvement once stopped.
            stopped=self.stopped | (judgement.complete & (wait > self.patience)),
            improvement_count=jnp.where(improved, optax.safe_increment(self.improvement_count), self.improvement_count),
            wait_count=wait,
            patience=self.patience,
            progress=progress._replace(best_value=kept),
        )

    def shown(self) -> dict[str, jax.Array]:
        """Return what `monitor` shows."""
        return {
            "early_stopping/stopped": self.stopped,
            "early_stopping/best_value": self.progress.best_value,
            "early_stopping/improvement_count": self.improvement_count,
            "early_stopping/wait_count": self.wait_count,
            "early_stopping/accumulation_size": self.progress.needed_count,
        }

    def improved_since(self, before: EarlyStoppingState) -> jax.Array:
        """Return whether there is a new best loss since an earlier state."""
        return self.improvement_count > before.improvement_count

    def stops(self) -> jax.Array:
        """Return whether the run is over."""
        return self.stopped


@factory
def early_stopping(
    *,
    patience: ArrayLike = 10,
    min_delta: ArrayLike = 0.0,
    accumulation_size: ArrayLike | None = None,
    mode: str = "min",
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Set the rate to 0 when the loss has not improved for a while.

    With v the loss, or the mean of several, and v* the best so far, v improves if `v < v* - min_delta`. After more than
    `patience` values in a row without an improvement, the factor is permanently 0. `lrx.stopped(state)` is then True,
    from the deciding observation on, and `lrx.train` ends there. Usually the loss is that of validation data, and
    `patience` counts evaluations:

        tx = lrx.adam(1e-3 * lrx.early_stopping(patience=5, feedback="observed"))
        history = lrx.train(workload, tx, epochs=100, feedback_metric="loss")
        history.best.params  # those with the lowest loss, which are not the last ones

    Args:
      patience: largest number of losses, or means, in a row without improvement, >= 0: 0 stops at the first; may be
        traced.
      min_delta: least improvement, >= 0, in the loss's units; may be traced.
      accumulation_size: losses in a mean, >= 1: the steps of an epoch, or 1 to judge each loss by itself; may be
        traced. By default as many as their noise requires, as in `reduce_on_plateau`.
      mode: "min" for a loss, "max" for an accuracy.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`.
      start_after: updates before the first whose loss is judged, >= 0: set it to the length of a warm-up, during which
        a loss that does not yet fall would count; may be traced.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Differs from the source:
      The means by noise are ours. Patience counts as in PyTorch's schedulers: the callbacks of Keras and PyTorch
      Lightning stop one loss earlier, so their `patience=5` is 4 here. They stop at a loss that is not finite, or count
      it; here it is ignored.

    Source:
      L. Prechelt, "Early Stopping - But When?", 1998; the rule of the callbacks of Keras and Lightning.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, feedback="observed"))
      >>> state = tx.init(jnp.zeros(2))
      >>> for validation_loss in (1.0, 0.9, 0.95, 0.9):
      ...     state = lrx.observe(state, value=validation_loss)
      ...     print(lrx.stopped(state))
      ...     for _ in range(10):
      ...         updates, state = tx.update(jnp.ones(2), state)
      False
      False
      False
      True
      >>> print(lrx.learning_rate(state), updates)
      0.0 [-0. -0.]
    """
    _checks.steps("patience", patience, at_least=0, unit="losses")
    _checks.non_negative("min_delta", min_delta)
    check_accumulation_size(accumulation_size)
    _checks.one_of("mode", mode, ("min", "max"))

    def prepare_next(state: EarlyStoppingState, interval: ArrayLike) -> EarlyStoppingState:
        progress = prepare(
            state.progress,
            margin=min_delta,
            accumulation_size=accumulation_size,
            interval=interval,
        )
        return state._replace(patience=jnp.array(patience, jnp.int32), progress=progress)

    def init(params: object) -> tuple[ArrayLike, EarlyStoppingState]:
        del params
        start = EarlyStoppingState(
            stopped=jnp.zeros([], bool),
            improvement_count=jnp.zeros([], jnp.int32),
            wait_count=jnp.zeros([], jnp.int32),
            patience=jnp.zeros([], jnp.int32),
            progress=no_progress(1.0 if mode == "min" else -1.0),
        )
        return 1.0, prepare_next(start, 1)

    def update(state: EarlyStoppingState, value: jax.Array, seen: Feedback) -> tuple[jax.Array, EarlyStoppingState]:
        # A restored state may come from a transformation with other arguments.
        after = prepare_next(prepare_next(state, state.progress.interval).judge(value), seen.interval)
        return jnp.where(after.stopped, jnp.float32(0.0), jnp.float32(1.0)), after

    core = feedback_core(init=init, update=update, feedback=feedback, start_after=start_after)
    return Controller.from_cores((core,))
