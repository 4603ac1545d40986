"""Methods that differ in their schedules alone share an update: their rate at a step is chosen by a number."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lrx.rates import Schedule, constant
from lrx.transformations import Built

RATE = "learning_rate"


def group(transformations: Sequence[Any], flat: Sequence[bool]) -> tuple[int, ...]:
    """Return the number of the group of each transformation: 0, 1, ... in the order of their first members.

    Transformations of one group are calls of one factory of lrx whose arguments are equal but for the learning rate,
    which is a number or a schedule, and all or none of them are `Method.flat`.
    """
    numbers: dict[Hashable, int] = {}
    return tuple(
        numbers.setdefault(_key(tx, place, one_flat), len(numbers))
        for place, (tx, one_flat) in enumerate(zip(transformations, flat, strict=True))
    )


def _key(tx: Any, place: int, flat: bool) -> Hashable:
    if isinstance(tx, Built) and tx.factory is not None and _as_schedule(tx.arguments.get(RATE)) is not None:
        others = tuple((name, value) for name, value in tx.compared().items() if name != RATE)
        try:
            hash(others)
        except TypeError:
            return place
        return tx.factory, others, flat
    return place


def _as_schedule(rate: Any) -> Schedule | None:
    if isinstance(rate, Schedule):
        return rate
    is_number = isinstance(rate, int | float) or (hasattr(rate, "dtype") and jnp.ndim(rate) == 0)
    return constant(rate) if is_number else None


def merge(transformations: Sequence[Any], place: jax.Array) -> Any:
    """Return one transformation for those of a group, with the rate of the one at a place.

    Args:
      transformations: the members.
      place: the member's place, () int32; it may be traced.
    """
    first = transformations[0]
    if len(transformations) == 1:
        return first
    schedules = [_as_schedule(tx.arguments[RATE]) for tx in transformations]
    known: list[Schedule] = [schedule for schedule in schedules if schedule is not None]
    functions: list[Callable[[Any], Any]] = [schedule.function for schedule in known]
    peaks = [schedule.peak for schedule in known]
    peak = None if any(each is None for each in peaks) else jnp.stack([jnp.float32(each) for each in peaks])[place]
    rate = Schedule.of_counts(lambda count: jax.lax.switch(place, functions, count), peak=peak)
    assert first.factory is not None
    return first.factory(**(dict(first.arguments) | {RATE: rate}))
