"""How states, histories and batches are written in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FEW = 6  # leaves of a tree, or entries of a dict, that a `repr` writes out


def brief(value: Any) -> str:
    """Write a state briefly: scalars as numbers, arrays as dtype[shape], wide trees by their size.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrx.brief import brief
      >>> brief((jnp.array(3), {"w": jnp.zeros((2, 3))}, {f"layer_{i}": jnp.zeros(10) for i in range(200)}))
      "(3, {'w': float32[2,3]}, <200 arrays, 2,000 numbers>)"
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        if hasattr(type(value), "kept"):  # a state that is kept for later is not written out
            return f"{type(value).__name__}(...)"
        fields = (f"{name}={brief(field)}" for name, field in zip(value._fields, value, strict=True))
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, str) or value is None:
        return repr(value)
    if isinstance(value, Mapping | list | tuple):
        children = list(value.values()) if isinstance(value, Mapping) else list(value)
        leaves = jax.tree.leaves(value)
        plain = isinstance(value, Mapping) or all(map(jax.tree_util.all_leaves, ([child] for child in children)))
        if len(leaves) > FEW and plain and not any(map(_holds_states, children)):
            return f"<{len(leaves)} arrays, {sum(np.size(leaf) for leaf in leaves):,} numbers>"
        texts = [brief(child) for child in children[:FEW]]
        if isinstance(value, Mapping):
            texts = [f"{key!r}: {text}" for key, text in zip(value, texts, strict=False)]
        more = [f"... {len(children) - FEW} more"] if len(children) > FEW else []
        begin, end = "{}" if isinstance(value, Mapping) else "[]" if isinstance(value, list) else "()"
        comma = "," if isinstance(value, tuple) and len(children) == 1 else ""
        return f"{begin}{', '.join(texts + more)}{comma}{end}"
    if not isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        leaves = jax.tree.leaves(value)
        if len(leaves) > FEW:
            return (
                f"<{type(value).__name__} of {len(leaves)} arrays, {sum(np.size(leaf) for leaf in leaves):,} numbers>"
            )
        if len(leaves) == 1 and leaves[0] is not value and hasattr(leaves[0], "dtype"):
            return brief(leaves[0])  # a variable
        return f"{type(value).__name__}({', '.join(map(brief, leaves))})" if leaves != [value] else repr(value)
    return _write_array(value)


def _holds_states(node: Any) -> bool:
    """Return whether a tree holds a NamedTuple that has fields."""
    found = False

    def look(below: Any) -> bool:
        nonlocal found
        found = found or (isinstance(below, tuple) and bool(getattr(below, "_fields", ())))
        return found

    jax.tree.leaves(node, is_leaf=look)
    return found


def _write_array(value: Any) -> str:
    shape = ",".join(map(str, value.shape))
    kind = f"{value.dtype}[{shape}]"
    if isinstance(value, jax.core.Tracer) or not isinstance(value, jax.Array | np.ndarray | np.generic) or shape:
        return kind
    if isinstance(value, jax.Array) and (value.is_deleted() or not value.is_fully_addressable):
        return kind
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):  # a key
        return kind
    known = np.asarray(jax.device_get(value))
    if known.dtype.kind in "biu":
        return repr(known.item())
    return repr(float(f"{float(known):.6g}")) if jnp.issubdtype(value.dtype, jnp.floating) else kind
