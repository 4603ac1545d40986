"""The states that rates, factors and controllers share, and the protocol by which every state is read.

The statistics of a method are defined in the method's own file.

The protocol is a set of methods, each of them optional. lrx asks a state for these methods and never for its type, so a
state of your own is read like lrx's:

For `learning_rate`, `monitor` and `update_count`:
    rate()                     () float32: the rate of the latest update; before the first, the first rate. The state
                               applies the sign
    factor()                   () float32: the factor of the state, without a sign; or {group: factor}
    pairs()                    {label of a group within: the groups in factor() that share leaves with it}; empty
                               if the groups are the same
    shown()                    {name: scalar}: its entries in `monitor`, named "method/field"
    belongs_to()               the state within it after which it is named
    completed_updates()        () int32: how many updates it has made

For a training loop (`lrx.run_state`):
    stops()                    () bool: whether the run is over
    improved_since(before)     () bool: whether there is a new best since the state `before`; a run then keeps its
                               parameters
    judge(value)               of a controller's memory: the memory after a loss, so that an observation is judged
                               before an update takes it
    evaluation_params(params)  the parameters to evaluate at; `params` itself if they are the same
    applied_params(params)     the parameters after the update, from the sum of parameters and updates
    handles_divergence()       True if the method recovers by itself from a loss that is not finite
    gathering()                minibatches gathered for the next update, and the number that makes one, or None

For `stability_limit` and `preconditioner_of`; a state with numbers of its own that has neither, and is not a rate, a
factor or a wrapper (`within`), has no known limit:
    stable_product()           () float32: on a quadratic, the largest product of rate and curvature that is stable
    preconditioner()           a tree like the parameters: what the gradient is divided by, held fixed

For walking through a state:
    within()                   the states within it, if these are not all the nodes below it
    on_path()                  the states within it through which a gradient passes, if these are not all
    groups()                   {label: state}: states that are for different parameters
    kept()                     states that are kept for later; they are edited with the others

For `scale_learning_rate`, `set_learning_rate` and `restart_schedule`:
    scale_by_hand()            () float32: the factor that was set by hand; or {group: factor}
    ahead()                    rate() or factor() of the latest update under the scale that is set now
    scale_rate(factor)         the state with the rate of later updates multiplied
    set_rate(value)            the state with the scale under which the latest rate would have been `value`
    set_scale(scale)           the state with that scale
    with_scale(scale, group)   the state with the scale of one of the groups in factor() set
    fixed(setting)             why `set_rate` (or, unless `setting`, `scale_rate`) would have no effect; else ""
    restart(step)              the state with the step of its schedule set

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


def has_method(state: Any, method: str) -> bool:
    """Return whether a state has a method of the protocol; a field of that name does not count."""
    return callable(getattr(type(state), method, None))


def array(leaf: Any) -> jax.Array:
    """Return a field's value, without the variable in which flax may have wrapped it."""
    return leaf if isinstance(leaf, jax.Array) else jax.tree.leaves(leaf)[0]


def change(leaf: Any, function: Callable[[jax.Array], jax.Array]) -> Any:
    """Change a field's value, inside the variable in which flax may have wrapped it, and keep its type.

    The new value is a copy, because several fields may be set to one number that the caller keeps.
    """
    return jax.tree.map(lambda x: jnp.array(function(x), jnp.result_type(x)), leaf)


