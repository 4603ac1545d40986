"""What states keep: the parts that a state is made of, and by which it is read.

A method's own statistics stay with the method; what is here is shared by every rate, factor and controller, or is what
`reading` looks for.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax

Memory: TypeAlias = Any


class RateState(NamedTuple):
    """State of every `Rate`, whether constant, scheduled or controlled: checkpoints swap between the first two."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; stays at 2^31 - 1 once there
    rate: jax.Array  # () float32: what the latest update used; before the first, what it starts with
    scale: jax.Array  # () float32: set by hand with `scale_learning_rate`, multiplies everything
    memories: tuple[Memory, ...]  # one for each factor: () for a schedule, a ControllerState for a controller


class FactorState(NamedTuple):
    """State of an unsigned link: a `Controller` alone in a chain, or `schedule.multiplier()`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; stays at 2^31 - 1 once there
    factor: jax.Array  # () float32: what the latest update was multiplied by; before the first, the initial one
    memories: tuple[Memory, ...]  # one for each factor


class ComputedRate(NamedTuple):
    """The rate of a method that takes none: to be read, not to be scaled."""

    rate: jax.Array  # () float32: what the latest update used, 0 before the first


class Snapshot(NamedTuple):
    """A state kept for later, which is no part of what a state says."""

    params: Any
    inner: Any


class GroupState(NamedTuple):
    """State of `group_rates`, which gives groups of parameters factors of their own."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates; stays at 2^31 - 1 once there
    factors: dict[str, jax.Array]  # group to () float32: what the latest update of the group was multiplied by
    inner: Any  # of the transformation whose rate is multiplied


class Observation(NamedTuple):
    """A loss that `observe` has written and that the next update takes.

    A state whose loss comes with the update has `()` in its place.
    """

    value: jax.Array  # () float32: what was written last; 0 once it is taken
    pending: jax.Array  # () bool: whether it waits to be taken
    total: jax.Array  # () int32: observations so far; stays at 2^31 - 1 once there


class ControllerState(NamedTuple):
    """State of what follows a loss within a rate."""

    factor: jax.Array  # () float32: its part in the rate
    observation: Observation | tuple[()]
    memory: Memory  # the method's own statistics, a NamedTuple
