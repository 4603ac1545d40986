"""Whether a run has learnt anything: its losses beside those that the initial parameters have on the same minibatches.

A rate that is far too low leaves a loss that is lower than the first one half of the time, by the noise of the
minibatches. On the same minibatches, with the same keys, that noise is gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training.program import draw
from lrx.training.workload import Workload

LEAST = 1e-3  # part of the loss by which it must fall
FEWEST = 128  # losses that a program has room for


def fell(initial: Any, final: Any) -> Any:
    """Return whether losses are below those of the initial parameters by more than what rounding and drift explain.

    Where an initial loss is not finite, any finite one is lower.
    """
    initial, final = np.asarray(initial, np.float64), np.asarray(final, np.float64)
    return np.isfinite(final) & ~(final >= initial - LEAST * np.abs(initial))


def changed(initial: Any, final: Any) -> Any:
    """Return whether losses are below or above those of the initial parameters by more than that."""
    return fell(initial, final) | fell(-np.asarray(initial), -np.asarray(final))


class InitialLoss:
    """The losses that a workload's initial parameters have on the minibatches of a run's steps.

    Args:
      workload: what is trained.
    """

    def __init__(self, workload: Workload) -> None:
        batches = workload.batches
        parts = (workload.init, workload.loss_fn, batches.transform, batches.batch_size, batches.shuffle)
        try:
            hash(parts)
        except TypeError:  # a function that is an object without a hash
            self._compute = _losses(*parts)
        else:
            self._compute = _cached_losses(*parts)
        self._arrays = batches.arrays
        self._means: dict[tuple[int, int, int], float] = {}

    def losses(self, seed: int, start: int, stop: int) -> np.ndarray:
        """Return (stop - start,) float32, for the steps of a run with that seed."""
        number = int(stop) - int(start)
        room = max(FEWEST, 1 << max(number - 1, 0).bit_length())  # one program for many lengths
        key = jax.random.key(int(seed))
        return np.asarray(self._compute(self._arrays, key, np.int32(start), np.int32(stop), room))[:number]

    def means(self, seeds: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return (seeds, members) float32: the mean over the steps of each run; NaN where it made none."""
        found = np.full(starts.shape, np.nan, np.float32)
        for place in np.ndindex(found.shape):
            window = int(seeds[place[0]]), int(starts[place]), int(stops[place])
            if window[2] > window[1]:
                if window not in self._means:
                    self._means[window] = float(self.losses(*window).mean(dtype=np.float64))
                found[place] = self._means[window]
        return found


def _losses(
    init: Callable[..., Any], loss_fn: Callable[..., Any], transform: Callable[..., Any], size: int, shuffle: bool
) -> Callable[..., jax.Array]:
    @functools.partial(jax.jit, static_argnums=4)
    def losses(arrays: Any, key: jax.Array, start: jax.Array, stop: jax.Array, room: int) -> jax.Array:
        init_key, run_key = jax.random.split(key)
        shuffle_key, step_key = jax.random.split(run_key)
        params, model_state = init(init_key)
        in_order = jnp.arange(jax.tree.leaves(arrays)[0].shape[0], dtype=jnp.int32)
        per_epoch = in_order.shape[0] // size

        def rest_of_epoch(carry: Any) -> Any:
            count, found = carry
            epoch = count // per_epoch
            end = jnp.minimum(stop, (epoch + 1) * per_epoch)
            order = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), in_order) if shuffle else in_order

            def body(count: jax.Array, found: jax.Array) -> jax.Array:
                batch, loss_key = draw(arrays, order, step_key, count, size, transform)
                loss, _ = loss_fn(params, model_state, batch, loss_key)
                return found.at[count - start].set(loss.astype(jnp.float32))

            return end, jax.lax.fori_loop(count, end, body, found)

        found = jnp.zeros(room, jnp.float32)
        return jax.lax.while_loop(lambda carry: carry[0] < stop, rest_of_epoch, (start, found))[1]

    return losses


_cached_losses = functools.lru_cache(maxsize=16)(_losses)
