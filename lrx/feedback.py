"""How a loss reaches a controller: with the update, or as an observation that the next update takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._numbers import ArrayLike, is_number
from lrx.rates import Controller, Core, Feedback
from lrx.states import ControllerState, Memory, Observation, method_name


def check_loss(value: Any, *, name: str = "value") -> None:
    """Require one real number. It may be infinite or NaN: each method decides what that means."""
    if not is_number(value) or jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise TypeError(f"{name} must be a real number, got {name}={value!r}: pass the loss.")
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got {name} of shape {jnp.shape(value)}: pass the mean, jnp.mean(loss)."
        )


def no_observation(feedback: str) -> Observation | tuple[()]:
    """Return a new state's observation: `()` if the loss comes with the update."""
    _checks.one_of("feedback", feedback, ("value", "observed"))
    if feedback == "value":
        return ()
    return Observation(
        value=jnp.zeros([], jnp.float32),
        pending=jnp.zeros([], bool),
        total=jnp.zeros([], jnp.int32),
        elapsed=jnp.zeros([], jnp.int32),
        counts=jnp.ones([], bool),
    )


def take_value(
    method: str,
    observation: Observation | tuple[()],
    extra_args: Mapping[str, Any],
    feedback: str,
    *,
    name: str = "value",
) -> tuple[jax.Array, jax.Array | bool, Observation | tuple[()]]:
    """Take the loss of this update from the extra argument or from an observation.

    Args:
      method: the name of the method that needs the loss, for the error.
      observation: the observation in the state.
      extra_args: those of the update.
      feedback: "value" if the loss comes with the update, "observed" if through `observe`.
      name: the name of the extra argument.

    Returns:
      The loss, () float32; whether there is one, which for an observation is known only at run time; and the
      observation of the next state, in which nothing is pending, so that each loss is taken once.

    Raises:
      ValueError: if there is no loss, if it is not a scalar, or if the state was made for the other kind of feedback.
    """
    if (feedback == "observed") != isinstance(observation, Observation):
        other = "value" if feedback == "observed" else "observed"
        raise ValueError(
            f"feedback must be what the state was made with, got feedback={feedback!r} in {method} and a state made "
            f'with "{other}": make the state with this transformation\'s init.'
        )
    if isinstance(observation, Observation):
        taken = observation._replace(
            value=jnp.zeros_like(observation.value),
            pending=jnp.zeros_like(observation.pending),
            elapsed=jnp.where(observation.pending, 0, optax.safe_increment(observation.elapsed)),
        )
        return observation.value, observation.pending, taken
    value = extra_args.get(name)
    if value is None:
        raise ValueError(
            f"{method} needs the {'loss' if name == 'value' else name}: pass it as tx.update(grads, state, params, "
            f"{name}={'loss' if name == 'value' else name}). Where a wrapper drops it, build "
            f'{method}(..., feedback="observed") and call state = lrx.observe(state, value=loss) before the update.'
        )
    check_loss(value, name=name)
    return jnp.asarray(value, jnp.float32), True, ()


def feedback_core(
    *,
    init: Callable[[Any], tuple[ArrayLike, Memory]],
    update: Callable[[Memory, jax.Array, Feedback], tuple[jax.Array, Memory]],
    feedback: str,
    start_after: ArrayLike = 0,
) -> Core:
    """Build the core of a method that follows a loss from its own two functions.

    Args:
      init: takes the parameters to the factor before any feedback and the method's memory.
      update: takes the memory, a loss, () float32, and all the feedback of the step to the factor and the next memory.
      feedback: "value" if `update` is given the loss, "observed" if it comes through `observe`: then a step without an
        observation keeps factor and memory.
      start_after: updates before the first whose loss the method sees, >= 0; may be traced.
    """
    _checks.one_of("feedback", feedback, ("value", "observed"))
    _checks.steps("start_after", start_after, at_least=0, unit="updates")
    at_once = _checks.is_concrete(start_after) and int(start_after) == 0

    def is_seen(count: jax.Array) -> jax.Array | bool:
        return True if at_once else count >= jnp.asarray(start_after, jnp.int32)

    def core_init(params: Any) -> tuple[jax.Array, ControllerState]:
        factor, memory = init(params)
        start = jnp.array(factor, jnp.float32)
        observation = no_observation(feedback)
        if isinstance(observation, Observation) and not at_once:
            observation = observation._replace(counts=jnp.array(is_seen(jnp.zeros([], jnp.int32))))
        return jnp.array(start), ControllerState(start, observation, memory)

    def core_update(state: ControllerState, seen: Feedback) -> tuple[jax.Array, ControllerState]:
        value, is_given, observation = take_value(
            method_name(state.memory), state.observation, seen.extra_args, feedback
        )
        if isinstance(state.observation, Observation) and isinstance(observation, Observation):
            seen = seen._replace(interval=optax.safe_increment(state.observation.elapsed))
            if not at_once:
                observation = observation._replace(counts=jnp.array(is_seen(optax.safe_increment(seen.count))))
        usable = jnp.isfinite(value) & is_given & is_seen(seen.count)
        new, old = update(state.memory, value, seen), (state.factor, state.memory)
        factor, memory = jax.tree.map(lambda after, before: jnp.where(usable, after, before), new, old)
        # A copy, because the memory may hold the factor too.
        return factor, ControllerState(jnp.array(factor), observation, memory)

    return Core(core_init, core_update)


def controller(
    *,
    init: Callable[[Any], Memory],
    update: Callable[[Memory, jax.Array], tuple[jax.Array, Memory]],
    feedback: str = "value",
    start_after: ArrayLike = 0,
) -> Controller:
    """Build a controller that follows a loss from the two functions of its method.

    The method does not see where the loss comes from: with `feedback="value"` each update asks for it as `value=`; with
    "observed" it comes only through `observe`, an update takes it once, and `value=` is ignored. The method never sees
    a loss that is not finite.

    Put `@factory` before the function that calls this: the controller then has a `repr` that rebuilds it, pickles, and
    equals the controller of an equal call.

    Args:
      init: takes the parameters to the method's memory: a NamedTuple `<Method>State`, after which errors and `monitor`
        name the method.
      update: maps the memory and a loss, () float32, to the factor and the next memory.
      feedback: "value" or "observed".
      start_after: updates before the first whose loss the method sees, >= 0, the length of a warm-up: the factor stays
        1 until then; may be traced.

    Returns:
      The `Controller`. Its memory may have the methods that `lrx.states` lists, for example to show a number or to end
      a run. With a method `judge(value)`, which returns the next memory, `lrx.stopped` knows of an observation before
      an update has taken it.

    Example:
      >>> from typing import NamedTuple
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.feedback import controller
      >>> from lrx.transformations import factory
      >>> class HalveOnceState(NamedTuple):
      ...     halved: jax.Array
      >>> @factory
      ... def halve_once(*, below):
      ...     def update(state, value):
      ...         state = HalveOnceState(state.halved | (value < below))
      ...         return jnp.where(state.halved, 0.5, 1.0), state
      ...     init = lambda params: HalveOnceState(jnp.zeros([], bool))
      ...     return controller(init=init, update=update)
      >>> 0.1 * halve_once(below=0.3)
      0.1 * halve_once(below=0.3)
    """
    core = feedback_core(
        init=lambda params: (1.0, init(params)),
        update=lambda memory, value, _seen: update(memory, value),
        feedback=feedback,
        start_after=start_after,
    )
    return Controller.from_cores((core,))
