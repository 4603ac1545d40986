"""The losses of the initial parameters on the minibatches of a run, which show whether the run has learnt anything.

At a rate that is far too low, the noise of the minibatches puts the last loss below the first one half of the time. On
the same minibatches, with the same keys, that noise cancels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training.checks import workload_key
from lrx.training.program_cache import Cache, Latest
from lrx.training.sampling import Sampling, keys_of
from lrx.training.workload import Workload

MIN_CHANGE = 1e-3  # of the loss: a smaller one may be rounding or drift
FEWEST = 128  # losses that a program has room for, at least


def is_below(initial: Any, final: Any) -> Any:
    """Return whether final losses are below those of the initial parameters by more than `MIN_CHANGE`.

    Any finite loss is below an initial loss that is not finite.
    """
    initial, final = np.asarray(initial, np.float64), np.asarray(final, np.float64)
    return np.isfinite(final) & ~(final >= initial - MIN_CHANGE * np.abs(initial))


def differs(initial: Any, final: Any) -> Any:
    """Return whether final losses are below or above those of the initial parameters by more than `MIN_CHANGE`."""
    return is_below(initial, final) | is_below(-np.asarray(initial), -np.asarray(final))


class InitialLoss:
    """The losses of a workload's initial parameters on the minibatches of a run's steps.

    Args:
      workload: the model, its data and its loss.
      batch: a batch to take the loss of at each step, in place of the minibatches.
      initial: seed to `(params, model_state)`, if there is a program that computes them; otherwise they are part of the
        program of the losses.
      longest: the most losses that are computed at a time, if that is known: there is one program for all lengths.
    """

    def __init__(
        self,
        workload: Workload,
        batch: Any = None,
        initial: Callable[[int], tuple[Any, Any]] | None = None,
        longest: int = 0,
    ) -> None:
        init = workload.init if initial is None else None
        parts = (init, workload.loss_fn, workload.batches.sampling)
        self._compute = _PROGRAMS.find_program((workload_key(workload), init is None), parts, _losses)
        self._arrays, self._batch, self._initial = workload.batches.arrays, batch, initial
        self._least_room = max(FEWEST, longest)
        self._means: dict[tuple[int, int, int], float] = {}
        self._is_placed = initial is None

    def losses(self, seed: int, start: int, stop: int) -> np.ndarray:
        """Return (stop - start,) float32, for the steps of a run with that seed."""
        number = int(stop) - int(start)
        room = (
            self._least_room if number <= self._least_room else 1 << (number - 1).bit_length()
        )  # one program for many lengths
        window = np.int32(seed), np.int32(start), np.int32(stop)
        start_state = None if self._initial is None else self._initial(int(seed))
        if not self._is_placed:  # the data may lie on several devices, of which a single run uses one
            self._arrays = _put_beside(self._arrays, start_state)
            self._is_placed = True
        return np.asarray(self._compute(self._arrays, self._batch, start_state, *window, room))[:number]

    def means(self, seeds: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return (seeds, members) float32: the mean over the steps of each run; NaN if it made none."""
        found = np.full(starts.shape, np.nan, np.float32)
        for place in np.ndindex(found.shape):
            window = int(seeds[place[0]]), int(starts[place]), int(stops[place])
            if window[2] > window[1]:
                if window not in self._means:
                    self._means[window] = float(self.losses(*window).mean(dtype=np.float64))
                found[place] = self._means[window]
        return found


def _put_beside(arrays: Any, state: Any) -> Any:
    """Put arrays on the devices of a state, if it has any arrays."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
    return jax.device_put(arrays, leaves[0].sharding) if leaves else arrays


_PROGRAMS = Cache(maxsize=16)


def _losses(
    latest: Latest[tuple[Callable[..., Any] | None, Callable[..., Any], Sampling]],
) -> Callable[..., jax.Array]:
    @functools.partial(jax.jit, static_argnums=6)
    def losses(
        arrays: Any, batch: Any, initial: Any, seed: jax.Array, start: jax.Array, stop: jax.Array, room: int
    ) -> jax.Array:
        init, loss_fn, sampling = latest.parts
        keys = keys_of(seed)
        params, model_state = initial if init is None else init(keys.init)

        def measure(count: jax.Array, permutation: jax.Array, found: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn, loss_key = sampling.draw(arrays, permutation, keys.step, count)
            loss, _ = loss_fn(params, model_state, drawn if batch is None else batch, loss_key)
            return count + 1, found.at[count - start].set(loss.astype(jnp.float32))

        _, found = sampling.loop(
            measure,
            lambda epoch: sampling.permutation(arrays, keys.shuffle, epoch),
            jax.tree.leaves(arrays)[0].shape[0],
            *(start, stop, jnp.zeros(room, jnp.float32)),
        )
        return found

    return losses
