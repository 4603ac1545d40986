"""Leafwise arithmetic with one rule for types: compute wide, store as the state is, return as the gradient is.

`optax.tree` does not do this: its sums overflow in narrow types, one infinite coordinate spoils them, and arrays that
it makes within `jax.jit` lose the parameters' sharding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._leaf_factors import moving_masks, rates_by_leaf, where_moving
from lrx._paths import named_leaves, write_path


@functools.cache
def at_least_float32(dtype: Any) -> Any:
    """Return the dtype to compute in for leaves of `dtype`: `dtype` promoted to at least float32."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def upcast(leaf: jax.Array) -> jax.Array:
    """Convert a leaf to at least float32, in which sums of bfloat16 numbers do not get stuck."""
    leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    return as_type(leaf, at_least_float32(leaf.dtype))


def type_of(leaf: Any) -> Any:
    """Return the dtype of a leaf, also of a Python number."""
    return leaf.dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf)


def as_type(leaf: jax.Array, dtype: Any) -> jax.Array:
    """Convert a leaf, unless it already has the type, as most leaves do."""
    return leaf if leaf.dtype == dtype and not leaf.weak_type else leaf.astype(dtype)


def zeros_like(params: Any, *, upcast: bool = False, dtype: Any = None) -> Any:
    """Return zeros in the shape and with the sharding of the parameters.

    Args:
      params: a tree of arrays.
      upcast: to at least float32, in place of the parameters' types.
      dtype: dtype of the zeros for real floating-point parameters, whatever `upcast` says; None leaves it to `upcast`.
    """
    require_known_types(params)

    def type_of(leaf: Any) -> Any:
        own = jnp.result_type(leaf)
        if dtype is not None and jnp.issubdtype(own, jnp.floating):
            return dtype
        return at_least_float32(own) if upcast else own

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
    """Return the type of |g|^2 for g of a type."""
    return jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.complexfloating) else at_least_float32(dtype)


def require_known_types(params: Any) -> None:
    """Refuse parameters in types that are too narrow to be updated."""
    for path, leaf in named_leaves(params):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 16:
            raise ValueError(
                f"params must be bfloat16, float16 or wider, got {dtype} at {write_path(path)!r}: most updates would "
                "be rounded away. Keep the parameters in bfloat16 or float32 and cast them within the model."
            )


def has_no_gradient(gradient: Any) -> bool:
    """Return whether a leaf of the gradients is empty: `None`, or float0, which `jax.grad` returns for integers."""
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


def abs_square(x: jax.Array) -> jax.Array:
    """Return |x|^2 of each coordinate, which is real."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the product of each coordinate: x y, or Re(conj(x) y) for complex numbers, the inner product in R^2."""
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        return x.real * y.real + x.imag * y.imag
    return x * y


