"""Several methods in one compiled program: which of them makes the step is a number, which may be traced.

To compile each method alone is to compile the gradient of the model again for each, which takes longer than all updates
together. Here the gradient is compiled once, and `jax.lax.switch` chooses between the updates. The states of the
methods differ in structure, so they share a pool of arrays: a slot for each shape and type, as many as the method with
the most of them needs. A method whose update does not depend on how the parameters are divided into arrays sees all
but the largest as one vector (`Method.flat`), which compiles in a fraction of the time. The largest stay as they are,
since to copy them would take longer than their update. All updates leave the switch in this form, so that they are
divided into arrays once, not in each branch.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx._walk import nodes_with
from lrx.extra_args import tolerant_update
from lrx.run_state import can_stop, eval_params, settle_params, stopped

LARGE = 2**15  # elements of a leaf, from which on it stays as it is
MOST_LARGE = 4  # leaves that do, so that few operations are compiled


class _Layout(NamedTuple):
    """Where the leaves of a method's state lie in the pool."""

    structure: Any  # of the state
    slots: tuple[int, ...]  # of its leaves, in order
    flat: bool  # whether the method sees the parameters as `_ravel` divides them


class Branch(NamedTuple):
    """A method of a `switch`."""

    tx: optax.GradientTransformation
    name: str  # for error messages
    flat: bool = False  # as `Method.flat`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SwitchState:
    """State of `switch`."""

    method: jax.Array  # () int32: the method's place
    pool: tuple[jax.Array, ...]  # leaves of the method's state, and slots that other methods use
    layouts: tuple[_Layout, ...] = dataclasses.field(metadata={"static": True})

    def unpack(self, place: int) -> Any:
        """Return the state of the method at a place, which must be the one in use."""
        layout = self.layouts[place]
        return jax.tree.unflatten(layout.structure, [self.pool[slot] for slot in layout.slots])

    def evaluation_point(self, place: int, params: Any) -> Any:
        """Return the parameters at which the method at a place is evaluated, `params` itself if they are the same."""
        seen = _ravel(params) if self.layouts[place].flat else params
        point = eval_params(self.unpack(place), seen)
        return params if point is seen else _unravel(point, params) if self.layouts[place].flat else point

    def within(self) -> tuple[Any, ...]:
        """The states within it: none, since which method's they are is known to the program only."""
        return ()

    def stops(self) -> jax.Array:
        """Whether the method has ended the run."""
        if not any(can_stop(self.unpack(place)) for place in self._places):
            return jnp.bool_(False)
        return _choose(self.method, [_bind(lambda place: stopped(self.unpack(place)), place) for place in self._places])

    def evaluation_params(self, params: Any) -> Any:
        """The parameters at which the method is evaluated."""
        return _choose(self.method, [_bind(self.evaluation_point, place, params) for place in self._places])

    def applied_params(self, params: Any) -> Any:
        """The parameters after the method's update."""
        if not any(nodes_with(self.unpack(place), "applied_params") for place in self._places):
            return params

        def settle(place: int) -> Any:
            state, flat = self.unpack(place), self.layouts[place].flat
            return _unravel(settle_params(state, _ravel(params)), params) if flat else settle_params(state, params)

        return _choose(self.method, [_bind(settle, place) for place in self._places])

    @property
    def _places(self) -> range:
        return range(len(self.layouts))


def switch(branches: Sequence[Branch], method: jax.Array) -> optax.GradientTransformationExtraArgs:
    """Return the transformation that is the one of a branch.

    Args:
      branches: the methods.
      method: the place of the one to use, () int32; it may be traced.
    """

    def init(params: Any) -> SwitchState:
        vectors = _ravel(params)

        def begin(place: int) -> Any:
            tx, _, flat = branches[place]
            return tx.init(vectors if flat else params)

        layouts, slots = _share([jax.eval_shape(_bind(begin, place)) for place in range(len(branches))], branches)
        empty = [_blank(*slot) for slot in slots]

        def fill(place: int) -> list[jax.Array]:
            return _pack(empty, layouts[place], begin(place), branches[place].name)

        return SwitchState(
            method, tuple(_choose(method, [_bind(fill, place) for place in range(len(branches))])), layouts
        )

    def update(updates: Any, state: SwitchState, params: Any = None, **extra: Any) -> tuple[Any, SwitchState]:
        gradient_vectors, vectors = _ravel(updates), _ravel(params)

        def advance(place: int) -> tuple[Any, list[jax.Array]]:
            tx, name, flat = branches[place]
            old = state.unpack(place)
            if flat:
                changes, new = tolerant_update(tx)(gradient_vectors, old, vectors, **_ravel_arguments(extra, params))
                changes = _complete(changes, gradient_vectors)
            else:
                changes, new = tolerant_update(tx)(updates, old, params, **extra)
                changes = _ravel(_complete(changes, updates))
            return changes, _pack(state.pool, state.layouts[place], new, name)

        changes, pool = _choose(state.method, [_bind(advance, place) for place in range(len(branches))])
        return _unravel(changes, updates), dataclasses.replace(state, pool=tuple(pool))

    return optax.GradientTransformationExtraArgs(init, update)


