"""Losses as functions of one flat vector: which parameters move, and what a loss must return."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrx._paths import named_leaves, write_path


class Flat(NamedTuple):
    """The floating-point parameters of a tree as one vector."""

    point: jax.Array  # (n,) float32
    unravel: Callable[[jax.Array], Any]  # (n,) -> the tree, in its own types; other leaves as they were
    split: Callable[[jax.Array], Any]  # (n,) -> a tree of float32 leaves; None for other leaves


def which_move(params: Any) -> list[bool]:
    """Return for each leaf whether it holds floating-point numbers; others are held fixed.

    Raises:
      TypeError: if a leaf is complex, or not an array.
      ValueError: if no leaf holds floating-point numbers.
    """
    leaves = jax.tree.leaves(params)
    moves = []
    for (path, _), leaf in zip(named_leaves(params), leaves, strict=True):
        try:
            dtype = jnp.result_type(leaf)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"params must be a tree of arrays, got {leaf!r} at {write_path(path)!r}: separate it, for example with "
                "equinox.partition, and close over it in the loss."
            ) from error
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"params must be real, got {dtype} at {write_path(path)!r}: give the real and the imaginary part as "
                "two leaves, and join them in the loss."
            )
        moves.append(bool(jnp.issubdtype(dtype, jnp.floating)))
    if not any(moved and np.size(leaf) for moved, leaf in zip(moves, leaves, strict=True)):
        kinds = ", ".join(sorted({str(jnp.result_type(leaf)) for leaf in leaves})) or "no leaves"
        raise ValueError(
            f"params must hold at least one floating-point number, got {kinds}: pass the trainable parameters."
        )
    return moves


def flatten(params: Any, held: Collection[int] = ()) -> Flat:
    """Return the floating-point parameters as one vector; leaves of other types are held fixed.

    Args:
      params: the tree.
      held: places of further leaves that are held fixed; not all of those that would move.

    Raises:
      TypeError: if a leaf is complex, or not an array.
      ValueError: if no leaf holds floating-point numbers.
    """
    leaves, structure = jax.tree.flatten(params)
    moves = [moved and place not in held for place, moved in enumerate(which_move(params))]
    moving = [jnp.asarray(leaf) for leaf, moved in zip(leaves, moves, strict=True) if moved]

    def parts(flat: jax.Array) -> list[jax.Array]:
        found, first = [], 0
        for leaf in moving:
            found.append(flat[first : first + leaf.size].reshape(leaf.shape))
            first += leaf.size
        return found

    def unravel(flat: jax.Array) -> Any:
        own = iter([part.astype(leaf.dtype) for part, leaf in zip(parts(flat), moving, strict=True)])
        return jax.tree.unflatten(structure, [next(own) if m else leaf for m, leaf in zip(moves, leaves, strict=True)])

    def split(flat: jax.Array) -> Any:
        own = iter(parts(flat))
        return jax.tree.unflatten(structure, [next(own) if moved else None for moved in moves])

    return Flat(jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in moving]), unravel, split)


def require_scalar(loss: Callable[..., Any], *args: Any) -> None:
    """Check, without running it, that a loss returns one real number.

    Raises:
      TypeError: if `loss` is not a function, or returns something else than an array of real numbers.
      ValueError: if what it returns is not a scalar.
    """
    if not callable(loss):
        raise TypeError(f"loss must be a function, got loss={loss!r}: give lambda params: loss_fn(params, batch).")
    found = jax.eval_shape(loss, *args)
    if not hasattr(found, "shape"):
        raise TypeError(
            f"loss must return one number, got a {type(found).__name__}: return the loss alone, without metrics or a "
            "model state."
        )
    if found.shape != ():
        raise ValueError(f"loss must return a scalar, got one of shape {found.shape}: return its mean, jnp.mean(loss).")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(f"loss must return a floating-point number, got {found.dtype}.")
