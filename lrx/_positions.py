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
    """Return the parameters in at least float32 if one of them is narrower, and () otherwise.

    A narrow parameter does not move under steps below its resolution, while the statistics of its path would.
    """
    if is_placeholder(params):
        # One leaf stands for all: whether there are positions depends on the parameters' types, which a placeholder
        # does not have. A map over the rest of a state then meets () or the whole tree, and may make an empty array of
        # ().
        return jnp.zeros([], jnp.float32)
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    return copies(params, upcast=True) if any(_is_narrow(dtype) for dtype in types) else ()


def are_kept(positions: Any) -> bool:
    """Return whether there are exact positions: not in (), nor in the empty array that `jnp.array(())` is."""
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
    """Move a mean towards an iterate by the iterate's weight. Integers and non-finite coordinates stay as they are."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return mean
    x = upcast(x)
    finite = jnp.isfinite(x)
    return jnp.where(finite, (1 - share) * mean + share * jnp.where(finite, x, 0.0), mean).astype(mean.dtype)


def add_steps(positions: Any, steps: Any, gradients: Any) -> Any:
    """Add steps to positions. A finite gradient never takes one out of the range of its type."""
    leaves, structure = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)
    rows = zip(leaves, *(structure.flatten_up_to(tree) for tree in (positions, steps)), strict=True)  # type: ignore[attr-defined]

    def move(gradient: Any, here: Any, step: Any) -> Any:
        if has_no_gradient(gradient):
            return here
        return as_type(_clip_to_type(here + step, gradient, type_of(here)), type_of(here))

    return jax.tree.unflatten(structure, [move(*row) for row in rows])


def updates_to(positions: Any, params: Any, gradients: Any) -> Any:
    """Return the updates from the parameters to the rounded exact positions, in the gradients' types.

    If an update is rounded itself, it leads to within one rounding of the position. The next update starts from there,
    so errors do not add up.
    """
    leaves, structure = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)
    rows = zip(leaves, *(structure.flatten_up_to(tree) for tree in (positions, params)), strict=True)  # type: ignore[attr-defined]

    def lead(gradient: Any, position: Any, here: Any) -> Any:
        if has_no_gradient(gradient):
            return gradient
        # Beyond the range of a narrow type, its largest number: from infinity no update would lead back.
        there = upcast(as_type(_clip_to_type(position, gradient, type_of(here)), type_of(here)))
        return as_type(_clip_to_type(there - upcast(here), gradient, type_of(gradient)), type_of(gradient))

    return jax.tree.unflatten(structure, [lead(*row) for row in rows])


def _clip_to_type(x: jax.Array, gradient: jax.Array, dtype: Any) -> jax.Array:
    """Clip to the range of a type, unless the gradient has overflowed: then the overflow stays visible."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(_clip_to_type(x.real, gradient, dtype), _clip_to_type(x.imag, gradient, dtype))
    largest = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(gradient), jnp.clip(x, -largest, largest), x)


def combine(function: Callable[..., jax.Array], params: Any, tree: Any) -> Any:
    """Return `function(parameter, leaf of the state)`, computed in at least float32, cast to the parameters' types.

    Leaves that are not floating-point numbers and leaves that a mask hides from the method stay as they are.
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
