"""Write losses into a state that do not come with `update`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._walk import refuse_objects, state_of
from lrx.feedback import check_loss
from lrx.reading import named_entries
from lrx.states import Observation, Snapshot


def observe(state: Any, *, value: jax.typing.ArrayLike, to: str | Sequence[str] | None = None) -> Any:
    """Pass a loss to controllers without going through `update`.

    Use it for feedback that does not come at every step, such as a validation loss, and with wrappers that drop extra
    arguments (flax's `TrainState.apply_gradients`, `optax.MultiSteps` inside a chain). The loss reaches every
    controller that was built with `feedback="observed"`, and nothing else. The next update takes it, once; a second
    observation before that update replaces the first. The state keeps a copy of the value in a buffer of its own.

    Args:
      state: an optimizer state.
      value: the loss or metric, () float of any type; may be traced.
      to: the name of the controller to pass it to, or several names; by default all that take observations. Names are
        those of `monitor`: "early_stopping", "body/reduce_on_plateau" within a group, "reduce_on_plateau_2" for the
        second with that name.

    Returns:
      The new state, of the same structure.

    Raises:
      ValueError: if nothing in the state takes observations, `to` names something else, or `value` is not a scalar.
      TypeError: if `value` is not a number, or `state` is not an optimizer state.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(factor=0.5, patience=0, feedback="observed"))
      >>> state = tx.init(jnp.zeros(2))
      >>> for validation_loss in (1.0, 1.0):
      ...     state = lrx.observe(state, value=validation_loss)
      ...     updates, state = tx.update(jnp.ones(2), state)
      >>> print(lrx.learning_rate(state))
      0.05
    """
    refuse_objects("observe", state)
    check_loss(value)
    entries = named_entries(state_of("observe", state))
    found = {name: entry.value for name, entry in entries if isinstance(entry.value, Observation)}
    chosen = None if to is None else {id(found[name]) for name in _recipients(to, found)}
    written = 0

    def write(node: Any) -> Any:
        nonlocal written
        if isinstance(node, Snapshot) or (chosen is not None and id(node) not in chosen):
            return node
        written += 1
        # Copies: neither two controllers nor a state and its caller share a buffer, so that each can be donated.
        return Observation(
            value=jax.tree.map(lambda x: jnp.array(jnp.full_like(x, value), copy=True), node.value),
            pending=jax.tree.map(jnp.ones_like, node.pending),
            total=jax.tree.map(optax.safe_increment, node.total),
            elapsed=node.elapsed,
            counts=node.counts,
        )

    changed = _rewrite(state, (Observation, Snapshot), write)
    if not written:
        raise ValueError(
            "the state holds no controller that takes observations: build it for them, as "
            'lrx.adam(1e-3 * lrx.reduce_on_plateau(feedback="observed")), or pass the loss as '
            "tx.update(grads, state, params, value=loss) to one that is built without."
        )
    return changed


def _recipients(to: Any, found: Collection[str]) -> tuple[str, ...]:
    names = (to,) if isinstance(to, str) else tuple(to)
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        raise ValueError(
            f"to must name what takes observations, {sorted(found)} in this state, got to={to!r}: build a controller "
            'with feedback="observed" for it to be one of them.'
        )
    return names


def _rewrite(state: Any, kind: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, kind) else node,
        state,
        is_leaf=lambda node: isinstance(node, kind),
    )
