"""Adapters that give optax's states the methods of the protocol in `states`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from lrx.states import array, change, has_method, method_name

_ADAPTERS: dict[type, Callable[[Any], Any]] = {}


def adapt(node: Any) -> Any:
    """Return the view of a node that has its methods: the node itself, or the adapter of an optax state."""
    adapter = _ADAPTERS.get(type(node))
    return node if adapter is None else adapter(node)


def _adapts(*kinds: type) -> Callable[[type], type]:
    def register(adapter: type) -> type:
        _ADAPTERS.update(dict.fromkeys(kinds, adapter))
        return adapter

    return register


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Base of the adapters: the methods of the protocol, for a state of optax's."""

    state: Any


@_adapts(optax.PartitionState)
class _Partition(Adapter):
    def groups(self) -> dict[str, Any]:
        return {str(label): inner for label, inner in self.state.inner_states.items()}

    def with_groups(self, groups: dict[str, Any]) -> Any:
        return self.state._replace(inner_states={label: groups[str(label)] for label in self.state.inner_states})


@_adapts(optax.InjectStatefulHyperparamsState, optax.InjectHyperparamsState)
class _Injected(Adapter):
    """The state keeps a number; it computes the rate of a schedule from the state of the schedule at each update."""

    def within(self) -> tuple[Any, ...]:
        return (self.state.inner_state,)

    def completed_updates(self) -> jax.Array:
        return self.state.count

    def injected_rate(self) -> jax.Array | None:
        """Return the rate, which is read if the state within holds none."""
        return self.state.hyperparams.get("learning_rate")

    def shown(self) -> dict[str, Any]:
        return {key: value for key, value in self.state.hyperparams.items() if key != "learning_rate"}

    def _memory(self) -> Any:
        return getattr(self.state, "hyperparams_states", {}).get("learning_rate")

    def scale_by_hand(self) -> jax.Array | None:
        memory = self._memory()
        return memory.scale_by_hand() if has_method(memory, "scale_by_hand") else None

    def fixed(self, setting: bool) -> str:
        memory = self._memory()
        if memory is None or has_method(memory, "scale_rate"):
            return memory.fixed(setting) if has_method(memory, "fixed") else ""
        return (
            "learning_rate must be a number or an lrx schedule in optax.inject_hyperparams to be changed, got a "
            f"{type(memory).__name__}, which counts steps and keeps no factor: give lrx.Schedule(function)."
        )

    def _with_rate(self, value: Any, memory: Any) -> Any:
        state = self.state._replace(hyperparams={**self.state.hyperparams, "learning_rate": value})
        if memory is None:
            return state
        return state._replace(hyperparams_states={**self.state.hyperparams_states, "learning_rate": memory})

    def _edit(self, edit: Callable[[Any], Any], number: Callable[[jax.Array], jax.Array]) -> Any:
        value, memory = self.state.hyperparams["learning_rate"], self._memory()
        if memory is None:
            return self._with_rate(change(value, number), None)
        edited = edit(memory)
        return self._with_rate(change(value, lambda x: edited.rate() if _first(edited) else x), edited)

    def scale_rate(self, factor: jax.Array) -> Any:
        return self._edit(lambda memory: memory.scale_rate(factor), lambda x: x.astype(jnp.float32) * factor)

    def set_rate(self, value: jax.Array) -> Any:
        return self._edit(lambda memory: memory.set_rate(value), lambda x: jnp.broadcast_to(value, x.shape))

    def restart(self, step: jax.Array) -> Any:
        memory = self._memory()
        if has_method(memory, "restart"):
            memory = memory.restart(step)
        elif getattr(memory, "_fields", ()) == ("count",):  # optax's, of a function of the step
            memory = memory._replace(count=_with_step(memory.count, step))
        else:
            return self.state
        return self._with_rate(self.state.hyperparams["learning_rate"], memory)


def _first(memory: Any) -> jax.Array:
    return array(memory.completed_updates()) == 0


def _with_step(count: Any, step: jax.Array) -> Any:
    return change(count, lambda x: jnp.broadcast_to(step, x.shape))


@_adapts(optax.ScaleByScheduleState)
class _Scheduled(Adapter):
    """The state does not hold the factor."""

    def completed_updates(self) -> jax.Array:
        return self.state.count

    def restart(self, step: jax.Array) -> Any:
        return self.state._replace(count=_with_step(self.state.count, step))


