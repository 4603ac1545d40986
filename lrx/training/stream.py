"""Minibatches that do not fit into memory: they are put on the device in chunks, each while the one before trains."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from lrx import _checks
from lrx.training.batches import Batches, first_of, name_of, require_callable

CHUNK_BYTES = 2**26  # of a chunk, of which there are two
CHUNK_STEPS = 256  # at most


class Stream(Batches):
    """Minibatches from an iterator, for `train` and `range_test`; `Batches.stream` makes it.

    Args:
      make_iterator: returns a new iterator of minibatches.
      steps_per_epoch: minibatches that count as an epoch.
    """

    def __init__(self, make_iterator: Callable[[], Iterator[Any]], *, steps_per_epoch: int) -> None:
        require_callable("make_iterator", make_iterator, "() -> an iterator of minibatches")
        _checks.steps("steps_per_epoch", steps_per_epoch, unit="minibatches")
        values = {"batch_size": 1, "transform": first_of, "shuffle": False}
        values |= {"make_iterator": make_iterator, "_steps_per_epoch": int(steps_per_epoch)}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    make_iterator: Callable[[], Iterator[Any]]

    def __repr__(self) -> str:
        return f"Batches.stream({name_of(self.make_iterator)}, steps_per_epoch={self.steps_per_epoch})"

    @property
    def arrays(self) -> Any:
        """Raise an error: there are no arrays of all minibatches."""
        raise ValueError(
            f"batches must be arrays here, got {self!r}, which train and range_test alone take: stack as many "
            "minibatches as fit into memory, Batches.stack(make_iterator(), num_batches=100)."
        )

    @property
    def num_examples(self) -> int:
        """The minibatches of an epoch, each of which counts as an example."""
        return self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch."""
        steps: int = self._steps_per_epoch
        return steps

    def minibatch_shapes(self) -> Any:
        """Return the shapes and types of one minibatch, the first of an iterator, with a leading axis of length 1."""
        if not hasattr(self, "_shapes"):
            first = self._host(next(self.minibatches()))
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), jax.typeof(x).dtype), first)
            object.__setattr__(self, "_shapes", shapes)
        return self._shapes

    def take(self, number: int) -> Batches:
        """Return the first minibatches, stacked."""
        return Batches.stack(itertools.islice(self.minibatches(), number))

    def minibatches(self) -> Iterator[Any]:
        """Return an endless iterator of minibatches: the iterator is made anew whenever it ends.

        Raises:
          ValueError: if an iterator is empty.
        """
        while True:
            empty = True
            for minibatch in self.make_iterator():
                empty = False
                yield minibatch
            if empty:
                raise ValueError(
                    "make_iterator must return a new iterator of at least one minibatch at each call, got one without: "
                    "make it anew, lambda: iter(loader)."
                )

    def _host(self, minibatch: Any) -> Any:
        return jax.tree.map(np.asarray, minibatch)

    def chunk(self, minibatches: Iterator[Any], number: int, size: int) -> Any:
        """Return the next `number` minibatches, stacked and filled up to `size` with the last one.

        Raises:
          ValueError: if a minibatch differs in structure, shape or type from the first.
        """
        taken = [self._host(next(minibatches)) for _ in range(number)]
        expected = self.minibatch_shapes()
        for minibatch in taken:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), jax.typeof(x).dtype), minibatch)
            if shapes != expected:
                raise ValueError(
                    f"the minibatches of a stream must all have the same shapes, got {shapes} after {expected}: drop "
                    "the incomplete last one."
                )
        taken += [taken[-1]] * (size - number)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *taken)


class Feed:
    """The arrays that the steps of a run draw from: all of the data, or the chunks of a stream.

    Args:
      batches: the data.
      first: the step that the run begins with.
      total: steps of the run.
      placement: where the arrays are put.
    """

    def __init__(self, batches: Batches, first: int, total: int, placement: Sharding) -> None:
        self._batches, self._total, self._placement = batches, total, placement
        self._worker: concurrent.futures.ThreadPoolExecutor | None = None
        if not isinstance(batches, Stream):
            self._arrays, self._end = jax.device_put(batches.arrays, placement), total
            return
        leaves = jax.tree.leaves(batches.minibatch_shapes())
        size = CHUNK_BYTES // max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
        self._size = max(1, min(size, CHUNK_STEPS, total))
        # One thread makes and asks all iterators; while it stacks a chunk, the one before trains.
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="lrx-stream")
        self._end = first // self._size * self._size  # chunks begin at multiples of their size
        self._minibatches = batches.minibatches()
        self._next = self._worker.submit(self._skip_and_load, batches, self._end)

    def _skip_and_load(self, batches: Stream, start: int) -> Any:
        for _ in range(start):
            next(self._minibatches)
        return self._load(batches, start)

    def _load(self, batches: Stream, start: int) -> Any:
        number = min(self._size, self._total - start)
        if number <= 0:
            return None
        return jax.device_put(batches.chunk(self._minibatches, number, self._size), self._placement)

    def at(self, step: int) -> tuple[Any, int]:
        """Return the arrays that hold the minibatch of a step, and the step that they end before."""
        if self._worker is not None and step >= self._end and step < self._total:
            assert isinstance(self._batches, Stream)
            self._arrays = self._next.result()
            self._end = min(self._end + self._size, self._total)
            self._next = self._worker.submit(self._load, self._batches, self._end)
        return self._arrays, self._end

    def close(self) -> None:
        """Stop loading."""
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)
