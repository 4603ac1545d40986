"""What states keep, and the protocol by which they tell it.

A method's own statistics stay with the method; what is here is shared by every rate, factor and controller.

The protocol: a state says what it has to say by methods, each of them optional, so that a state of your own is read
like lrx's. `reading` asks for the methods and never for a type.

    rate()                () float32: the learning rate of the latest update; the state applies the sign. Before the
                          first update, what it starts with
    factor()              () float32: what the state multiplies by, without a sign; or {group: factor}
    pairs()               {label of groups within: the groups in factor() that meet it}; empty where they are the same
    shown()               {name: scalar}: what `monitor` shows of it, as "method/field"
    belongs_to()          the state that has the method's name, where that is one within it
    stops()               () bool: whether the run is over
    within()              the states within it, where these are not simply all the nodes below it
    on_path()             those of them through which a gradient goes on its way to the update, where not all do
    groups()              {label: state}: states that are for different parameters
    completed_updates()   () int32: how many updates it has made
    gathering()           minibatches gathered for the next update, and how many make one or None where that is unknown
    scale_by_hand()       () float32: what `scale_learning_rate` and `set_learning_rate` have set; or {group: scale}
    ahead()               rate() or factor() of the latest update, had it been under the scale that is set by now
    with_scale(scale, group)   the state with the scale of one of the groups in factor() set
    scale_rate(factor)    the state with the rate of later updates multiplied
    set_rate(value)       the state whose rate, had it been so in the latest update, would have been `value`
    set_scale(scale)      the state with that scale
    fixed(setting)        why `set_rate` (`scale_rate` where not `setting`) could have no effect; "" where it has
    kept()                states that are kept for later, to be changed with the others
    restart(step)         the state with the step of its schedule set
    evaluation_params(params)  the parameters to evaluate at; `params` itself where that is the same
    judge(value)          the memory of a controller once it has seen a loss: what an observation means before an update
                          takes it
    improved_since(before)     () bool: whether the best so far has come since the state `before`; a run keeps the
                          parameters that go with it
    applied_params(params)     the parameters after the update, from those to which the updates have been added
    handles_divergence()  True if the method goes on by itself after a loss that is not finite

Example:
  >>> from typing import NamedTuple
  >>> import jax, jax.numpy as jnp, lrx, optax
  >>> class TrustState(NamedTuple):
  ...     trust: jax.Array
  ...     def factor(self):
  ...         return self.trust
  ...     def shown(self):
  ...         return {"trust/ratio": self.trust}
  >>> def trust(limit):
  ...     def update(updates, state, params=None):
  ...         ratio = jnp.minimum(1.0, limit / optax.tree.norm(updates))
  ...         return jax.tree.map(lambda u: ratio * u, updates), TrustState(ratio)
  ...     return optax.GradientTransformation(lambda params: TrustState(jnp.ones([])), update)
  >>> tx = optax.chain(trust(1.0), lrx.sgd(0.5))
  >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
  >>> lrx.monitor(state, scalars=True)
  {'learning_rate': 0.125, 'scale': 1.0, 'trust/ratio': 0.25}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lrx.brief import brief

Memory: TypeAlias = Any
StateT = TypeVar("StateT", bound=type)


def tells(state: Any, method: str) -> bool:
    """Whether a state has a method of the protocol; a field of that name is none."""
    return callable(getattr(type(state), method, None))


def array(leaf: Any) -> jax.Array:
    """Return a field's value, also where flax has wrapped it in a variable."""
    return leaf if isinstance(leaf, jax.Array) else jax.tree.leaves(leaf)[0]


def change(leaf: Any, function: Callable[[jax.Array], jax.Array]) -> Any:
    """Change a field's value within the variable, if any, that flax has wrapped it in, and keep its type.

    The new value has a buffer of its own: several fields may be changed to one number, and a caller keeps it.
    """
    return jax.tree.map(lambda x: jnp.array(function(x), jnp.result_type(x)), leaf)


