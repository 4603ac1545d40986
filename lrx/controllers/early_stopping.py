"""Stop when the loss has not improved for a while.

As a factor: 1 until then, 0 from then on, so that a run that goes on by itself moves nothing any more.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx.feedback import controller
from lrx.rates import ArrayLike, Controller
from lrx.states import Snapshot, shows
from lrx.transformations import factory


@shows("stopped", "best_value", "improvement_count", "wait_count")
class EarlyStoppingState(NamedTuple):
    """State of `early_stopping`."""

    stopped: jax.Array  # () bool: whether the run is over
    best_value: jax.Array  # () float32: best loss so far, in the loss's units; infinite before the first
    improvement_count: jax.Array  # () int32: losses that were the best until then
    wait_count: jax.Array  # () int32: losses since the last of them

    def stops(self) -> jax.Array:
        """Say whether the run is over."""
        return self.stopped


@factory
def early_stopping(
    *, patience: ArrayLike = 10, min_delta: ArrayLike = 0.0, mode: str = "min", feedback: str = "value"
) -> Controller:
    """Set the rate to 0 when the loss has not improved for a while.

    With v the loss and v* the best so far, v improves if `v < v* - min_delta`. After more than `patience` losses in a
    row without an improvement the factor is 0 for good. `lrx.stopped(state)` says so, and `lrx.train` ends there.
    Mostly the loss is one on validation data:

        tx = lrx.adam(1e-3 * lrx.early_stopping(patience=5, feedback="observed"))
        history = lrx.train(workload, tx, epochs=100, observe="loss")
        history.best.params  # those with the lowest loss, which is not the last one

    Args:
      patience: losses in a row without improvement that are tolerated, >= 0: 0 stops at the first; may be traced.
      min_delta: what an improvement is at least, >= 0, in the loss's units; may be traced.
      mode: "min" for a loss, "max" for an accuracy.
      feedback: "value" where `update` is given `value=loss`, "observed" where the loss comes through `observe`.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      ignored.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Source:
      L. Prechelt, "Early Stopping - But When?", 1998; the rule is that of Keras' and PyTorch Lightning's callbacks.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1))
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (1.0, 0.9, 0.95, 0.9):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      >>> print(lrx.stopped(state), lrx.learning_rate(state), updates)
      True 0.0 [-0. -0.]
    """
    _checks.steps("patience", patience, at_least=0, unit="losses")
    _checks.non_negative("min_delta", min_delta)
    _checks.one_of("mode", mode, ("min", "max"))
    sign = 1.0 if mode == "min" else -1.0

    def init(params: object) -> EarlyStoppingState:
        del params
        infinity = jnp.asarray(sign * jnp.inf, jnp.float32)
        return EarlyStoppingState(jnp.zeros([], bool), infinity, jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32))

    def update(state: EarlyStoppingState, value: jax.Array) -> tuple[jax.Array, EarlyStoppingState]:
        improved = ~state.stopped & (sign * value < sign * state.best_value - jnp.asarray(min_delta, jnp.float32))
        wait = jnp.where(improved, 0, optax.safe_increment(state.wait_count))
        stopped = wait > jnp.asarray(patience, jnp.int32)  # for good, since nothing improves once stopped
        best = jnp.where(improved, value, state.best_value)
        improvements = jnp.where(improved, optax.safe_increment(state.improvement_count), state.improvement_count)
        return jnp.where(stopped, 0.0, 1.0), EarlyStoppingState(stopped, best, improvements, wait)

    arguments = {"patience": patience, "min_delta": min_delta, "mode": mode, "feedback": feedback}
    return controller(early_stopping, arguments, init=init, update=update, feedback=feedback)


def judges(state: Any) -> bool:
    """Whether a state holds an `early_stopping`, which tells the best of a run."""
    return bool(_found(state))


def improved(before: Any, after: Any) -> jax.Array:
    """Whether an update from one state to the next saw the best loss so far of an `early_stopping`, () bool."""
    pairs = zip(_found(before), _found(after), strict=True)
    risen = [new.improvement_count > old.improvement_count for old, new in pairs]
    return functools.reduce(jnp.logical_or, risen, jnp.zeros([], bool))


def _found(state: Any) -> list[EarlyStoppingState]:
    def here(node: Any) -> bool:
        return isinstance(node, EarlyStoppingState | Snapshot)

    return [node for node in jax.tree.leaves(state, is_leaf=here) if isinstance(node, EarlyStoppingState)]
