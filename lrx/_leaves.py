"""Leafwise arithmetic with one rule for types: compute wide, store as the state is, return as the gradient is.

And how leaves are named, and how a rate finds the factor of a leaf that `group_rates` has sent along.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from lrx import _checks

Path: TypeAlias = tuple[str, ...]  # of a leaf, as `named_leaves` gives it: ("lin", "bias")


def named_leaves(tree: Any, *, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[Path, Any]]:
    """List the leaves of a tree with their paths, in the order of `jax.tree.leaves`.

    A leaf has one path, whether its tree is made of dicts, of modules or of flax's states, and whether flax has wrapped
    it in a variable (as in `init`) or not (as in `update`): the `value` of a variable is not a part of a path.
    """
    flax = sys.modules.get("flax.nnx")  # whoever holds a variable has imported it
    variable: Any = () if flax is None else getattr(flax, "Variable", ())

    def stops(node: Any) -> bool:
        return isinstance(node, variable) or (is_leaf is not None and is_leaf(node))

    found: list[tuple[Path, Any]] = []
    for keys, node in jax.tree.leaves_with_path(tree, is_leaf=stops):
        if isinstance(node, variable):
            within = jax.tree.leaves_with_path(node, is_leaf=is_leaf)
            found += [(_parts(keys) + _parts(more[1:]), leaf) for more, leaf in within]
        else:
            found.append((_parts(keys), node))
    return found


def _parts(keys: tuple[Any, ...]) -> Path:
    return tuple(map(_part, keys))


def _part(key: Any) -> str:
    if isinstance(key, jax.tree_util.DictKey):  # most are: quicker than to ask for the general case
        return str(key.key)
    return jax.tree_util.keystr((key,), simple=True)


def written(path: Path) -> str:
    """Write a path as users see it: "lin/bias"."""
    return "/".join(path)


def is_tree_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a specification of leaves is a tree, and not a function that makes one.

    Modules can be called and are trees all the same: one whose leaves are labels, or flags, is no function.
    """
    if not callable(value):
        return True
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)


def spread(name: str, tree: Any, params: Any) -> dict[Path, Any]:
    """Return for each leaf of the parameters what a tree of the same shape, or one of whole branches, holds for it.

    Trees are compared by their paths, so it does not matter of which containers they are made. What a wrapper hides, or
    what is no array, may have an entry and needs none.

    Raises:
      ValueError: if a leaf finds nothing, or an entry of the tree belongs to nothing.
    """
    entries = dict(named_leaves(tree))
    branches = {
        path: next((path[:length] for length in range(len(path) + 1) if path[:length] in entries), None)
        for path, _ in named_leaves(params)
    }
    missing = [written(path) for path, branch in branches.items() if branch is None]
    used = set(branches.values())
    unused = [path for path in entries if path not in used]
    if unused:
        empty = [path for path, node in named_leaves(params, is_leaf=_is_empty) if _is_empty(node)]
        unused = [path for path in unused if not any(_on_one_line(path, other) for other in empty)]
    if missing or unused:
        fault = f"it has nothing for {missing}" if missing else f"there is no {[written(path) for path in unused]}"
        raise ValueError(
            f"{name} must have the parameters' tree or a prefix of it, got {name}={tree!r}: {fault}. A function of the "
            "parameters fits every tree."
        )
    return {path: entries[branch] for path, branch in branches.items() if branch is not None}


def _is_empty(node: Any) -> bool:
    return not jax.tree.leaves(node)


def _on_one_line(path: Path, other: Path) -> bool:
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


def hides_leaves(params: Any) -> bool:
    """Whether a wrapper has hidden leaves of the parameters from the transformation within it."""
    nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)


_starts: contextvars.ContextVar[list[tuple[jax.Array, dict[Path, str]]] | None]
_starts = contextvars.ContextVar("starts", default=None)


@contextlib.contextmanager
def collect_starts() -> Iterator[list[tuple[jax.Array, dict[Path, str]]]]:
    """Collect, while an `init` runs, which leaves each rate and each set of groups within it is for.

    A state does not say that where it keeps nothing for its leaves, as that of SGD, and `optax.partition` tells nobody.
    Each is known by the array of its count.
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
    """Say which leaves the state with this count is for, each with its group, where somebody collects that."""
    if (found := _starts.get()) is not None:
        found.append((count, groups()))


def is_placeholder(params: Any) -> bool:
    """Whether these are no parameters, but what `optax.tree.map_params` puts in their place to find them in a state."""
    return type(params).__name__ == "_ParamsPlaceholder" and type(params).__module__.startswith("optax.")


@functools.cache
def at_least_float32(dtype: Any) -> Any:
    """The type in which leaves of a type are computed with; asked for by name, so that strict promotion allows it."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def wide(leaf: jax.Array) -> jax.Array:
    """A leaf in at least float32, where accumulations of bfloat16 do not get stuck."""
    leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    return _as_type(leaf, at_least_float32(leaf.dtype))


