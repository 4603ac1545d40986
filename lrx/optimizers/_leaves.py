"""Leafwise arithmetic with one rule for types: compute wide, store as the state is, return as the gradient is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx.rates import ArrayLike, at_least_float32, rates_by_leaf


def wide(leaf: jax.Array) -> jax.Array:
    """A leaf in at least float32, where accumulations of bfloat16 do not get stuck."""
    leaf = jnp.asarray(leaf)
    return leaf.astype(at_least_float32(leaf.dtype))


def zeros_like(params: Any, *, wide: bool = False) -> Any:
    """Zeros in the shape and with the sharding of the parameters, in their types or in at least float32."""

    def zeros(leaf: jax.Array) -> jax.Array:
        dtype = jnp.result_type(leaf)
        zero = jnp.zeros_like(leaf, dtype=at_least_float32(dtype) if wide else dtype)
        if _checks.is_concrete(leaf):
            return zero
        # Within jit a constant would be put on one device: a value that depends on the leaf is laid out as it is.
        return jnp.where(leaf == leaf, zero, zero)

    return jax.tree.map(zeros, params)


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
    its own. A gradient of `None` passes and leaves its state as it is. With `rate`, the function gets the rate of the
    leaf as `alpha=`, which `extra_args` may have made different from others'; with `trees`, further leaves by name, as
    they are.
    """

    def on_leaf(gradient: Any, *memory: Any, **named: Any) -> tuple[Any, ...]:
        if gradient is None:
            return (None, *memory)
        results = function(wide(gradient), *(wide(leaf) for leaf in memory), **named)
        types = [jnp.result_type(leaf) for leaf in (gradient, *memory)]
        return tuple(result.astype(dtype) for result, dtype in zip(results, types, strict=True))

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


def check_momentum(name: str, value: Any) -> None:
    """Require what a decay of gradients may be."""
    _checks.in_interval(name, value, "[0, 1)", "at 1 nothing is ever forgotten")


def divided_by_root(gradient: jax.Array, square: jax.Array, eps: ArrayLike, *, eps_root: bool) -> jax.Array:
    """g / sqrt(s + eps), or g / (sqrt(s) + eps); 0 where both s and eps are 0."""
    root = jnp.sqrt(square + eps) if eps_root else jnp.sqrt(square) + eps
    return jnp.where(root == 0, 0.0, gradient / root)