def method_name(state: Any) -> str:
    """Return the name of the method that a state belongs to: "adam" for an AdamState."""
    if not isinstance(state, tuple) or not hasattr(state, "_fields"):
        return "controller"  # whose memory has no name
    name = re.sub(r"State$", "", type(state).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def shows(*shown: str) -> Callable[[StateT], StateT]:
    """Give a NamedTuple a short `repr`, and the method `shown` for the scalar fields named.

    Example:
      >>> from typing import NamedTuple
      >>> import jax, jax.numpy as jnp
      >>> from lrx.states import shows
      >>> @shows("gain")
      ... class GainState(NamedTuple):
      ...     gain: jax.Array
      ...     mean: jax.Array
      >>> GainState(jnp.array(2.0), jnp.zeros((3, 2)))
      GainState(gain=2.0, mean=float32[3,2])
    """

    def decorate(cls: StateT) -> StateT:
        def say(self: Any) -> dict[str, Any]:
            return {f"{method_name(self)}/{field}": getattr(self, field) for field in shown}

        cls.__repr__ = brief  # type: ignore[assignment]
        if shown:
            cls.shown = say  # type: ignore[attr-defined]
        return cls

    return decorate


@shows()
class RateState(NamedTuple):
    """State of every `Rate`, whether constant, scheduled or controlled: checkpoints swap between the first two."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; stays at 2^31 - 1 once there
    step: jax.Array  # () int32: where the schedule is in the next update: at `count`, until `restart_schedule` sets it
    learning_rate: jax.Array  # () float32: the rate that the latest update used; before the first, what it starts with
    unscaled: jax.Array  # () float32: the same without `scale`
    scale: jax.Array  # () float32: set by hand, multiplies everything
    memories: tuple[Memory, ...]  # one for each factor: () for a schedule, a ControllerState for a controller

    def rate(self) -> jax.Array:
        """Return the rate of the latest update."""
        return self.learning_rate

    def show(self, rate: jax.Array) -> RateState:
        """Put on show what a method has made of the rate that it was given."""
        none = self.scale == 0
        unscaled = jnp.where(none, 0.0, rate / jnp.where(none, 1.0, self.scale))
        return self._replace(learning_rate=jnp.array(rate, jnp.float32), unscaled=unscaled)

    def completed_updates(self) -> jax.Array:
        """Return the number of updates."""
        return self.count

    def ahead(self) -> jax.Array:
        """Return it with what was set by hand since the latest update."""
        return array(self.unscaled) * array(self.scale)

    def scale_by_hand(self) -> jax.Array:
        """Return what was set by hand."""
        return self.scale

    def scale_rate(self, factor: jax.Array) -> RateState:
        """Multiply the rate of later updates."""
        return self._scaled_by(change(self.scale, lambda x: x * factor))

    def set_rate(self, value: jax.Array) -> RateState:
        """Choose the scale with which the latest rate would have been `value`, where a factor can do that."""
        unscaled = array(self.unscaled)
        factor = value / jnp.where(unscaled == 0, 1.0, unscaled)
        return self._scaled_by(change(self.scale, lambda x: jnp.where(unscaled == 0, x, factor)))

    def set_scale(self, scale: jax.Array) -> RateState:
        """Set by hand what multiplies the rate."""
        return self._scaled_by(change(self.scale, lambda x: jnp.broadcast_to(scale, x.shape)))

    def _scaled_by(self, scale: Any) -> RateState:
        # Before the first update the rate on show is the one that the first update will use.
        first, rate = array(self.count) == 0, array(self.unscaled) * array(scale)
        return self._replace(scale=scale, learning_rate=change(self.learning_rate, lambda x: jnp.where(first, rate, x)))

    def fixed(self, setting: bool) -> str:
        """Return why the rate cannot be set, or a factor can have no effect."""
        if any(isinstance(array(x), jax.core.Tracer) for x in (self.step, self.unscaled, self.scale)):
            return ""
        step, unscaled, scale = jax.device_get([array(x) for x in (self.step, self.unscaled, self.scale)])
        if not setting and np.all(scale == 0):
            return "factor can have no effect on a rate that was multiplied by 0: give set_learning_rate(state, value)."
        if np.any(unscaled):
            return ""
        if setting:
            return (
                "value cannot be set while the rate is 0, because it is kept as a factor: set it at another step of "
                "the schedule, restart the schedule with restart_schedule(state), or give this state to a "
                "transformation with another rate."
            )
        held = any(
            np.any(jax.device_get(array(m.factor)) == 0) for m in self.memories if isinstance(m, ControllerState)
        )
        # A warm-up begins with 0, and a controller that holds the rate at 0 for now may let it go.
        if held or np.any(step <= 1):
            return ""
        return (
            "factor can have no effect on a schedule that is at 0, as at its end: begin it again with "
            "restart_schedule(state), or go on with this state in a transformation with another rate."
        )

    def restart(self, step: jax.Array) -> RateState:
        """Set the step of the schedule; the number of updates stays."""
        return self._replace(step=change(self.step, lambda x: jnp.broadcast_to(step, x.shape)))


@shows()
class FactorState(NamedTuple):
    """State of an unsigned link: a `Controller` alone in a chain, or `schedule.multiplier()`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; stays at 2^31 - 1 once there
    step: jax.Array  # () int32: where the schedule is in the next update: at `count`, until `restart_schedule` sets it
    latest: jax.Array  # () float32: what the latest update was multiplied by; before the first, the initial one
    memories: tuple[Memory, ...]  # one for each factor

    def factor(self) -> jax.Array:
        """Return what the latest update was multiplied by."""
        return self.latest

    def on_path(self) -> tuple[Any, ...]:
        """Return nothing: the memories are within the factor."""
        return ()

    def shown(self) -> dict[str, jax.Array]:
        """Show the factor."""
        return {"factor": self.latest}

    def completed_updates(self) -> jax.Array:
        """Return the number of updates."""
        return self.count

    def restart(self, step: jax.Array) -> FactorState:
        """Set the step of the schedule; the number of updates stays."""
        return self._replace(step=change(self.step, lambda x: jnp.broadcast_to(step, x.shape)))


@shows()
class ComputedRate(NamedTuple):
    """The rate of a method that takes none: to be read, not to be scaled."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; stays at 2^31 - 1 once there
    learning_rate: jax.Array  # () float32: what the latest update used, 0 before the first

    def rate(self) -> jax.Array:
        """Return the rate of the latest update."""
        return self.learning_rate

    def completed_updates(self) -> jax.Array:
        """Return the number of updates."""
        return self.count


@shows()
class Snapshot(NamedTuple):
    """A state kept for later, which is no part of what a state says."""

    params: Any
    inner: Any

    def within(self) -> tuple[Any, ...]:
        """Return nothing: what is kept does not act."""
        return ()

    def kept(self) -> tuple[Any, ...]:
        """Return what is kept."""
        return (self.inner,)


@shows()
class Observation(NamedTuple):
    """A loss that `observe` has written and that the next update takes.


    A state whose loss comes with the update has `()` in its place.
    """

    value: jax.Array  # () float32: what was written last; 0 once it is taken
    pending: jax.Array  # () bool: whether it waits to be taken
    total: jax.Array  # () int32: observations so far; stays at 2^31 - 1 once there
    elapsed: jax.Array  # () int32: updates since one was taken, at first since the beginning
    counts: jax.Array  # () bool: whether the next update judges what it takes, which it does from `start_after` on


@shows()
class ControllerState(NamedTuple):
    """State of what follows a loss within a rate."""

    factor: jax.Array  # () float32: its part in the rate
    observation: Observation | tuple[()]
    memory: Memory  # the method's own statistics, a NamedTuple

    def belongs_to(self) -> Any:
        """Return what its method is named by."""
        return self.memory

    def shown(self) -> dict[str, jax.Array]:
        """Show the factor, under the name of the method."""
        return {f"{method_name(self.memory)}/factor": self.factor}

    def within(self) -> tuple[Any, ...]:
        """Return what waits to be taken, and the memory as it is with it."""
        return self.observation, self.current()

    def current(self) -> Memory:
        """Return the memory with what is pending judged, where the method has told how by a method `judge(value)`.

        An observation is taken by the next update; what it means for the best value and for the end of a run is to be
        read at once.
        """
        if not isinstance(self.observation, Observation) or not tells(self.memory, "judge"):
            return self.memory
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self)):
            return self.memory
        return _with_observation(*jax.tree.map(array, self[1:], is_leaf=lambda part: not isinstance(part, tuple)))


@jax.jit  # one call where it is read outside of compiled functions
def _with_observation(observation: Observation, memory: Memory) -> Memory:
    counts = observation.pending & observation.counts & jnp.isfinite(observation.value)
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), memory.judge(observation.value), memory)
