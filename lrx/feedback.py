"""How a loss reaches a controller: with the update, or by an observation that waits for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.rates import ArrayLike, Controller, Core, Feedback, is_number
from lrx.states import ControllerState, Inbox, Memory


def check_loss(value: Any, *, name: str = "value") -> None:
    """Require one real number; that it is finite is each method's own affair."""
    if not is_number(value) or jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise TypeError(f"{name} must be a real number, got {name}={value!r}: pass the loss.")
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got {name} of shape {jnp.shape(value)}: pass the mean, jnp.mean(loss)."
        )


def empty_inbox() -> Inbox:
    """Give an inbox with nothing in it."""
    return Inbox(jnp.zeros([], jnp.float32), jnp.zeros([], bool))


def receive(
    method: str, inbox: Inbox, extra_args: Mapping[str, Any], feedback: str, *, name: str = "value"
) -> tuple[jax.Array, jax.Array | bool]:
    """Take the loss of this update from where it comes: an observation, which goes first, or the extra argument.

    This is the one place that deals with it, so that no method has to.

    Args:
      method: what needs the loss, for the error.
      inbox: of the state; the next state gets an empty one, so that an observation is consumed once.
      extra_args: of the update.
      feedback: "value", or "observed" where the update brings none.
      name: of the extra argument.

    Returns:
      The loss, () float32, and whether there is one, which without an observation is known only when running.

    Raises:
      ValueError: if there is none, or it is no scalar.
    """
    if feedback == "observed":
        return inbox.observed, inbox.pending
    value = extra_args.get(name)
    if value is None:
        raise ValueError(
            f"{method} needs the {'loss' if name == 'value' else name}: pass it as tx.update(grads, state, params, "
            f"{name}={'loss' if name == 'value' else name}). Where a wrapper drops it, build "
            f'{method}(..., feedback="observed") and call state = lrx.observe(state, value=loss) before the update.'
        )
    check_loss(value, name=name)
    return jnp.where(inbox.pending, inbox.observed, jnp.asarray(value, jnp.float32)), True


def feedback_core(
    method: str,
    *,
    init: Callable[[Any], tuple[ArrayLike, Memory]],
    update: Callable[[Memory, jax.Array, Feedback], tuple[jax.Array, Memory]],
    feedback: str,
    name: str = "value",
) -> Core:
    """Build the core of a method that follows a loss, from its own two functions.

    Args:
      method: its name, for errors.
      init: takes the parameters to the factor before any feedback and the method's memory.
      update: takes the memory, a loss, () float32, and all the feedback of the step to the factor and the next memory.
      feedback: "value" where `update` is given the loss, "observed" where it comes through `observe`: then a step
        without an observation keeps factor and memory.
      name: of the extra argument.
    """
    _checks.one_of("feedback", feedback, ("value", "observed"))

    def core_init(params: Any) -> tuple[jax.Array, ControllerState]:
        factor, memory = init(params)
        start = jnp.array(factor, jnp.float32)
        return jnp.array(start), ControllerState(start, empty_inbox(), memory)

    def core_update(state: ControllerState, seen: Feedback) -> tuple[jax.Array, ControllerState]:
        value, arrived = receive(method, state.inbox, seen.extra_args, feedback, name=name)
        usable = jnp.isfinite(value) & arrived
        new, old = update(state.memory, value, seen), (state.factor, state.memory)
        factor, memory = jax.tree.map(lambda after, before: jnp.where(usable, after, before), new, old)
        empty = Inbox(jnp.zeros_like(state.inbox.observed), jnp.zeros_like(state.inbox.pending))
        return factor, ControllerState(jnp.array(factor), empty, memory)  # a copy: the memory may hold it as well

    return Core(core_init, core_update)


def controller(
    factory: Callable[..., Controller],
    arguments: Mapping[str, Any],
    *,
    init: Callable[[Any], Memory],
    update: Callable[[Memory, jax.Array], tuple[jax.Array, Memory]],
    feedback: str = "value",
) -> Controller:
    """Build a controller that follows a loss from the two functions of its method.

    Where the loss comes from is no affair of the method's: with `feedback="value"` it is asked for as `value=`, with
    "observed" it is waited for, and an observation is consumed once. A pending observation goes before the `value=` of
    the same update. A loss that is not finite is no measurement: the method never sees it.

    Args:
      factory: the public function that is being called, for the `repr`, errors and pickling.
      arguments: its arguments, by name.
      init: takes the parameters to the method's memory, a NamedTuple.
      update: takes the memory and a loss, () float32, to the factor and the next memory.
      feedback: "value" or "observed".

    Returns:
      The `Controller`.

    Example:
      >>> from typing import NamedTuple
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.feedback import controller
      >>> class HalveOnceState(NamedTuple):
      ...     halved: jax.Array
      >>> def halve_once(*, below):
      ...     def update(state, value):
      ...         state = HalveOnceState(state.halved | (value < below))
      ...         return jnp.where(state.halved, 0.5, 1.0), state
      ...     init = lambda params: HalveOnceState(jnp.zeros([], bool))
      ...     return controller(halve_once, {"below": below}, init=init, update=update)
      >>> 0.1 * halve_once(below=0.3)
      0.1 * halve_once(below=0.3)
    """
    core = feedback_core(
        factory.__name__,
        init=lambda params: (1.0, init(params)),
        update=lambda memory, value, _seen: update(memory, value),
        feedback=feedback,
    )
    built = Controller.from_cores((core,))
    built.remember(factory, dict(arguments))
    return built
