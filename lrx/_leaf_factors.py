"""Factors of single leaves, from `group_rates` to where a rate acts, and which leaves a rate is for."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrx._paths import Path, named_leaves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeafFactors:
    """Factors of single leaves, on their way from `group_rates` to the places where a rate acts.

    They travel as the extra argument `leaf_factors` and are found by path, through every wrapper that hides a part of
    the tree. This is a pytree, so that an inner `update` may be jitted: it holds one array for each group and, as
    static data, the group of each leaf.
    """

    values: tuple[jax.Array, ...]  # (...) float32: one for each group; each broadcasts against its leaves
    index: tuple[tuple[Path, int], ...] = dataclasses.field(metadata={"static": True})  # leaf to place in `values`
    reached: Reached | None = dataclasses.field(default=None, metadata={"static": True})

    @functools.cached_property
    def place(self) -> dict[Path, int]:
        """Return the place of each leaf's factor in `values`."""
        return dict(self.index)

    @classmethod
    def of(cls, by_path: Mapping[Path, Hashable], factors: Mapping[Any, jax.Array]) -> LeafFactors:
        """Build the factors of leaves from the label of each leaf and the factor of each label."""
        order = {label: number for number, label in enumerate(factors)}
        return cls(tuple(factors.values()), tuple((path, order[label]) for path, label in by_path.items()))

    def times(self, outer: Any) -> LeafFactors:
        """Multiply by the factors of an outer `group_rates`, if there is one."""
        if not isinstance(outer, LeafFactors):
            return self
        pairs = {path: (number, outer.place.get(path)) for path, number in self.index}
        products = {
            (mine, theirs): self.values[mine] if theirs is None else self.values[mine] * outer.values[theirs]
            for mine, theirs in dict.fromkeys(pairs.values())
        }
        return dataclasses.replace(LeafFactors.of(pairs, products), reached=outer.reached)


class Reached:
    """The leaves that a rate acts on. They are noted only while an update is evaluated abstractly."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()


def rates_by_leaf(rate: jax.Array, updates: Any, extra_args: Mapping[str, Any]) -> list[jax.Array]:
    """Return the rate of each leaf of `updates`, `None` leaves included; outside of `group_rates` all are equal."""
    carried = extra_args.get("leaf_factors")
    if not isinstance(carried, LeafFactors):
        return [rate] * len(jax.tree.leaves(updates, is_leaf=lambda leaf: leaf is None))
    paths = [path for path, _ in named_leaves(updates, is_leaf=lambda leaf: leaf is None)]
    if carried.reached is not None:
        carried.reached.paths.update(paths)
    places = [carried.place.get(path) for path in paths]
    # One multiplication for each group, not for each leaf.
    products = {place: rate * carried.values[place] for place in dict.fromkeys(places) if place is not None}
    return [rate if place is None else products[place] for place in places]


def tree_of_rates(rate: jax.Array, updates: Any, extra_args: Mapping[str, Any]) -> Any:
    """Return the rate of each leaf, as a tree."""
    structure = jax.tree.structure(updates, is_leaf=lambda leaf: leaf is None)
    return jax.tree.unflatten(structure, rates_by_leaf(rate, updates, extra_args))


def moving_masks(updates: Any, extra_args: Mapping[str, Any]) -> list[Any]:
    """Return a mask for each leaf of `updates`, `None` leaves included: the coordinates whose group has a factor > 0.

    It is True outside of `group_rates`, and otherwise an array of bools that broadcasts against the leaf.
    """
    carried = extra_args.get("leaf_factors")
    if not isinstance(carried, LeafFactors):
        return [True] * len(jax.tree.leaves(updates, is_leaf=lambda leaf: leaf is None))
    flags = [value != 0 for value in carried.values]
    places = [carried.place.get(path) for path, _ in named_leaves(updates, is_leaf=lambda leaf: leaf is None)]
    return [True if place is None else flags[place] for place in places]


def where_moving(moves: Any, terms: jax.Array) -> jax.Array:
    """Return the terms of a leaf, and 0 for the coordinates that do not move."""
    return terms if moves is True else jnp.where(moves, terms, 0)


_starts: contextvars.ContextVar[list[tuple[jax.Array, dict[Path, str]]] | None]
_starts = contextvars.ContextVar("starts", default=None)


@contextlib.contextmanager
def collect_starts() -> Iterator[list[tuple[jax.Array, dict[Path, str]]]]:
    """Collect, while an `init` runs, which leaves each rate and each set of groups within it is for.

    A state that keeps nothing for its leaves, such as that of SGD, does not show this, and neither does
    `optax.partition`. Each state is identified by the array of its count.
    """
    outer, found = _starts.get(), list[tuple[jax.Array, dict[Path, str]]]()
    token = _starts.set(found)
    try:
        yield found
    finally:
        _starts.reset(token)
        if outer is not None:
            outer += found


def note_start(count: jax.Array, groups: Callable[[], dict[Path, str]]) -> None:
    """Note which leaves the state with this count is for, each with its group, if `collect_starts` is active."""
    if (found := _starts.get()) is not None:
        found.append((count, groups()))