def _type_of(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf)


def _as_type(leaf: jax.Array, dtype: Any) -> jax.Array:
    """Convert where there is something to convert: of thousands of leaves, most are float32 and stay it."""
    return leaf if leaf.dtype == dtype and not leaf.weak_type else leaf.astype(dtype)


def zeros_like(params: Any, *, wide: bool = False, dtype: Any = None) -> Any:
    """Return zeros in the shape and with the sharding of the parameters.

    Args:
      params: a tree of arrays.
      wide: in at least float32 in place of the parameters' types.
      dtype: of the zeros for real floating-point parameters, whatever `wide` says; None leaves it to `wide`.
    """
    require_known_types(params)

    def type_of(leaf: Any) -> Any:
        own = jnp.result_type(leaf)
        if dtype is not None and jnp.issubdtype(own, jnp.floating):
            return dtype
        return at_least_float32(own) if wide else own

    return jax.tree.map(lambda leaf: _zeros(leaf, type_of), params)


def zero_squares_like(params: Any) -> Any:
    """Return zeros for |g|^2 of each coordinate: real, in at least float32, shaped and laid out as the parameters."""
    require_known_types(params)
    return jax.tree.map(lambda leaf: _zeros(leaf, lambda leaf: _real_type(jnp.result_type(leaf))), params)


def _zeros(leaf: Any, type_of: Callable[[Any], Any]) -> jax.Array:
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended):  # a PRNG key, which has no gradient
        return jnp.zeros(leaf.shape, jnp.float32)
    zero = jnp.zeros_like(leaf, dtype=type_of(leaf))
    if _checks.is_concrete(leaf):
        return zero
    # Within jit a constant would be put on one device: a value that depends on the leaf is laid out as it is.
    return jnp.where(leaf == leaf, zero, zero)


@functools.cache
def _real_type(dtype: Any) -> Any:
    """The type of |g|^2 for g of a type."""
    return jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.complexfloating) else at_least_float32(dtype)


def require_known_types(params: Any) -> None:
    """Refuse parameters in types that are too narrow to be updated."""
    for path, leaf in named_leaves(params):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 16:
            raise ValueError(
                f"params must be bfloat16, float16 or wider, got {dtype} at {written(path)!r}: most updates would be "
                "rounded away. Keep the parameters in bfloat16 or float32 and cast them within the model."
            )


def has_no_gradient(gradient: Any) -> bool:
    """Whether a leaf of the gradients holds none: `None`, or float0, which `jax.grad` gives for integers."""
    return gradient is None or getattr(gradient, "dtype", None) == jax.dtypes.float0


def without_float0(gradients: Any) -> Any:
    """Return the gradients with `None` for float0, which no compiled branch can return."""
    return jax.tree.map(lambda leaf: None if has_no_gradient(leaf) else leaf, gradients)


def with_float0(updates: Any, gradients: Any) -> Any:
    """Return the updates with the float0 leaves of the gradients in their places."""
    return jax.tree.map(
        lambda gradient, update: gradient if has_no_gradient(gradient) else update,
        gradients,
        updates,
        is_leaf=lambda leaf: leaf is None,
    )


def squared(x: jax.Array) -> jax.Array:
    """Return |x|^2 of each coordinate, which is real."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the inner product of each coordinate: x y, for complex ones Re(conj(x) y), that of R^2."""
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        return x.real * y.real + x.imag * y.imag
    return x * y


