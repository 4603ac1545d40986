"""Minibatches of examples that are read one by one from a data set of Grain, each process its share of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from lrx import _checks
from lrx._numbers import is_number
from lrx.arguments import as_schedule
from lrx.training.stream import Reader, Stream, as_host, shapes_of

WINDOW = 2**12  # steps whose batch sizes are looked up at once
BUFFER_BYTES = 2**26  # of the minibatches that Grain reads ahead
THREADS = 8  # at most, that read ahead


class Stretch(NamedTuple):
    """Steps that take examples of one epoch, as many each, from consecutive places in the order of all epochs."""

    place: int  # of the first example
    size: int  # examples in a step, over all processes
    steps: int


class Records(Stream):
    """Minibatches of examples of a `grain.MapDataset`; `Batches.records` makes it, and says what its arguments are."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int | Callable[[jax.Array], Any],
        *,
        drop_remainder: bool = True,
        process_index: int | None = None,
        process_count: int | None = None,
        read_options: Any = None,
    ) -> None:
        dataset = _as_dataset(dataset)
        _checks.flag("drop_remainder", drop_remainder)
        if (process_index is None) != (process_count is None):
            raise ValueError(
                "process_index and process_count must be given together, got "
                f"process_index={process_index}, process_count={process_count}: leave out both for those of JAX."
            )
        if process_count is not None:
            _checks.steps("process_count", process_count, unit="processes")
            _checks.steps("process_index", process_index, at_least=0, unit="processes")
            if process_index >= process_count:  # type: ignore[operator]
                raise ValueError(
                    f"process_index must be below process_count={process_count}, got process_index={process_index}."
                )
        self._set(
            dataset=dataset,
            drop_remainder=drop_remainder,
            read_options=read_options,
            sizes=_Sizes(batch_size, len(dataset)),
            _given_process=None if process_count is None else (process_index, process_count),
        )

    dataset: Any
    drop_remainder: bool
    sizes: _Sizes
    read_options: Any

    def __repr__(self) -> str:
        left_out = "" if self.drop_remainder else ", drop_remainder=False"
        process = "" if self._given_process is None else ", process_index={}, process_count={}".format(*self.process)
        records = f"<{len(self.dataset):,} records>"
        return f"Batches.records({records}, batch_size={self.sizes.given!r}{left_out}{process})"

    @property
    def process(self) -> tuple[int, int]:
        """The number of this process, and of all."""
        # Those of JAX are looked up late, since that starts its backend.
        return self._given_process or (jax.process_index(), jax.process_count())

    @property
    def grows(self) -> bool:
        """True if the batch size follows a schedule."""
        return self.sizes.schedule is not None

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch, the first if the batch size follows a schedule."""
        return self.steps_of(1)

    def steps_of(self, epochs: int) -> int:
        """Return the number of steps that so many epochs take; if no example is dropped, of the whole ones."""
        number = len(self.dataset)
        if not self.grows:
            size = self.sizes.at(0)[0]
            return epochs * (number // size) if self.drop_remainder else epochs * number // size
        step = place = 0
        while True:
            stretch = self.stretch(step, place)
            left = epochs * number - stretch.place
            if left < stretch.size * stretch.steps:
                return step + max(0, left // stretch.size)
            step, place = step + stretch.steps, stretch.place + stretch.size * stretch.steps

    def minibatch_shapes(self) -> Any:
        """Return the shapes and types of the first minibatch of all processes, with a leading axis of length 1."""
        return self._with_size(self.sizes.at(0)[0])

    def shapes_at(self, step: int) -> tuple[Any, int]:
        """Return the shapes of this process's minibatch after `step` steps, and a step until which they stay."""
        size, steps = self.sizes.at(step)
        return self._with_size(self.share_of(size, step)), step + steps

    def _with_size(self, size: int) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, size, *x.shape[1:]), x.dtype), self._example)

    @functools.cached_property
    def first_example(self) -> Any:
        """The example that comes first in the first epoch."""
        return as_host(self.dataset[0])

    @functools.cached_property
    def _example(self) -> Any:
        return shapes_of(self.first_example)

    @property
    def num_examples(self) -> int:
        """Examples in an epoch."""
        return len(self.dataset)

    def require_processes(self, number: int) -> None:
        """Check that the shares of a number of processes, which train together, make up the whole minibatches.

        Raises:
          ValueError: if this is a share among another number of processes.
        """
        index, count = self.process
        if count != number:
            raise ValueError(
                f"batches must be shares of the {number} processes that train together, got the share of process "
                f"{index} of {count}: leave out process_index and process_count; with several processes, give train a "
                "mesh of all their devices."
            )

    def share_of(self, size: int, step: int) -> int:
        """Return the number of examples that each process takes of a minibatch.

        Raises:
          ValueError: if the processes do not divide it.
        """
        count = self.process[1]
        if size % count:
            raise ValueError(
                f"batch_size must be a multiple of the {count} processes, each of which reads its share, got a batch "
                f"size of {size} at step {step}: give {max(1, size // count) * count}."
            )
        return size // count

    def stretch(self, step: int, place: int) -> Stretch:
        """Return the steps from one on whose examples are read in one go.

        Args:
          step: steps completed.
          place: examples that they have taken or dropped, epochs counted one after the other.
        """
        size, steps = self.sizes.at(step)
        if self.drop_remainder:
            number = len(self.dataset)
            if place % number + size > number:
                place += number - place % number
            steps = min(steps, (number - place % number) // size)
        return Stretch(place, size, steps)

    def place_after(self, steps: int) -> int:
        """Return how many examples a run has taken or dropped after so many steps."""
        size, number = self.sizes.at(0)[0], len(self.dataset)
        if not self.grows:
            per_epoch = number // size
            return steps // per_epoch * number + steps % per_epoch * size if self.drop_remainder else steps * size
        step = place = 0
        while step < steps:
            stretch = self.stretch(step, place)
            made = min(stretch.steps, steps - step)
            step, place = step + made, stretch.place + made * stretch.size
        return place

    def read(self, step: int = 0, position: Any = None) -> RecordsReader:
        """Return an endless iterator of this process's minibatches.

        Args:
          step: steps that a run has completed.
          position: the reader's position after them, as a checkpoint holds it; by default that which follows from the
            batch sizes. It is the same for all processes, whatever their number.
        """
        return RecordsReader(self, step, position)

    def take(self, number: int) -> Any:
        """Return the first minibatches of all processes as arrays, as large as the first."""
        size = self.sizes.at(0)[0]
        others = {"drop_remainder": self.drop_remainder, "read_options": self.read_options}
        whole = Records(self.dataset, size, process_index=0, process_count=1, **others)
        return Stream.take(whole, number)


class RecordsReader(Reader):
    """The minibatches of a process, without end.

    Attributes:
      step: the number of minibatches of the run that have been read.
      place: examples that all processes have taken or dropped before, epochs counted one after the other.
    """

    def __init__(self, records: Records, step: int, position: Any) -> None:
        self._records, self.step = records, step
        self.place = records.place_after(step) if position is None else int(position["examples"])
        self._iterator: Any = None
        self._size = self._left = 0

    def __next__(self) -> Any:
        """Return the next minibatch."""
        if self._left == 0:
            self.close()
            stretch = self._records.stretch(self.step, self.place)
            self.place, self._size, self._left = stretch
            self._iterator = self._open(stretch)
        minibatch = next(self._iterator)
        self.step, self.place, self._left = self.step + 1, self.place + self._size, self._left - 1
        return minibatch

    def _open(self, stretch: Stretch) -> Any:
        records = self._records
        index, count = records.process
        share = records.share_of(stretch.size, self.step)
        # Process i takes the i-th part of each minibatch, so that together they are the minibatch of a single process.
        examples = records.dataset.repeat()[stretch.place : stretch.place + stretch.size * stretch.steps]
        parts = examples.batch(share, drop_remainder=True)[index::count]
        return iter(parts.to_iter_dataset(records.read_options or self._read_options(share)))

    def _read_options(self, share: int) -> Any:
        import grain

        leaves = jax.tree.leaves(self._records._example)
        ahead = BUFFER_BYTES // max(1, share * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
        ahead = max(2, min(THREADS, ahead))
        return grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)

    def position(self) -> Any:
        """Return the position of the next minibatch, the same for all processes and for any number of them."""
        return {"examples": self.place}


