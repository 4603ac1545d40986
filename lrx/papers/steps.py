"""Steps of an adaptive method: their lengths after given gradients and in a training, and where they lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.papers.descent import descend
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


def steps_of_constant_gradient(
    make: Callable[[float, jax.Array], optax.GradientTransformation],
    rate: float,
    decays: Sequence[float],
    scales: Any,
    num_steps: int,
) -> np.ndarray:
    """Measure the steps under a constant gradient, in units of the rate, for every decay and scale of the gradient.

    Args:
      make: `(rate, decay) -> method`.
      rate: of the method.
      decays: values of its decay.
      scales: sizes of the gradient.
      num_steps: number of steps.

    Returns:
      (decays, scales, num_steps); of two coordinates whose gradients differ in sign, the longer step.
    """
    counts = np.arange(num_steps + 1)

    def one(decay: jax.Array, scale: jax.Array) -> jax.Array:
        def gradient(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            del key
            constant = scale * jnp.array([1.0, -1.0])
            return jnp.vdot(constant, theta), constant

        path = descend(gradient, make(rate, decay), jnp.zeros(2), counts, lambda theta: theta)
        return jnp.max(jnp.abs(jnp.diff(path, axis=0)), axis=1) / rate

    each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return np.asarray(jax.jit(each)(jnp.asarray(decays), jnp.asarray(scales, jnp.float32)))


def cycle_drifts(
    make: Callable[[float, jax.Array], optax.GradientTransformation],
    decays: Sequence[float],
    gradients: Sequence[float],
    quiet_cycles: int = 200,
) -> np.ndarray:
    """Measure how far gradients that come again and again move a weight in one cycle, at a rate of 1, for every decay.

    Args:
      make: `(rate, decay) -> method`.
      decays: values of its decay.
      gradients: those of a cycle.
      quiet_cycles: number of cycles before the one that is measured.

    Returns:
      (decays,) distances, with their sign.
    """
    cycle = jnp.array(gradients)
    settled = len(gradients) * np.array([quiet_cycles, quiet_cycles + 1])

    def gradient(theta: jax.Array, key: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        present = cycle[count % len(gradients)]
        return present * theta, present

    def one(decay: jax.Array) -> jax.Array:
        ends = descend(gradient, make(1.0, decay), jnp.float32(0), settled, lambda theta, _: theta, timed=True)
        return ends[1] - ends[0]

    return np.asarray(jax.jit(jax.vmap(one))(jnp.array(decays)))


def largest_of_parts(values: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each of equal parts of the last axis ends, and its largest value."""
    ends = np.unique(np.linspace(0, values.shape[-1], parts + 1).astype(int))
    return ends[1:], np.maximum.reduceat(values, ends[:-1], axis=-1)
