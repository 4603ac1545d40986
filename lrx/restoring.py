"""Carry an old state over to another transformation, as far as it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._paths import Path, named_leaves, write_path
from lrx.states import ControllerState, Observation, Snapshot

FEW = 4  # leaves of one state that are listed one by one


@dataclasses.dataclass(frozen=True)
class CarriedOver:
    """The result of `carry_over`."""

    state: Any  # the state of the new transformation, to continue with
    taken: tuple[str, ...]  # states taken from the old state
    fresh: tuple[str, ...]  # states that keep their initial values
    dropped: tuple[str, ...]  # states of the old state without a place in the new one

    def __str__(self) -> str:
        parts = (("taken over", self.taken), ("begins anew", self.fresh), ("has no place", self.dropped))
        return "\n".join(f"{title}: {'; '.join(lines)}" for title, lines in parts if lines)

    __repr__ = __str__


class _Unit(NamedTuple):
    """The leaves of one state within a tree, without those of the states within it."""

    kind: str  # the name of its type; "" for leaves outside of all states
    path: Path
    leaves: dict[Path, Any]

    def place(self) -> str:
        return f"{self.kind or 'arrays'} at {write_path(self.path) or 'the top'}"

    def labels(self) -> Path:
        return tuple(part for part in self.path if not part.isdigit())


def carry_over(old_state: Any, new_state: Any) -> CarriedOver:
    """Carry over the parts of an old state that fit a new one, and report those that do not.

    Use it to continue a run with another transformation: with clipping before it, with a controller multiplied into the
    rate, or with `adamw` in place of `adam`. States are found by their type, wherever they stand in the chain. Fields
    that agree in name, shape and type are taken over, including moments, counts and the step of the schedule; all
    others keep the values from `tx.init`. Nothing is converted.

    If both states hold several of one type, these are matched in their order; if their numbers differ, by their place.
    Groups are matched by their labels. When groups are added or removed, each takes or gives its part. The old state
    may be a checkpoint that Orbax has restored without a target, as dicts and lists: the old transformation is not
    needed.

        old_state = orbax.checkpoint.StandardCheckpointer().restore(path)
        carried = lrx.carry_over(old_state, tx.init(params))
        print(carried)
        state = carried.state

    Args:
      old_state: an optimizer state, or one that Orbax has restored.
      new_state: the state returned by the new transformation's `init`.

    Returns:
      The new `state`, and the names of the states that were `taken`, that begin `fresh`, and that were `dropped`. The
      state has the structure, types and placement of `new_state`, in buffers of its own.

    Raises:
      ValueError: if nothing at all could be taken over.
      TypeError: if the old state is abstract.

    Example:
      >>> import lrx, optax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(3)}
      >>> old = lrx.adam(0.1)
      >>> updates, old_state = old.update(params, old.init(params))
      >>> tx = optax.chain(optax.clip_by_global_norm(1.0), lrx.adam(0.1 * lrx.reduce_on_plateau()))
      >>> carried = lrx.carry_over(old_state, tx.init(params))
      >>> print(carried)
      taken over: AdamState at 1/0; RateState at 1/1
      begins anew: ReduceOnPlateauState at 1/1/memories/1/memory
      >>> print(lrx.update_count(carried.state))
      1
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(old_state)):
        raise TypeError("old_state must hold arrays, got an abstract state: give what was restored of it.")
    known = dict(_fields(new_state))
    old, new, snapshots = _units(old_state, known), _units(new_state, known), _snapshots(new_state)
    pairs = _pairs(old, new)
    chosen = _match_arrays(pairs)
    for path, inner in snapshots:  # a copy of states that are found elsewhere too
        within = _units(inner, known, path)
        chosen |= _match_arrays(_pairs(old, within))
    taken, fresh = _report(new, {unit.path: partners[0] for unit, partners in pairs}, chosen)
    if not taken and any(unit.leaves for unit in new):
        raise ValueError(
            "old_state must have something in common with new_state, got nothing that agrees in name, shape and type: "
            f"{'; '.join(unit.place() for unit in old) or 'no arrays'}. Give the state of the same parameters."
        )
    used = {partner.path for _, partners in pairs for partner in partners}
    kept = [unit for unit in old if unit.path in used]
    dropped = _places([unit for unit in old if unit.path not in used and unit.leaves], kept)
    leaves, structure = jax.tree.flatten(new_state)
    paths = [path for path, _ in named_leaves(new_state)]
    filled = [
        _copy_to_place(chosen[path], leaf) if path in chosen else leaf for path, leaf in zip(paths, leaves, strict=True)
    ]
    return CarriedOver(jax.tree.unflatten(structure, filled), taken, fresh, dropped)


def _is_state(node: Any) -> bool:
    return isinstance(node, tuple) and bool(getattr(node, "_fields", ()))


def _fields(tree: Any) -> Iterator[tuple[frozenset[str], str]]:
    """Yield the field names of each type of state within a tree; a dict with these keys was such a state."""
    for _, node in named_leaves(tree, is_leaf=_is_state):
        if _is_state(node):
            yield frozenset(node._fields), type(node).__name__
            for field in node:
                yield from _fields(field)


def _kind(node: Any, known: Mapping[frozenset[str], str]) -> str:
    if _is_state(node):
        return type(node).__name__
    return known.get(frozenset(node), "") if isinstance(node, Mapping) and node else ""


def _units(tree: Any, known: Mapping[frozenset[str], str], path: Path = ()) -> list[_Unit]:
    loose, units = _split(tree, known, path)
    return [*([_Unit("", path, loose)] if loose else []), *units]