def square_root(x: jax.Array) -> jax.Array:
    """Return the square root, whose derivative at 0 is taken as 0.

    A statistic that is 0 has only seen zero gradients, so the numerator over its root is 0 too. With this derivative
    their product is 0; with an infinite one it would be NaN.
    """
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def copies(params: Any, *, upcast: bool = False) -> Any:
    """Copy the parameters, keeping their sharding, in their own types or in at least float32.

    The copy of an abstract leaf (`jax.ShapeDtypeStruct`) is abstract.
    """

    require_known_types(params)

    def copy(leaf: Any) -> Any:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jax.dtypes.extended):  # a PRNG key
            return jnp.copy(leaf)
        if upcast and jnp.issubdtype(dtype, jnp.inexact):
            dtype = at_least_float32(dtype)
        if _is_abstract(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
        return jnp.array(leaf, dtype, copy=True)

    return jax.tree.map(copy, params)


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def evaluate_or_shape(function: Callable[[Any], jax.Array], tree: Any) -> Any:
    """Return `function(tree)`, or only its shape and type if a leaf is abstract."""
    if any(map(_is_abstract, jax.tree.leaves(tree))):
        return jax.eval_shape(function, tree)
    return function(tree)


def require_params(method: str, params: Any, updates: Any, why: str) -> None:
    """Refuse an update without parameters, for a method that needs them."""
    if params is None and jax.tree.leaves(updates):
        raise ValueError(f"{method} needs the parameters, {why}: pass tx.update(grads, state, params).")


def total(
    function: Callable[..., jax.Array], updates: Any, *trees: Any, extra_args: Mapping[str, Any] | None = None
) -> jax.Array:
    """Sum `function(gradient, *leaves)` over all coordinates, in float32.

    The function sees everything in at least float32, and returns real terms. Leaves without a gradient are left out.
    So are coordinates whose term is not finite, which would otherwise spoil all others through the statistic that they
    share, and coordinates that a `group_rates` among `extra_args` freezes by a factor of 0.
    """
    leaves, structure = jax.tree.flatten(updates, is_leaf=lambda leaf: leaf is None)
    columns = [structure.flatten_up_to(tree) for tree in trees]  # type: ignore[attr-defined]
    rows = [
        (moves, row)
        for moves, *row in zip(moving_masks(updates, extra_args or {}), leaves, *columns, strict=True)
        if not has_no_gradient(row[0])
    ]
    return sum_scalars([sum_of_finite(where_moving(moves, function(*map(upcast, row)))) for moves, row in rows])


def sum_of_finite(terms: jax.Array) -> jax.Array:
    """Return the sum of an array's finite entries, () float32; if it overflows, the largest number."""
    return jnp.nan_to_num(jnp.sum(jnp.where(jnp.isfinite(terms), terms, 0)).astype(jnp.float32))


def sum_scalars(terms: list[jax.Array]) -> jax.Array:
    """Return the sum of scalars, () float32; 0 if there are none."""
    return jnp.nan_to_num(functools.reduce(jnp.add, terms, jnp.zeros([], jnp.float32)))


def clip_to_float32(x: jax.Array) -> jax.Array:
    """Clip to the range of float32, so that no later difference is one of two infinities."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(clip_to_float32(x.real), clip_to_float32(x.imag))
    return jnp.clip(x, -_checks.FLOAT32_MAX, _checks.FLOAT32_MAX)


def inexact_leaves(params: Any) -> Any:
    """Return the parameters that can have a gradient, and `None` for the others."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else None, params)


def finite_or(new: jax.Array, old: jax.Array) -> jax.Array:
    """Return a new statistic if it is finite, and the old one otherwise."""
    return jnp.where(jnp.isfinite(new), new, old)


def scale_leaf(leaf: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiply a leaf by a scalar in at least float32, and return it in the leaf's own type."""
    if has_no_gradient(leaf):
        return leaf
    of_leaf = upcast(leaf)
    return as_type(of_leaf * as_type(factor, of_leaf.dtype), type_of(leaf))


def scale_tree(tree: Any, factor: jax.Array) -> Any:
    """Multiply every leaf by a scalar."""
    return jax.tree.map(lambda leaf: scale_leaf(leaf, factor), tree)


def descend(updates: Any, rate: jax.Array, extra_args: Mapping[str, Any]) -> Any:
    """Multiply a direction by minus the rate, as every rate at the end of a chain does."""
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

    The function sees everything in at least float32. The update comes back in the gradient's type, and each state leaf
    in its own. A gradient of `None` or float0 is passed on, and its state stays. With `rate`, the function gets the
    rate of the leaf as `alpha=`, multiplied by the factors that `group_rates` has put into `extra_args`. With `trees`,
    it gets further leaves by name, without a conversion.
    """

    def on_leaf(gradient: Any, *memory: Any, **named: Any) -> tuple[Any, ...]:
        if has_no_gradient(gradient):
            return (gradient, *memory)
        results = function(upcast(gradient), *(upcast(leaf) for leaf in memory), **named)
        update, *after = [
            as_type(result, type_of(leaf)) for result, leaf in zip(results, (gradient, *memory), strict=True)
        ]
        # The state shares no buffer with the update or the gradient, so that each can be donated.
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


def divide_by_root(gradient: jax.Array, square: jax.Array, eps: Any, *, eps_root: bool) -> jax.Array:
    """Return g / sqrt(s + eps), or g / (sqrt(s) + eps), and 0 where both s and eps are 0."""
    return quotient(gradient, square_root(square + eps) if eps_root else square_root(square) + eps, eps)


def places_of(eps: Any, *, within_root: bool) -> tuple[jax.Array, jax.Array]:
    """Return what a state keeps of eps, () float32 each: what is added to the root, and what within it."""
    zero, added = jnp.zeros([], jnp.float32), jnp.array(eps, jnp.float32)
    return (zero, added) if within_root else (added, zero)


def root_mean(squares: Any, weight: Any, eps: Any, eps_root: Any, scale: Any = 1.0) -> Any:
    """Return scale (sqrt(s / weight + eps_root) + eps) of each leaf of a tree of squares."""
    weight, eps, eps_root = (jax.tree.leaves(number)[0] for number in (weight, eps, eps_root))
    return jax.tree.map(lambda square: scale * (jnp.sqrt(square / weight + eps_root) + eps), squares)


def quotient(numerator: jax.Array, denominator: jax.Array, eps: Any) -> jax.Array:
    """Divide by a real number that includes `eps`; return 0 where it is 0. A NaN in the numerator stays visible.

    Nothing is divided by 0 on the way, so `jax_debug_nans` finds no NaN, and derivatives hold none.
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