def _bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return functools.partial(function, *arguments)


def _choose(place: jax.Array, branches: Sequence[Callable[[], Any]]) -> Any:
    return branches[0]() if len(branches) == 1 else jax.lax.switch(place, branches)


def _ravel(tree: Any) -> tuple[jax.Array, ...]:
    """Return the largest leaves, and all others as one vector for each type."""
    leaves = jax.tree.leaves(tree)
    large = _large(leaves)
    by_type: dict[Any, list[jax.Array]] = {}
    for index, leaf in enumerate(leaves):
        if index not in large:
            by_type.setdefault(jnp.result_type(leaf), []).append(jnp.ravel(leaf))
    return (*(leaves[index] for index in large), *map(jnp.concatenate, by_type.values()))


def _unravel(parts: Sequence[jax.Array], like: Any) -> Any:
    """Return a tree of the structure, shapes and types of `like` from what `_ravel` makes of it."""
    leaves, structure = jax.tree.flatten(like)
    large = _large(leaves)
    types = list(dict.fromkeys(jnp.result_type(leaf) for index, leaf in enumerate(leaves) if index not in large))
    vectors = parts[len(large) :]
    done = dict.fromkeys(types, 0)
    found = []
    for index, leaf in enumerate(leaves):
        if index in large:
            found.append(parts[large.index(index)])
            continue
        dtype, size = jnp.result_type(leaf), math.prod(jnp.shape(leaf))
        part = vectors[types.index(dtype)][done[dtype] : done[dtype] + size]
        found.append(part.reshape(jnp.shape(leaf)))
        done[dtype] += size
    return jax.tree.unflatten(structure, found)


def _large(leaves: Sequence[Any]) -> list[int]:
    """Return the places of the leaves that stay as they are."""
    sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]
    largest = sorted(range(len(leaves)), key=lambda index: -sizes[index])[:MOST_LARGE]
    return sorted(index for index in largest if sizes[index] >= LARGE)


def _ravel_arguments(extra: Mapping[str, Any], params: Any) -> dict[str, Any]:
    """Return extra arguments of an update for a method that sees vectors."""
    found = dict(extra)
    if "grad" in found:
        found["grad"] = _ravel(found["grad"])
    if "value_fn" in found:
        found["value_fn"] = lambda vectors: extra["value_fn"](_unravel(vectors, params))
    if "grad_fn" in found:
        found["grad_fn"] = lambda vectors, *rest: _ravel(extra["grad_fn"](_unravel(vectors, params), *rest))
    return found


def _share(
    shapes: Sequence[Any], branches: Sequence[Branch]
) -> tuple[tuple[_Layout, ...], list[tuple[tuple[int, ...], Any]]]:
    """Return the layout of each state, and shape and type of each slot of the pool."""
    slots: list[tuple[tuple[int, ...], Any]] = []
    known: dict[Hashable, list[int]] = collections.defaultdict(list)  # slots of a shape and type
    layouts = []
    for shape, branch in zip(shapes, branches, strict=True):
        leaves, structure = jax.tree.flatten(shape)
        used: collections.Counter[Hashable] = collections.Counter()
        places = []
        for leaf in leaves:
            kind = leaf.shape, leaf.dtype
            if used[kind] == len(known[kind]):
                known[kind].append(len(slots))
                slots.append(kind)
            places.append(known[kind][used[kind]])
            used[kind] += 1
        layouts.append(_Layout(structure, tuple(places), branch.flat))
    return tuple(layouts), slots


def _blank(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Return an array for a slot that the method does not use."""
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape)
    return jnp.zeros(shape, dtype)


def _complete(changes: Any, updates: Any) -> Any:
    """Return updates of the types of the gradients, since those of all methods must have one type; zero for None."""
    return jax.tree.map(
        lambda gradient, change: jnp.zeros_like(gradient) if change is None else change.astype(gradient.dtype),
        updates,
        changes,
    )


def _pack(pool: Sequence[jax.Array], layout: _Layout, state: Any, name: str) -> list[jax.Array]:
    """Return the pool with the leaves of a state in their slots."""
    leaves, structure = jax.tree.flatten(state)
    if structure != layout.structure:
        raise TypeError(
            f"portfolio[{name!r}].make must give a transformation whose update keeps the structure of its state, but "
            f"{layout.structure} became {structure}."
        )
    filled = list(pool)
    for slot, leaf in zip(layout.slots, leaves, strict=True):
        value = jnp.asarray(leaf, jnp.result_type(leaf))  # without a weak type
        if (value.shape, value.dtype) != (filled[slot].shape, filled[slot].dtype):
            raise TypeError(
                f"portfolio[{name!r}].make must give a transformation whose update keeps the types of its state, but "
                f"{filled[slot].dtype}{list(filled[slot].shape)} became {value.dtype}{list(value.shape)}."
            )
        filled[slot] = value
    return filled