def _split(tree: Any, known: Mapping[frozenset[str], str], path: Path) -> tuple[dict[Path, Any], list[_Unit]]:
    """Return the leaves of a tree that are outside of all states, and the states within it."""
    loose: dict[Path, Any] = {}
    units: list[_Unit] = []
    for more, node in named_leaves(tree, is_leaf=lambda node: bool(_kind(node, known))):
        kind = _kind(node, known)
        if not kind:
            loose[more] = node
        elif kind != Snapshot.__name__:
            own, within = {}, []
            for name, field in node.items() if isinstance(node, Mapping) else zip(node._fields, node, strict=True):
                leaves, states = _split(field, known, (*path, *more, name))
                own.update({(name, *place): leaf for place, leaf in leaves.items()})
                within += states
            units += [_Unit(kind, (*path, *more), own), *within]
    return loose, units


def _snapshots(tree: Any) -> list[tuple[Path, Any]]:
    found = named_leaves(tree, is_leaf=lambda node: isinstance(node, Snapshot))
    return [((*path, "inner"), node.inner) for path, node in found if isinstance(node, Snapshot)]


def _pairs(old: list[_Unit], new: list[_Unit]) -> list[tuple[_Unit, list[_Unit]]]:
    """Match each new state with an old one, or with several if groups are added or removed."""
    pairs = []
    for kind in dict.fromkeys(unit.kind for unit in new):
        ours, theirs = [u for u in new if u.kind == kind], [u for u in old if u.kind == kind]
        if kind == "" or len(ours) != len(theirs):
            places = sorted(
                ((i, j) for i in range(len(ours)) for j in range(len(theirs))),
                key=lambda pair: (-_likeness(ours[pair[0]].path, theirs[pair[1]].path), pair),
            )
        else:
            places = [(i, i) for i in range(len(ours))]
        free, open_ = set(range(len(ours))), set(range(len(theirs)))
        for i, j in places:
            if i in free and j in open_ and _agree(ours[i].labels(), theirs[j].labels()):
                free.discard(i)
                open_.discard(j)
                pairs.append((ours[i], [theirs[j], *_find_nested(ours[i], theirs, theirs[j])]))
        pairs += [(ours[i], found) for i in sorted(free) if (found := _find_nested(ours[i], theirs, None))]
    return pairs


def _find_nested(unit: _Unit, others: list[_Unit], partner: _Unit | None) -> list[_Unit]:
    """Return further old states that contain a new one or are parts of it: one of the two is in a group."""
    return [
        other
        for other in others
        if other is not partner and unit.labels() != other.labels() and _agree(unit.labels(), other.labels())
    ]


def _likeness(path: Path, other: Path) -> int:
    if path == other:
        return 1000
    same = [a == b for a, b in zip(reversed(path), reversed(other), strict=False)]
    return same.index(False) if False in same else len(same)


def _agree(labels: Path, others: Path) -> bool:
    """Return whether one place may lie within the other: a wrapper only adds labels."""
    shorter, longer = sorted((labels, others), key=len)
    remaining = iter(longer)
    return all(label in remaining for label in shorter)


def _match_arrays(pairs: list[tuple[_Unit, list[_Unit]]]) -> dict[Path, Any]:
    """Return the old arrays that have the shape and type of a new one, by the place of the new one."""
    return {
        (*unit.path, *place): partner.leaves[place]
        for unit, partners in pairs
        for partner in reversed(partners)
        for place, leaf in unit.leaves.items()
        if place in partner.leaves and _shape(partner.leaves[place]) == _shape(leaf)
    }


def _shape(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"


def _report(
    new: list[_Unit], partners: Mapping[Path, _Unit], chosen: Mapping[Path, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    taken, fresh, parts = [], [], []
    for unit in new:
        missing = [place for place in unit.leaves if (*unit.path, *place) not in chosen]
        if len(missing) < len(unit.leaves):
            taken.append(unit)
        if not missing:
            continue
        if len(missing) == len(unit.leaves) and unit.path not in partners:
            fresh.append(unit)
            continue
        there = partners[unit.path].leaves if unit.path in partners else {}
        lines = [
            f"{write_path(place)}, {_shape(unit.leaves[place])} here, "
            + (f"{_shape(there[place])} there" if place in there else "not there")
            for place in missing
        ]
        more = f" and {len(lines) - FEW} more" if len(lines) > FEW else ""
        parts.append(f"{unit.place()} ({', '.join(lines[:FEW])}{more})")
    return _places(taken, fresh), (*_places(fresh, taken), *parts)


def _places(units: list[_Unit], others: list[_Unit]) -> tuple[str, ...]:
    """Return the places of states; one stands for all within it if these are there too, a controller by its memory."""

    def is_within(path: Path, outer: _Unit) -> bool:
        return path[: len(outer.path)] == outer.path

    whole = [unit.path for unit in units if not any(is_within(other.path, unit) for other in others)]
    named: list[_Unit] = []
    for unit in units:
        beside = {ControllerState.__name__: unit.path, Observation.__name__: unit.path[:-1]}.get(unit.kind)
        by_method = beside is not None and any(other.path == (*beside, "memory") for other in units)
        if not by_method and not any(outer.path in whole and is_within(unit.path, outer) for outer in named):
            named.append(unit)
    return tuple(unit.place() for unit in named)


def _copy_to_place(value: Any, like: Any) -> jax.Array:
    """Copy an old array to the devices of the array that it replaces."""
    copy = jnp.array(value, jnp.result_type(like), copy=True)
    if _checks.is_concrete(copy) and isinstance(like, jax.Array) and _checks.is_concrete(like):
        return jax.device_put(copy, like.sharding) if getattr(like, "committed", False) else copy
    return copy
