"""Trajectories of an optimizer on a function of few variables, for papers on theory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.extra_args import tolerant_update
from lrx.run_state import eval_params

Gradient = Callable[..., tuple[jax.Array, Any]]  # (params, key), maybe (params, key, count), -> (value, gradient)


def descend(
    gradient: Gradient,
    tx: optax.GradientTransformation,
    start: Any,
    counts: np.ndarray,
    record: Callable[..., Any],
    key: jax.Array | None = None,
    *,
    timed: bool = False,
) -> Any:
    """Advance a method up to the last of `counts` updates, and record at each of them.

    The caller compiles it, and may map it over keys or rates.

    Args:
      gradient: `(params, key) -> (value, gradient)`; the key differs at each step.
      tx: the transformation.
      start: the first parameters.
      counts: (n,) increasing numbers of updates, from 0 on.
      record: `params -> arrays`, at the point where the method is evaluated, `lrx.eval_params`.
      key: key of a random gradient.
      timed: whether `gradient` and `record` take the number of updates so far as a last argument, for a function that
        changes with time.

    Returns:
      What `record` returns, with a leading axis of length n.
    """
    update = tolerant_update(tx)
    key = jax.random.key(0) if key is None else key

    def one(count: jax.Array, carry: Any) -> Any:
        params, state = carry
        value, grads = gradient(params, jax.random.fold_in(key, count), *(count,) * timed)
        updates, state = update(grads, state, params, value=value, grad=grads)
        return optax.apply_updates(params, updates), state

    def segment(carry: Any, bounds: jax.Array) -> tuple[Any, Any]:
        carry = jax.lax.fori_loop(bounds[0], bounds[1], one, carry)
        params, state = carry
        return carry, record(eval_params(state, params), *(bounds[1],) * timed)

    counts = np.asarray(counts, np.int32)
    bounds = jnp.asarray(np.stack([np.concatenate([[0], counts[:-1]]), counts], axis=1))
    return jax.lax.scan(segment, (start, tx.init(start)), bounds)[1]


def log_spaced(last: int, number: int) -> np.ndarray:
    """Return about `number` different counts from 1 to `last`, evenly spaced in their logarithm."""
    return np.unique(np.round(np.geomspace(1, last, number)).astype(np.int64))
