"""Lengths of the steps of an adaptive method: after given gradients, and while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training import Workload

Make = Callable[[jax.Array, jax.Array], optax.GradientTransformation]  # (b1, b2) -> the method with a rate of 1


def last_steps(
    make: Make, b1: Sequence[float], b2: Sequence[float], gradients: Callable[..., jax.Array], quiet_steps: int
) -> np.ndarray:
    """Measure the last step of streams of gradients that come after zeros, for every b1 and b2.

    Args:
      make: `(b1, b2) -> method` with a rate of 1.
      b1: values of the first decay.
      b2: values of the second decay.
      gradients: `(b1, b2) -> (steps, streams)` gradients, each stream one coordinate.
      quiet_steps: zeros before them.

    Returns:
      (b1, b2, streams) absolute steps.
    """

    def last(b1: jax.Array, b2: jax.Array) -> jax.Array:
        tx, loud = make(b1, b2), gradients(b1, b2)

        def one(state: Any, gradient: jax.Array) -> tuple[Any, jax.Array]:
            updates, state = tx.update(gradient, state)
            return state, jnp.abs(updates)

        def quiet(count: jax.Array, state: Any) -> Any:
            del count
            return one(state, jnp.zeros_like(loud[0]))[0]

        state = jax.lax.fori_loop(0, quiet_steps, quiet, tx.init(jnp.zeros_like(loud[0])))
        return jax.lax.scan(one, state, loud)[1][-1]

    grid = (jnp.float32(array.ravel()) for array in np.meshgrid(b1, b2, indexing="ij"))
    return np.asarray(jax.jit(jax.vmap(last))(*grid), np.float64).reshape(len(b1), len(b2), -1)


def longest_steps(
    workload: Workload, make: Make, b1: Sequence[float], b2: Sequence[float], seeds: Sequence[int], num_steps: int
) -> np.ndarray:
    """Measure the longest step of any coordinate at every update of a training, for every b1, b2 and seed.

    Minibatches are drawn with replacement, so that all runs of a seed see the same ones in one compiled program.

    Args:
      workload: model, data and loss, without a model state.
      make: `(b1, b2) -> method`.
      b1: values of the first decay.
      b2: values of the second decay.
      seeds: seeds of initial values and minibatches.
      num_steps: length of a run.

    Returns:
      (b1, b2, seeds, num_steps) absolute steps.
    """
    batches = workload.batches

    def longest(b1: jax.Array, b2: jax.Array, seed: jax.Array, arrays: Any) -> jax.Array:
        tx = make(b1, b2)
        init_key, stream = jax.random.split(jax.random.key(seed))  # the first is that of `lrx.train`
        params, _ = workload.init(init_key)

        def one(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            places = jax.random.randint(key, (batches.batch_size,), 0, batches.num_examples)
            batch = batches.transform(jax.tree.map(lambda array: array[places], arrays), key)
            gradient = jax.grad(lambda params: workload.loss_fn(params, (), batch, key)[0])(params)
            updates, state = tx.update(gradient, state, params)
            steps = jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(updates)])
            return (optax.apply_updates(params, updates), state), jnp.max(steps)

        return jax.lax.scan(one, (params, tx.init(params)), jax.random.split(stream, num_steps))[1]

    grid = [array.ravel() for array in np.meshgrid(b1, b2, seeds, indexing="ij")]
    each = jax.jit(lambda each, arrays: jax.lax.map(lambda one: longest(one[0], one[1], one[2], arrays), each))
    steps = each((jnp.float32(grid[0]), jnp.float32(grid[1]), jnp.int32(grid[2])), batches.arrays)
    return np.asarray(steps, np.float64).reshape(len(b1), len(b2), len(seeds), num_steps)


def largest_of_parts(values: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each of equal parts of the last axis ends, and its largest value."""
    ends = np.unique(np.linspace(0, values.shape[-1], parts + 1).astype(int))
    return ends[1:], np.maximum.reduceat(values, ends[:-1], axis=-1)