def root(x: jax.Array) -> jax.Array:
    """Return the square root, whose derivative at 0 is taken as 0.

    A statistic that is 0 has seen zero gradients only, and what the root divides there is 0: the product of both in a
    derivative is 0, where infinity times 0 would be NaN.
    """
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def copies(params: Any, *, wide: bool = False) -> Any:
    """The parameters in buffers of their own, laid out as they are, in their types or in at least float32.

    An abstract leaf, whose numbers are not known, has an abstract copy.
    """

    require_known_types(params)

    def copy(leaf: Any) -> Any:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jax.dtypes.extended):  # a PRNG key
            return jnp.copy(leaf)
        if wide and jnp.issubdtype(dtype, jnp.inexact):
            dtype = at_least_float32(dtype)
        if _is_abstract(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
        return jnp.array(leaf, dtype, copy=True)

    return jax.tree.map(copy, params)


def exact_positions(params: Any) -> Any:
    """Return the parameters in at least float32 where one of them is narrower, and () where none is.

    What is narrower stands still under steps below its resolution, while statistics of the way that it has come go on.
    """
    if is_placeholder(params):
        # One leaf for all of it: whether there are any depends on types, which a placeholder has none of. What maps the
        # rest of a state is then given () or the whole tree, and may make an empty array of ().
        return jnp.zeros([], jnp.float32)
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    return copies(params, wide=True) if any(_is_narrow(dtype) for dtype in types) else ()


def are_kept(positions: Any) -> bool:
    """Whether exact positions are there: not so in (), nor in the empty array that `jnp.array` makes of it."""
    return any(jnp.size(leaf) > 0 for leaf in jax.tree.leaves(positions))


def _is_narrow(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and at_least_float32(dtype) != dtype


def widened(gradients: Any) -> Any:
    """Return the gradients in at least float32."""
    return jax.tree.map(lambda leaf: leaf if has_no_gradient(leaf) else wide(leaf), gradients)


def rounded_like(positions: Any, params: Any) -> Any:
    """Return exact positions in the parameters' types."""
    return jax.tree.map(lambda here, position: _as_type(position, _type_of(here)), params, positions)


def moved_to(mean: jax.Array, x: jax.Array, share: jax.Array) -> jax.Array:
    """Move a mean towards an iterate by its share; what has overflowed is no iterate, and integers have no mean."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return mean
    x = wide(x)
    finite = jnp.isfinite(x)
    return jnp.where(finite, (1 - share) * mean + share * jnp.where(finite, x, 0.0), mean).astype(mean.dtype)


def moved(positions: Any, steps: Any, gradients: Any) -> Any:
    """Return the positions after a step, none of which a finite gradient takes out of the range of numbers."""
    leaves, structure = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)
    rows = zip(leaves, *(structure.flatten_up_to(tree) for tree in (positions, steps)), strict=True)  # type: ignore[attr-defined]

    def move(gradient: Any, here: Any, step: Any) -> Any:
        if has_no_gradient(gradient):
            return here
        return _as_type(_within(here + step, gradient, _type_of(here)), _type_of(here))

    return jax.tree.unflatten(structure, [move(*row) for row in rows])


def toward(positions: Any, params: Any, gradients: Any) -> Any:
    """Return the updates that lead parameters to what exact positions round to, in the gradients' types.

    Where an update is rounded itself, it leads to within one rounding; the next starts from there, so that nothing adds
    up.
    """
    leaves, structure = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)
    rows = zip(leaves, *(structure.flatten_up_to(tree) for tree in (positions, params)), strict=True)  # type: ignore[attr-defined]

    def lead(gradient: Any, position: Any, here: Any) -> Any:
        if has_no_gradient(gradient):
            return gradient
        # Beyond the range of a narrow type its largest number, and no infinity, from which no update would lead back.
        there = wide(_as_type(_within(position, gradient, _type_of(here)), _type_of(here)))
        return _as_type(_within(there - wide(here), gradient, _type_of(gradient)), _type_of(gradient))

    return jax.tree.unflatten(structure, [lead(*row) for row in rows])


def _within(x: jax.Array, gradient: jax.Array, dtype: Any) -> jax.Array:
    """What has overflowed in a type as its largest number, but for a gradient that has: that stays visible."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(_within(x.real, gradient, dtype), _within(x.imag, gradient, dtype))
    largest = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(gradient), jnp.clip(x, -largest, largest), x)


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def evaluate(function: Callable[[Any], jax.Array], tree: Any) -> Any:
    """Return `function(tree)`, or only its shape and type where a leaf is abstract, whose numbers are not known."""
    if any(map(_is_abstract, jax.tree.leaves(tree))):
        return jax.eval_shape(function, tree)
    return function(tree)


def require_params(method: str, params: Any, updates: Any, why: str) -> None:
    """Refuse an update without parameters, for a method that looks at them."""
    if params is None and jax.tree.leaves(updates):
        raise ValueError(f"{method} needs the parameters, {why}: pass tx.update(grads, state, params).")


def total(
    function: Callable[..., jax.Array], updates: Any, *trees: Any, extra_args: Mapping[str, Any] | None = None
) -> jax.Array:
    """Sum `function(gradient, *leaves)` over all coordinates, in float32.

    The function sees everything in at least float32, and returns real terms. Leaves without a gradient are left out,
    and so are coordinates whose term is not finite: one that is spoilt must not spoil all others through a statistic
    that they share. So are those that a factor of groups among `extra_args` holds still, for a statistic that decides
    about the step of the others.
    """
    leaves, structure = jax.tree.flatten(updates, is_leaf=lambda leaf: leaf is None)
    columns = [structure.flatten_up_to(tree) for tree in trees]  # type: ignore[attr-defined]
    rows = [
        (moves, row)
        for moves, *row in zip(moving(updates, extra_args or {}), leaves, *columns, strict=True)
        if not has_no_gradient(row[0])
    ]
    return plus([sum_of_finite(where_moving(moves, function(*map(wide, row)))) for moves, row in rows])


def sum_of_finite(terms: jax.Array) -> jax.Array:
    """The sum of an array's finite entries, () float32, and the largest number where it overflows."""
    return jnp.nan_to_num(jnp.sum(jnp.where(jnp.isfinite(terms), terms, 0)).astype(jnp.float32))


def plus(terms: list[jax.Array]) -> jax.Array:
    """The sum of scalars, () float32, 0 for none."""
    return jnp.nan_to_num(functools.reduce(jnp.add, terms, jnp.zeros([], jnp.float32)))


def bounded(x: jax.Array) -> jax.Array:
    """What has overflowed as the largest number of float32, so that no later difference is of two infinities."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(bounded(x.real), bounded(x.imag))
    return jnp.clip(x, -_checks.FLOAT32_MAX, _checks.FLOAT32_MAX)


def real(params: Any) -> Any:
    """The parameters that can have a gradient, others as `None`."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else None, params)


def measured(new: jax.Array, old: jax.Array) -> jax.Array:
    """A statistic, or the one before where it has overflowed."""
    return jnp.where(jnp.isfinite(new), new, old)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeafFactors:
    """Factors of single leaves, on their way from `group_rates` to the places where a rate acts.

    They travel as the extra argument `leaf_factors`, by path, so that they find their leaves through every wrapper
    that hides some of the tree. A pytree, which may go through `jax.jit`: one array for each group and, statically,
    which leaf belongs to which.
    """

    values: tuple[jax.Array, ...]  # (...) float32: one for each group; each broadcasts against its leaves
    index: tuple[tuple[Path, int], ...] = dataclasses.field(metadata={"static": True})  # leaf to place in `values`
    reached: Reached | None = dataclasses.field(default=None, metadata={"static": True})

    @functools.cached_property
    def place(self) -> dict[Path, int]:
        """Where the factor of a leaf is."""
        return dict(self.index)

    @classmethod
    def of(cls, by_path: Mapping[Path, Hashable], factors: Mapping[Any, jax.Array]) -> LeafFactors:
        """Collect the factors of leaves from the label of each leaf and the factor of each label."""
        order = {label: number for number, label in enumerate(factors)}
        return cls(tuple(factors.values()), tuple((path, order[label]) for path, label in by_path.items()))

    def times(self, outer: Any) -> LeafFactors:
        """Multiply by the factors of groups around these groups, if there are any."""
        if not isinstance(outer, LeafFactors):
            return self
        pairs = {path: (number, outer.place.get(path)) for path, number in self.index}
        products = {
            (mine, theirs): self.values[mine] if theirs is None else self.values[mine] * outer.values[theirs]
            for mine, theirs in dict.fromkeys(pairs.values())
        }
        return dataclasses.replace(LeafFactors.of(pairs, products), reached=outer.reached)


class Reached:
    """Which leaves a rate acts on: noted while an update is evaluated abstractly, and only then."""

    def __init__(self) -> None:
        self.paths: set[Path] = set()


def rates_by_leaf(rate: jax.Array, updates: Any, extra_args: Mapping[str, Any]) -> list[jax.Array]:
    """The rate of each leaf of `updates`, `None` leaves included: the same for all outside of `group_rates`."""
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


def moving(updates: Any, extra_args: Mapping[str, Any]) -> list[Any]:
    """Return which coordinates of each leaf of `updates`, `None` leaves included, a factor of groups lets move.

    True outside of `group_rates`, else bools that broadcast against the leaf.
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


def scale_leaf(leaf: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiply a leaf by a scalar, in at least float32, and give it back in the leaf's own type."""
    if has_no_gradient(leaf):
        return leaf
    of_leaf = wide(leaf)
    return _as_type(of_leaf * _as_type(factor, of_leaf.dtype), _type_of(leaf))


def scale_tree(tree: Any, factor: jax.Array) -> Any:
    """Multiply every leaf by a scalar."""
    return jax.tree.map(lambda leaf: scale_leaf(leaf, factor), tree)


def descend(updates: Any, rate: jax.Array, extra_args: Mapping[str, Any]) -> Any:
    """Multiply a direction by minus the rate: what every rate does that closes a chain."""
    leaves, structure = jax.tree.flatten(updates, is_leaf=lambda leaf: leaf is None)
    rates = rates_by_leaf(-rate, updates, extra_args)
    scaled = [scale_leaf(leaf, of_leaf) for leaf, of_leaf in zip(leaves, rates, strict=True)]
    return jax.tree.unflatten(structure, scaled)


def leafwise(
    function: Callable[..., tuple[jax.Array, ...]],
    updates: Any,
    *states: Any,
    rate: jax.Array | None = None,
    extra_args: Mapping[str, Any] | None = None,
    trees: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Map `function(gradient, *state leaves) -> (update, *new state leaves)` over trees, in one pass.

    The function sees everything in at least float32; the update comes back in the gradient's type, each state leaf in
    its own. A gradient of `None` or float0 passes and leaves its state as it is. With `rate`, the function gets the
    rate of the leaf as `alpha=`, which `extra_args` may have made different from others'; with `trees`, further leaves
    by name, as they are.
    """

    def on_leaf(gradient: Any, *memory: Any, **named: Any) -> tuple[Any, ...]:
        if has_no_gradient(gradient):
            return (gradient, *memory)
        results = function(wide(gradient), *(wide(leaf) for leaf in memory), **named)
        update, *after = [
            _as_type(result, _type_of(leaf)) for result, leaf in zip(results, (gradient, *memory), strict=True)
        ]
        # What is kept shares no buffer with what is given away, nor with what was given.
        return (update, *(jnp.array(leaf) if leaf is update or leaf is gradient else leaf for leaf in after))

    leaves, structure = jax.tree.flatten(updates, is_leaf=lambda leaf: leaf is None)
    columns = [structure.flatten_up_to(state) for state in states]  # type: ignore[attr-defined]
    named: dict[str, list[Any]] = {}
    if rate is not None:
        named["alpha"] = rates_by_leaf(rate, updates, extra_args or {})
    for name, tree in (trees or {}).items():
        named[name] = structure.flatten_up_to(tree)  # type: ignore[attr-defined]
    rows = [
        on_leaf(*row, **{name: column[index] for name, column in named.items()})
        for index, row in enumerate(zip(leaves, *columns, strict=True))
    ]
    return tuple(jax.tree.unflatten(structure, [row[index] for row in rows]) for index in range(len(states) + 1))


def divided_by_root(gradient: jax.Array, square: jax.Array, eps: Any, *, eps_root: bool) -> jax.Array:
    """g / sqrt(s + eps), or g / (sqrt(s) + eps); 0 where both s and eps are 0."""
    return quotient(gradient, root(square + eps) if eps_root else root(square) + eps, eps)


def quotient(numerator: jax.Array, denominator: jax.Array, eps: Any) -> jax.Array:
    """The quotient by a real number, and 0 where that, of which eps is a part, is 0; NaN stays visible.

    Nothing is divided by 0 on the way, so that there is neither a NaN to be found by `jax_debug_nans` nor one in a
    derivative.
    """
    if _checks.is_concrete(eps) and float(eps) > 1e-30:
        return _divide(numerator, denominator)
    zero = denominator == 0
    shown = jnp.where(jnp.isnan(numerator), numerator, 0.0)
    return jnp.where(zero, shown, _divide(numerator, jnp.where(zero, 1.0, denominator)))


def _divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(numerator):  # as complex numbers, the square of a small denominator would vanish
        return jax.lax.complex(numerator.real / denominator, numerator.imag / denominator)
    return numerator / denominator


def combine(function: Callable[..., jax.Array], params: Any, tree: Any) -> Any:
    """Return `function(parameter, leaf of the state)`, computed in at least float32, in the parameters' types.

    What is not a floating-point number and what a mask hides from the method stay as they are.
    """

    def move(kept: Any, leaf: Any) -> Any:
        if isinstance(kept, optax.MaskedNode) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        point = function(wide(leaf), wide(kept))
        # A copy: the next step may take the buffers of the state.
        return (jnp.array(point) if point is kept else point).astype(jnp.result_type(leaf))

    kept, structure = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in kept):
        leaves = structure.flatten_up_to(params)  # type: ignore[attr-defined]
    else:  # flax may keep a state in other containers than parameters, so only the order of leaves counts
        leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [move(*pair) for pair in zip(kept, leaves, strict=True)])
