"""Leafwise arithmetic with one rule for types: compute wide, store as the state is, return as the gradient is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def wide(leaf: jax.Array) -> jax.Array:
    """A leaf in at least float32, where accumulations of bfloat16 do not get stuck."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def zeros_like(params: Any, *, at_least: Any = None) -> Any:
    """Zeros in the shape of the parameters, in their types or in at least the type given."""

    def zeros(leaf: jax.Array) -> jax.Array:
        dtype = jnp.result_type(leaf)
        return jnp.zeros_like(leaf, dtype=dtype if at_least is None else jnp.promote_types(dtype, at_least))

    return jax.tree.map(zeros, params)


def leafwise(function: Callable[..., tuple[jax.Array, ...]], updates: Any, *states: Any) -> tuple[Any, ...]:
    """Map `function(gradient, *state leaves) -> (update, *new state leaves)` over trees, in one pass.

    The function sees everything in at least float32; the update comes back in the gradient's type, each state leaf in
    its own. `None` leaves pass.
    """

    def on_leaf(gradient: jax.Array, *memory: jax.Array) -> tuple[jax.Array, ...]:
        results = function(wide(gradient), *(wide(leaf) for leaf in memory))
        types = [jnp.result_type(leaf) for leaf in (gradient, *memory)]
        return tuple(result.astype(dtype) for result, dtype in zip(results, types, strict=True))

    leaves, structure = jax.tree.flatten(updates)
    columns = [structure.flatten_up_to(state) for state in states]  # type: ignore[attr-defined]
    rows = [on_leaf(*row) for row in zip(leaves, *columns, strict=True)]
    return tuple(jax.tree.unflatten(structure, [row[index] for row in rows]) for index in range(len(states) + 1))
