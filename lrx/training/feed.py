"""What the steps of a run draw from: all data, or chunks of minibatches that are read while the chunk before trains."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lrx.training.batches import Batches
from lrx.training.stream import Reader, Stream, as_host, shapes_of

CHUNK_BYTES = 2**23  # of a chunk; two are in memory. Larger ones would delay the start, and save little
CHUNK_STEPS = 256  # at most
WAIT_SECONDS = 0.1  # seconds between two checks for an interruption
ALIGNMENT = 64  # bytes: XLA's programs for the CPU copy memory that begins elsewhere
READ_PER_PUT = 4  # a chunk that is not full is handed over after so many times the seconds that handing it over takes


class Chunk(NamedTuple):
    """Minibatches of steps that follow each other, the one of step t at t modulo the length of the arrays."""

    arrays: Any
    first: int
    end: int
    positions: list[Any]  # of the reader, before each of the steps and at the end; empty if they are not kept


class Feed:
    """The arrays that the steps of a run draw from: all of the data, or the chunks of a stream.

    One thread reads a stream; while it fills a chunk, the one before trains. As long as training does not wait, a chunk
    is filled up; if it waits, it is given what there is.

    Args:
      batches: the data.
      first: the step that the run begins with.
      total: steps of the run.
      put: puts arrays on the devices.
      position: of the stream's reader at the first step, if a checkpoint holds it.
      keeps_positions: whether `position` will be asked for.
    """

    def __init__(
        self,
        batches: Batches,
        first: int,
        total: int,
        put: Callable[[Any], Any],
        *,
        position: Any = None,
        keeps_positions: bool = False,
    ) -> None:
        self._total, self._put, self._keeps_positions = total, put, keeps_positions
        self._closed = threading.Event()
        self._loader: threading.Thread | None = None
        if not isinstance(batches, Stream):
            self._chunk = Chunk(put(batches.arrays), first, total, [])
            return
        self._chunk = Chunk(None, first, first, [position])
        self._loaded: queue.Queue[Any] = queue.Queue(1)
        self._taken = threading.Event()  # whether the chunk before has been taken, so that two are in memory at most
        self._taken.set()
        self._wanted = threading.Event()  # whether training waits
        self._put_seconds = 0.0
        # The process does not wait for the thread, because an iterator may hang.
        arguments = (batches, first, position)
        self._loader = threading.Thread(target=self._load, args=arguments, name="lrx-stream", daemon=True)
        self._loader.start()

    def _load(self, stream: Stream, first: int, position: Any) -> None:
        try:
            with contextlib.closing(stream.read(first, position)) as reader:
                while reader.step < first:
                    if self._closed.is_set():
                        return
                    next(reader)
                while reader.step < self._total:
                    while not self._taken.wait(WAIT_SECONDS):
                        if self._closed.is_set():
                            return
                    self._taken.clear()
                    chunk = self._fill(stream, reader)
                    began = time.monotonic()
                    chunk = chunk._replace(arrays=jax.block_until_ready(self._put(chunk.arrays)))
                    self._put_seconds = time.monotonic() - began
                    self._hand_over(chunk)
        except BaseException as error:  # which is then the error of the run
            self._hand_over(error)

    def _fill(self, stream: Stream, reader: Reader) -> Chunk:
        """Return the next minibatches.

        Each is copied before the next is asked for, since a loader may use its arrays again.

        Raises:
          ValueError: if a minibatch differs in structure, shape or type from what the stream has said.
        """
        first = reader.step
        shapes, until = stream.shapes_at(first)
        leaves = jax.tree.leaves(shapes)
        size = CHUNK_BYTES // max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
        size = max(1, min(size, CHUNK_STEPS, self._total))
        arrays = jax.tree.map(lambda x: _aligned((size, *x.shape[1:]), x.dtype), shapes)
        positions = [reader.position()] if self._keeps_positions else []
        began = time.monotonic()
        end = min(first + size, until, self._total)
        while reader.step < end and not self._closed.is_set():
            place = reader.step % size
            minibatch = as_host(next(reader))
            found = shapes_of(minibatch)
            if found != shapes:
                raise ValueError(
                    f"the minibatches of a stream must all have the same shapes, got {found} after {shapes}: drop the "
                    "incomplete last one."
                )
            for into, x in zip(jax.tree.leaves(arrays), jax.tree.leaves(minibatch), strict=True):
                into[place] = x
            if self._keeps_positions:
                positions.append(reader.position())
            if self._wanted.is_set() and time.monotonic() - began >= READ_PER_PUT * self._put_seconds:
                break
        return Chunk(arrays, first, reader.step, positions)

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
        if self._loader is not None and self._chunk.end <= step < self._total:
            loaded = self._wait(interrupted)
            if loaded is None:
                return None
            if isinstance(loaded, BaseException):
                raise loaded
            self._chunk = loaded
            self._taken.set()
        return self._chunk.arrays, self._chunk.end

    def _wait(self, interrupted: Callable[[], bool]) -> Any:
        self._wanted.set()
        try:
            while not interrupted():
                with contextlib.suppress(queue.Empty):
                    return self._loaded.get(timeout=WAIT_SECONDS)
            return None
        finally:
            self._wanted.clear()

    def position(self, step: int) -> Any:
        """Return where the minibatch of a step of the latest chunk, or the one after it, is read; None if unknown."""
        if self._loader is None or not self._chunk.positions:
            return None
        return self._chunk.positions[step - self._chunk.first]

    def close(self) -> None:
        """Stop loading, after the minibatch that is being read."""
        self._closed.set()


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a new array that begins where the CPU's programs want it, so that there it is used without a copy."""
    array = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + ALIGNMENT, np.uint8)
    offset = -array.ctypes.data % ALIGNMENT
    return array[offset : len(array) - ALIGNMENT + offset].view(dtype).reshape(shape)