def method_name(state: Any) -> str:
    """Return the name of a state's method: "adam" for an AdamState."""
    if not isinstance(state, tuple) or not hasattr(state, "_fields"):
        return "controller"  # whose memory has no name
    name = re.sub(r"State$", "", type(state).__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def shows(*shown: str) -> Callable[[StateT], StateT]:
    """Add a short `repr` to a NamedTuple, and the method `shown` for the scalar fields named.

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

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; saturates at 2^31 - 1
    step: jax.Array  # () int32: step of the schedule in the next update; `count` until `restart_schedule` sets it
    learning_rate: jax.Array  # () float32: the rate of the latest update; before the first update, the first rate
    unscaled: jax.Array  # () float32: the same without `scale`
    scale: jax.Array  # () float32: set by hand, multiplies everything
    memories: tuple[Memory, ...]  # one for each factor: () for a schedule, a ControllerState for a controller

    def rate(self) -> jax.Array:
        """Return the rate of the latest update."""
        return self.learning_rate

    def show(self, rate: jax.Array) -> RateState:
        """Show the rate that a method has made of the one that it was given."""
        none = self.scale == 0
        unscaled = jnp.where(none, 0.0, rate / jnp.where(none, 1.0, self.scale))
        return self._replace(learning_rate=jnp.array(rate, jnp.float32), unscaled=unscaled)

    def completed_updates(self) -> jax.Array:
        """Return the number of updates."""
        return self.count

    def ahead(self) -> jax.Array:
        """Return the latest rate under the scale that is set now."""
        return array(self.unscaled) * array(self.scale)

    def scale_by_hand(self) -> jax.Array:
        """Return the factor set by hand."""
        return self.scale

    def scale_rate(self, factor: jax.Array) -> RateState:
        """Multiply the rate of later updates."""
        return self._with_own_scale(change(self.scale, lambda x: x * factor))

    def set_rate(self, value: jax.Array) -> RateState:
        """Choose the scale under which the latest rate would have been `value`, unless that rate is 0."""
        unscaled = array(self.unscaled)
        factor = value / jnp.where(unscaled == 0, 1.0, unscaled)
        return self._with_own_scale(change(self.scale, lambda x: jnp.where(unscaled == 0, x, factor)))

    def set_scale(self, scale: jax.Array) -> RateState:
        """Set the factor that multiplies the rate."""
        return self._with_own_scale(change(self.scale, lambda x: jnp.broadcast_to(scale, x.shape)))

    def _with_own_scale(self, scale: Any) -> RateState:
        # Before the first update, the rate that is shown is the one that the first update will use.
        first, rate = array(self.count) == 0, array(self.unscaled) * array(scale)
        return self._replace(scale=scale, learning_rate=change(self.learning_rate, lambda x: jnp.where(first, rate, x)))

    def fixed(self, setting: bool) -> str:
        """Return why the rate cannot be set, or why a factor would have no effect."""
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
        # A warm-up begins with 0, and a controller that holds the rate at 0 may release it.
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

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; saturates at 2^31 - 1
    step: jax.Array  # () int32: step of the schedule in the next update; `count` until `restart_schedule` sets it
    latest: jax.Array  # () float32: the factor of the latest update; before the first update, the initial one
    memories: tuple[Memory, ...]  # one for each factor

    def factor(self) -> jax.Array:
        """Return the factor of the latest update."""
        return self.latest

    def on_path(self) -> tuple[Any, ...]:
        """Return nothing: the factor includes the memories."""
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
    """The rate of a method that takes none: it can be read but not scaled."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; saturates at 2^31 - 1
    learning_rate: jax.Array  # () float32: the rate of the latest update, 0 before the first

    def rate(self) -> jax.Array:
        """Return the rate of the latest update."""
        return self.learning_rate

    def completed_updates(self) -> jax.Array:
        """Return the number of updates."""
        return self.count


@shows()
class Snapshot(NamedTuple):
    """A state that is kept for later and does not act."""

    params: Any
    inner: Any

    def within(self) -> tuple[Any, ...]:
        """Return nothing: the kept state does not act."""
        return ()

    def kept(self) -> tuple[Any, ...]:
        """Return the kept state."""
        return (self.inner,)


@shows()
class Observation(NamedTuple):
    """A loss that `observe` has written and that the next update takes.

    A state whose loss comes with the update has `()` in its place.
    """

    value: jax.Array  # () float32: the latest observation; 0 once it is taken
    pending: jax.Array  # () bool: whether it waits to be taken
    total: jax.Array  # () int32: observations so far; saturates at 2^31 - 1
    elapsed: jax.Array  # () int32: updates since one was taken, at first since the beginning
    counts: jax.Array  # () bool: whether the next update judges it, as from `start_after` on


@shows()
class ControllerState(NamedTuple):
    """State of a controller, or of another rule that follows a loss, within a rate."""

    factor: jax.Array  # () float32: its part in the rate
    observation: Observation | tuple[()]
    memory: Memory  # the method's own statistics, a NamedTuple

    def belongs_to(self) -> Any:
        """Return the memory, after which the method is named."""
        return self.memory

    def shown(self) -> dict[str, jax.Array]:
        """Show the factor, under the name of the method."""
        return {f"{method_name(self.memory)}/factor": self.factor}

    def within(self) -> tuple[Any, ...]:
        """Return the observation, and the memory that takes account of it."""
        return self.observation, self.current()

    def current(self) -> Memory:
        """Return the memory after a pending observation, if the memory has a method `judge(value)`.

        The next update takes an observation, but whether it is the best or ends the run can be read at once.
        """
        if not isinstance(self.observation, Observation) or not has_method(self.memory, "judge"):
            return self.memory
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self)):
            return self.memory
        return _with_observation(*jax.tree.map(array, self[1:], is_leaf=lambda part: not isinstance(part, tuple)))


@jax.jit  # one call if it is read outside of compiled functions
def _with_observation(observation: Observation, memory: Memory) -> Memory:
    counts = observation.pending & observation.counts & jnp.isfinite(observation.value)
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), memory.judge(observation.value), memory)
