"""Positions in a wider type than the parameters have: kept, moved, averaged and rounded back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._leaves import as_type, at_least_float32, copies, has_no_gradient, type_of, upcast
from lrx._paths import is_placeholder


def exact_positions(params: Any) -> Any:
    """Return the parameters in at least float32 where one of them is narrower, and () where none is.

    What is narrower stands still under steps below its resolution, while statistics of the way that it has come go on.
    """
    if is_placeholder(params):
        # One leaf for all of it: whether there are any depends on types, which a placeholder has none of. What maps the
        # rest of a state is then given () or the whole tree, and may make an empty array of ().
        return jnp.zeros([], jnp.float32)
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    return copies(params, upcast=True) if any(_is_narrow(dtype) for dtype in types) else ()


def are_kept(positions: Any) -> bool:
    """Whether exact positions are there: not so in (), nor in the empty array that `jnp.array` makes of it."""
    return any(jnp.size(leaf) > 0 for leaf in jax.tree.leaves(positions))


def _is_narrow(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and at_least_float32(dtype) != dtype


def upcast_gradients(gradients: Any) -> Any:
    """Return the gradients in at least float32."""
    return jax.tree.map(lambda leaf: leaf if has_no_gradient(leaf) else upcast(leaf), gradients)


def round_like(positions: Any, params: Any) -> Any:
    """Return exact positions in the parameters' types."""
    return jax.tree.map(lambda here, position: as_type(position, type_of(here)), params, positions)


def move_mean(mean: jax.Array, x: jax.Array, share: jax.Array) -> jax.Array:
    """Move a mean towards an iterate by its share; what has overflowed is no iterate, and integers have no mean."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return mean
    x = upcast(x)
    finite = jnp.isfinite(x)
    return jnp.where(finite, (1 - share) * mean + share * jnp.where(finite, x, 0.0), mean).astype(mean.dtype)


def add_steps(positions: Any, steps: Any, gradients: Any) -> Any:
    """Return the positions after a step, none of which a finite gradient takes out of the range of numbers."""
    leaves, structure = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)
    rows = zip(leaves, *(structure.flatten_up_to(tree) for tree in (positions, steps)), strict=True)  # type: ignore[attr-defined]

    def move(gradient: Any, here: Any, step: Any) -> Any:
        if has_no_gradient(gradient):
            return here
        return as_type(_clip_to_type(here + step, gradient, type_of(here)), type_of(here))

    return jax.tree.unflatten(structure, [move(*row) for row in rows])


def updates_to(positions: Any, params: Any, gradients: Any) -> Any:
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
        there = upcast(as_type(_clip_to_type(position, gradient, type_of(here)), type_of(here)))
        return as_type(_clip_to_type(there - upcast(here), gradient, type_of(gradient)), type_of(gradient))

    return jax.tree.unflatten(structure, [lead(*row) for row in rows])


def _clip_to_type(x: jax.Array, gradient: jax.Array, dtype: Any) -> jax.Array:
    """What has overflowed in a type as its largest number, but for a gradient that has: that stays visible."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(_clip_to_type(x.real, gradient, dtype), _clip_to_type(x.imag, gradient, dtype))
    largest = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(gradient), jnp.clip(x, -largest, largest), x)


def combine(function: Callable[..., jax.Array], params: Any, tree: Any) -> Any:
    """Return `function(parameter, leaf of the state)`, computed in at least float32, in the parameters' types.

    What is not a floating-point number and what a mask hides from the method stay as they are.
    """

    def move(kept: Any, leaf: Any) -> Any:
        if isinstance(kept, optax.MaskedNode) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        point = function(upcast(leaf), upcast(kept))
        # A copy: the next step may take the buffers of the state.
        return (jnp.array(point) if point is kept else point).astype(jnp.result_type(leaf))

    kept, structure = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in kept):
        leaves = structure.flatten_up_to(params)  # type: ignore[attr-defined]
    else:  # flax may keep a state in other containers than parameters, so only the order of leaves counts
        leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [move(*pair) for pair in zip(kept, leaves, strict=True)])
