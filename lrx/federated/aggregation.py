"""What the server makes of the clients' changes and losses: pure functions that a simulation and a deployment share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

STATISTICS = ("mean", "median", "trimmed")
TRIMMED = 0.1  # of the clients, at each end


def is_sound(change: Any) -> jax.Array:
    """Return whether all numbers of a client's change are finite, () bool."""
    leaves = [
        jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(change) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.bool_(True)


def norm_of(change: Any) -> jax.Array:
    """Return the norm of a client's change over all parameters, () float32."""
    squares = [jnp.sum(jnp.square(jnp.abs(leaf).astype(jnp.float32))) for leaf in jax.tree.leaves(change)]
    return jnp.sqrt(sum(squares, jnp.float32(0)))


def statistic(losses: jax.Array, weights: jax.Array, kind: str) -> jax.Array:
    """Return one number for the clients' losses.

    Args:
      losses: (clients,) float32.
      weights: (clients,) float32, 0 for a client that does not count.
      kind: "mean", weighted; "median" or "trimmed", the mean without a tenth of the clients at each end: both of the
        clients that count, without weights.

    Returns:
      () float32, NaN if no client counts.
    """
    counts = (weights > 0) & jnp.isfinite(losses)
    number = jnp.sum(counts)
    if kind == "mean":
        used = jnp.where(counts, weights, 0)
        return jnp.where(number > 0, jnp.sum(jnp.where(counts, used * losses, 0)) / jnp.sum(used), jnp.nan)
    ordered = jnp.sort(jnp.where(counts, losses, jnp.inf))
    places = jnp.arange(len(losses))
    cut = (number - 1) // 2 if kind == "median" else jnp.floor(TRIMMED * number).astype(number.dtype)
    kept = (places >= cut) & (places < number - cut)
    return jnp.where(number > 0, jnp.sum(jnp.where(kept, ordered, 0)) / jnp.sum(kept), jnp.nan)
