"""Stop when the loss has not improved for a while.

As a factor: 1 until then, 0 from then on, so that a run that goes on by itself moves nothing any more.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx.rates import ArrayLike, Controller, controller


class EarlyStoppingState(NamedTuple):
    """State of `early_stopping`."""

    stopped: jax.Array  # () bool: whether the run is over
    improved: jax.Array  # () bool: whether the latest loss was the best so far
    best_value: jax.Array  # () float32: best loss so far, in the loss's units; infinite before the first
    wait_count: jax.Array  # () int32: losses since then


def early_stopping(
    *, patience: ArrayLike = 10, min_delta: ArrayLike = 0.0, mode: str = "min", feedback: str = "value"
) -> Controller:
    """Set the rate to 0 when the loss has not improved for a while.

    With v the loss and v* the best so far, v improves if `v < v* - min_delta`. After more than `patience` losses in a
    row without an improvement the factor is 0 for good. `lrx.stopped(state)` says so, and `lrx.train` ends there.
    Mostly the loss is one on validation data:

        tx = lrx.adam(1e-3 * lrx.early_stopping(patience=5, feedback="observed"))
        history = lrx.train(workload, tx, epochs=100, observe="loss")

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
        return EarlyStoppingState(jnp.zeros([], bool), jnp.zeros([], bool), infinity, jnp.zeros([], jnp.int32))

    def update(state: EarlyStoppingState, value: jax.Array) -> tuple[jax.Array, EarlyStoppingState]:
        improved = ~state.stopped & (sign * value < sign * state.best_value - jnp.asarray(min_delta, jnp.float32))
        wait = jnp.where(improved, 0, optax.safe_increment(state.wait_count))
        stopped = wait > jnp.asarray(patience, jnp.int32)  # for good, since nothing improves once stopped
        best = jnp.where(improved, value, state.best_value)
        return jnp.where(stopped, 0.0, 1.0), EarlyStoppingState(stopped, improved, best, wait)

    arguments = {"patience": patience, "min_delta": min_delta, "mode": mode, "feedback": feedback}
    return controller(early_stopping, arguments, init=init, update=update, feedback=feedback)