class _Sizes:
    """The batch size of each step, over all processes.

    Args:
      given: a whole number, or a schedule of the completed steps.
      number: examples in an epoch, the most that a step takes.
    """

    def __init__(self, given: Any, number: int) -> None:
        self.given, self.number = given, number
        self.schedule = None if is_number(given) else as_schedule(given, name="batch_size")
        if self.schedule is None:
            _checks.steps("batch_size", given, unit="examples")
            self._require(int(given), 0)
        self._window: tuple[int, np.ndarray] = (0, np.zeros(0, np.int64))

    def at(self, step: int) -> tuple[int, int]:
        """Return the size of the step after `step` completed ones, and a number of steps for which it stays."""
        if self.schedule is None:
            return int(self.given), sys.maxsize - step
        first = step - step % WINDOW
        window = self._window  # which the thread that reads may replace
        if first != window[0] or not len(window[1]):
            window = self._window = (first, self._evaluate(first))
        sizes = window[1][step - first :]
        changes = np.flatnonzero(sizes != sizes[0])
        return int(sizes[0]), int(changes[0]) if len(changes) else len(sizes)

    def _evaluate(self, first: int) -> np.ndarray:
        assert self.schedule is not None
        found = np.asarray(self.schedule(np.arange(first, first + WINDOW, dtype=np.int32)), np.float64)
        values = np.broadcast_to(found, (WINDOW,))
        whole = np.isfinite(values) & (values == np.round(values)) & (values >= 1)
        if not whole.all():
            place = int(np.argmin(whole))
            raise ValueError(
                f"batch_size must be a whole number of examples >= 1 at each step, got {values[place]:g} at step "
                f"{first + place}: give steps, lrx.piecewise_constant(64, {{1000: 2, 2000: 2}})."
            )
        sizes = values.astype(np.int64)
        place = int(np.argmax(sizes))
        self._require(int(sizes[place]), first + place)
        return sizes

    def _require(self, size: int, step: int) -> None:
        if size > self.number:
            raise ValueError(
                f"batch_size must be at most the number of examples, {self.number:,}, got a batch size of {size:,} at "
                f"step {step}: make it smaller."
            )


def _as_dataset(dataset: Any) -> Any:
    """Return a `grain.MapDataset` of one epoch.

    Raises:
      TypeError: if its examples cannot be read by their number.
      ValueError: if it is empty or endless.
      ImportError: if Grain is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise ImportError('Batches.records needs grain: pip install "lrx[data]".') from error
    if not isinstance(dataset, grain.MapDataset):
        if isinstance(dataset, str | type) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(
                "dataset must be a grain.MapDataset, or a source of examples with __len__ and __getitem__, got a "
                f"{type(dataset).__name__}: minibatches of an iterator are a stream, lrx.Batches.stream."
            )
        dataset = grain.MapDataset.source(dataset)
    try:
        dataset.batch(1)
    except ValueError as error:
        raise ValueError(
            "dataset must have an example for each number, got one that may drop some: filter the source, or stream "
            f"minibatches of a grain.IterDataset, lrx.Batches.stream. Grain says: {error}"
        ) from error
    number = len(dataset)
    if not 0 < number < sys.maxsize:
        raise ValueError(f"dataset must hold one epoch of examples, got {number:,} of them: leave out its repeat().")
    return dataset
