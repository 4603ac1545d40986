"""Minibatches that do not fit into memory: they are put on the device in chunks, each while the one before trains."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from lrx import _checks
from lrx.training.batches import Batches, first_of, name_of, require_callable
from lrx.training.sampling import Keys

CHUNK_BYTES = 2**26  # of a chunk; two are in memory
CHUNK_STEPS = 256  # at most
WAIT_SECONDS = 0.1  # seconds between two checks for an interruption


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
        """The minibatches of an epoch; each counts as one example."""
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

    def first(self, keys: Keys) -> tuple[Any, jax.Array]:
        """Return the first minibatch, and the key of its loss."""
        return self.take(1).first(keys)

    def minibatches(self) -> Iterator[Any]:
        """Return an endless iterator of minibatches: a new iterator is made whenever one ends.

        Raises:
          ValueError: if an iterator is empty, or is one that was given before.
        """
        while True:
            made = self.make_iterator()
            begins_once = isinstance(made, types.GeneratorType) or type(made).__module__ in ("builtins", "itertools")
            if made is self.__dict__.get("_latest") and begins_once and iter(made) is made:
                raise ValueError(
                    f"make_iterator must return a new iterator at each call, got the same {type(made).__name__} again: "
                    "make it anew, lambda: iter(loader)."
                )
            object.__setattr__(self, "_latest", made)
            empty = True
            for minibatch in made:
                empty = False
                yield minibatch
            if empty:
                raise ValueError(
                    "make_iterator must return a new iterator of at least one minibatch at each call, got one without: "
                    "make it anew, lambda: iter(loader)."
                )

    def _host(self, minibatch: Any) -> Any:
        return jax.tree.map(np.asarray, minibatch)

    def chunk(self, minibatches: Iterator[Any], number: int, size: int, is_closed: Callable[[], bool]) -> Any:
        """Return the next `number` minibatches, stacked and filled up to `size` with the last one.

        Each is copied before the next is asked for, since a loader may use its arrays again.

        Raises:
          ValueError: if a minibatch differs in structure, shape or type from the first.
        """
        expected = self.minibatch_shapes()
        stacked = jax.tree.map(lambda x: np.empty((size, *x.shape[1:]), x.dtype), expected)
        for place in range(number):
            if is_closed():
                return None
            minibatch = self._host(next(minibatches))
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), jax.typeof(x).dtype), minibatch)
            if shapes != expected:
                raise ValueError(
                    f"the minibatches of a stream must all have the same shapes, got {shapes} after {expected}: drop "
                    "the incomplete last one."
                )
            for into, x in zip(jax.tree.leaves(stacked), jax.tree.leaves(minibatch), strict=True):
                into[place] = x
        for into in jax.tree.leaves(stacked):
            into[number:] = into[number - 1]
        return stacked


class Feed:
    """The arrays that the steps of a run draw from: all of the data, or the chunks of a stream.

    Args:
      batches: the data.
      first: the step that the run begins with.
      total: steps of the run.
      placement: where the arrays are put.
    """

    def __init__(self, batches: Batches, first: int, total: int, placement: Sharding) -> None:
        self._total, self._placement = total, placement
        self._closed = threading.Event()
        self._loader: threading.Thread | None = None
        if not isinstance(batches, Stream):
            self._arrays, self._end = jax.device_put(batches.arrays, placement), total
            return
        leaves = jax.tree.leaves(batches.minibatch_shapes())
        size = CHUNK_BYTES // max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
        self._size = max(1, min(size, CHUNK_STEPS, total))
        self._end = first // self._size * self._size  # chunks begin at multiples of their size
        self._loaded: queue.Queue[Any] = queue.Queue(1)
        self._taken = threading.Event()  # whether the chunk before has been taken, so that two are in memory at most
        self._taken.set()
        # One thread asks all iterators; while it stacks a chunk, the one before trains. The process does not wait for
        # it, because an iterator may hang.
        self._loader = threading.Thread(target=self._load, args=(batches, self._end), name="lrx-stream", daemon=True)
        self._loader.start()

    def _load(self, batches: Stream, start: int) -> None:
        try:
            minibatches = batches.minibatches()
            for _ in range(start):
                if self._closed.is_set():
                    return
                next(minibatches)
            for first in range(start, self._total, self._size):
                while not self._taken.wait(WAIT_SECONDS):
                    if self._closed.is_set():
                        return
                self._taken.clear()
                number = min(self._size, self._total - first)
                chunk = batches.chunk(minibatches, number, self._size, self._closed.is_set)
                if chunk is None:
                    return
                self._hand_over(jax.device_put(chunk, self._placement))
        except BaseException as error:  # which is then the error of the run
            self._hand_over(error)

    def _hand_over(self, loaded: Any) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._loaded.put(loaded, timeout=WAIT_SECONDS)
                break

    def at(self, step: int, interrupted: Callable[[], bool] = lambda: False) -> tuple[Any, int] | None:
        """Return the arrays that hold the minibatch of a step, and the step that they end before.

        Returns:
          None if the run was interrupted while it waited for minibatches.
        """
        if self._loader is not None and self._end <= step < self._total:
            loaded = self._wait(interrupted)
            if loaded is None:
                return None
            if isinstance(loaded, BaseException):
                raise loaded
            self._taken.set()
            self._arrays = loaded
            self._end = min(self._end + self._size, self._total)
        return self._arrays, self._end

    def _wait(self, interrupted: Callable[[], bool]) -> Any:
        while not interrupted():
            with contextlib.suppress(queue.Empty):
                return self._loaded.get(timeout=WAIT_SECONDS)
        return None

    def close(self) -> None:
        """Stop loading, after the minibatch that is being read."""
        self._closed.set()