@_adapts(
    optax.ScaleByAdamState,
    optax.ScaleByAmsgradState,
    optax.ScaleByBeliefState,
    optax.ScaleByLBFGSState,
    optax.ScaleByLionState,
    contrib.GaLoreState,
    contrib.MuonState,
    contrib.ScaleByAdemamixState,
    contrib.SophiaState,
)
class _Counted(Adapter):
    def completed_updates(self) -> jax.Array:
        return self.state.count


@_adapts(optax.MultiStepsState)
class _MultiSteps(Adapter):
    """The state does not hold the number of gradients that make an update."""

    def gathering(self) -> tuple[jax.Array, None]:
        return self.state.mini_step, None


@_adapts(optax.SnapshotState)
class _Measured(Adapter):
    def shown(self) -> dict[str, Any]:
        return _scalars(self.state.measurement)

    def within(self) -> tuple[Any, ...]:
        return ()


@_adapts(optax.MonitorState)
class _Monitored(Adapter):
    def shown(self) -> dict[str, Any]:
        return _scalars(self.state.measurements)

    def within(self) -> tuple[Any, ...]:
        return ()


def _scalars(measurements: dict[str, Any]) -> dict[str, Any]:
    found = {name: jax.tree.leaves(value) for name, value in measurements.items()}
    return {name: leaves[0] for name, leaves in found.items() if len(leaves) == 1 and jnp.ndim(leaves[0]) == 0}


class _Multiplies(Adapter):
    """An optax state that holds the number it multiplies by."""

    def shown(self) -> dict[str, Any]:
        return {f"{method_name(self.state)}/factor": self.factor()}

    def factor(self) -> jax.Array:
        raise NotImplementedError


@_adapts(contrib.ReduceLROnPlateauState)
class _Plateau(_Multiplies):
    def shown(self) -> dict[str, Any]:
        return {"reduce_on_plateau/factor": self.factor()}

    def factor(self) -> jax.Array:
        return array(self.state.scale)


@_adapts(optax.ScaleByBacktrackingLinesearchState, optax.ScaleByZoomLinesearchState)
class _LineSearch(_Multiplies):
    def factor(self) -> jax.Array:
        return array(self.state.learning_rate)

    def within(self) -> tuple[Any, ...]:
        return ()


@_adapts(contrib.MechanicState)
class _Mechanic(_Multiplies):
    def factor(self) -> jax.Array:
        return jnp.sum(array(self.state.s), axis=-1)

    def within(self) -> tuple[Any, ...]:
        return (self.state.base_optimizer_state,)

    def completed_updates(self) -> jax.Array:
        return self.state.count


class _Signed(Adapter):
    """A whole optimizer of optax's; its state does not hold the rate."""

    def applies_sign(self) -> str:
        """Return its name."""
        return f"optax.contrib.{_NAMES[type(self.state)]}"


_NAMES = {
    contrib.COCOBState: "cocob",
    contrib.DAdaptAdamWState: "dadapt_adamw",
    contrib.MadgradState: "madgrad",
    contrib.MomoState: "momo",
    contrib.MomoAdamState: "momo_adam",
    contrib.ProdigyState: "prodigy",
    contrib.ScheduleFreeState: "schedule_free",
}


@_adapts(contrib.COCOBState)
class _Whole(_Signed):
    pass


@_adapts(contrib.ScheduleFreeState)
class _ScheduleFree(_Signed):
    def evaluation_params(self, params: Any) -> Any:
        """Return x, the average."""
        return contrib.schedule_free_eval_params(self.state, params)


@_adapts(contrib.MadgradState, contrib.MomoState, contrib.MomoAdamState)
class _Counting(_Signed):
    def completed_updates(self) -> jax.Array:
        return self.state.count


@_adapts(contrib.ProdigyState, contrib.DAdaptAdamWState)
class _Estimated(_Counting, _Multiplies):
    """The rate is a multiple of the estimate; the state holds the estimate for the next update."""

    def factor(self) -> jax.Array:
        return array(self.state.estim_lr)


@_adapts(contrib.SAMState)
class _SAM(Adapter):
    """The adversary's rate is the radius of its search, and not on the path to the update."""

    def stable_product(self) -> jax.Array:
        raise ValueError("the state must belong to a method whose stability is known, got that of optax.contrib.sam.")

    def within(self) -> tuple[Any, ...]:
        return (self.state.opt_state, self.state.adv_state)

    def on_path(self) -> tuple[Any, ...]:
        return (self.state.opt_state,)
