"""Minibatches that do not fit into memory: they are read from an iterator while a run trains."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from lrx import _checks
from lrx.training.batches import Batches, first_of, name_of
from lrx.training.sampling import Keys


class Stream(Batches):
    """Minibatches from an iterator, for `train` and `range_test`; `Batches.stream` makes it.

    Args:
      make_iterator: returns a new iterator of minibatches; or a loader that `iter` makes one of.
      steps_per_epoch: minibatches that count as an epoch.
    """

    def __init__(self, make_iterator: Callable[[], Iterator[Any]] | Iterable[Any], *, steps_per_epoch: int) -> None:
        _require_source(make_iterator)
        _checks.steps("steps_per_epoch", steps_per_epoch, unit="minibatches")
        self._set(make_iterator=make_iterator, _steps_per_epoch=int(steps_per_epoch))

    make_iterator: Callable[[], Iterator[Any]] | Iterable[Any]

    def _set(self, **values: Any) -> None:
        """Set attributes: those of a stream, whose minibatches are whole already, and `values`."""
        for name, value in {"batch_size": 1, "transform": first_of, "shuffle": False, **values}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Batches.stream({name_of(self.make_iterator)}, steps_per_epoch={self.steps_per_epoch})"

    @property
    def arrays(self) -> Any:
        """Raise an error: there are no arrays of all minibatches."""
        raise ValueError(
            f"batches must be arrays here, got {self!r}, which train, range_test and diagnose alone take: give as many "
            "minibatches as fit into memory, workload.batches.take(100)."
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
        """Return the shapes and types of one minibatch, the first, with a leading axis of length 1."""
        if not hasattr(self, "_shapes"):
            with contextlib.closing(self.read()) as reader:
                object.__setattr__(self, "_shapes", shapes_of(as_host(next(reader))))
        return self._shapes

    def shapes_at(self, step: int) -> tuple[Any, int]:
        """Return the shapes of the minibatch after `step` steps, and a later step until which they stay."""
        del step
        return self.minibatch_shapes(), sys.maxsize

    def take(self, number: int) -> Batches:
        """Return the first minibatches as arrays, for tools that go over the same minibatches many times.

        Args:
          number: how many; all of them are in memory then.
        """
        _checks.steps("number", number, unit="minibatches")
        with contextlib.closing(self.read()) as reader:
            return Batches.stack(itertools.islice(reader, number))

    def first(self, keys: Keys) -> tuple[Any, jax.Array]:
        """Return the first minibatch, and the key of its loss."""
        return self.take(1).first(keys)

    def read(self, step: int = 0, position: Any = None) -> Reader:
        """Return an endless iterator of minibatches.

        Args:
          step: steps that a run has completed.
          position: the reader's position after them, as a checkpoint holds it. Without one, the reader begins at the
            first minibatch, whatever the step.
        """
        return Reader(self, step, position)


class Reader(Iterator[Any]):
    """The minibatches of a stream, without end: a new iterator is made whenever one ends.

    Attributes:
      step: the number of minibatches of the run that have been read.
    """

    def __init__(self, stream: Stream, step: int, position: Any) -> None:
        self.step = 0
        self._stream, self._is_new = stream, True
        self._iterator: Any = None
        if position is not None:
            self._iterator = self._make()
            if hasattr(self._iterator, "set_state"):
                self._iterator.set_state(_decode(position))
                self.step, self._is_new = step, False

    def __next__(self) -> Any:
        """Return the next minibatch.

        Raises:
          ValueError: if an iterator is empty, or is one that was given before.
        """
        while True:
            if self._iterator is None:
                self._iterator, self._is_new = self._make(), True
            try:
                minibatch = next(self._iterator)
            except StopIteration:
                if self._is_new:
                    raise ValueError(
                        "make_iterator must return a new iterator of at least one minibatch at each call, got one "
                        "without: make it anew, lambda: iter(loader)."
                    ) from None
                self._iterator = None
                continue
            self.step, self._is_new = self.step + 1, False
            return minibatch

    def position(self) -> Any:
        """Return the position of the next minibatch, a JSON value; None if the iterator has no `get_state`."""
        if self._iterator is None or not hasattr(self._iterator, "get_state"):
            return None
        return _encode(self._iterator.get_state())

    def close(self) -> None:
        """Close the iterator, if it can be closed."""
        if hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None

    def _make(self) -> Any:
        source = self._stream.make_iterator
        made: Any = source() if callable(source) else source
        begins_once = isinstance(made, types.GeneratorType) or type(made).__module__ in ("builtins", "itertools")
        iterator = iter(made)
        if made is self._stream.__dict__.get("_latest") and begins_once and iterator is made:
            raise ValueError(
                f"make_iterator must return a new iterator at each call, got the same {type(made).__name__} again: "
                "make it anew, lambda: iter(loader)."
            )
        object.__setattr__(self._stream, "_latest", made)
        return iterator


def as_host(minibatch: Any) -> Any:
    """Return a minibatch as arrays of NumPy."""
    return jax.tree.map(np.asarray, minibatch)


def shapes_of(minibatch: Any) -> Any:
    """Return the shapes of a minibatch and the types that it will have on the device, with a leading axis of length 1.

    Raises:
      TypeError: if it holds something else than numbers.
    """
    try:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), jax.typeof(x).dtype), minibatch)
    except TypeError as error:
        types = ", ".join(str(x.dtype) for x in jax.tree.leaves(minibatch))
        raise TypeError(f"minibatches must hold numbers, got arrays of {types}: encode them first.") from error


def _require_source(make_iterator: Any) -> None:
    if callable(make_iterator) or (
        isinstance(make_iterator, Iterable) and not isinstance(make_iterator, Iterator | str)
    ):
        return
    raise TypeError(
        "make_iterator must be a function () -> an iterator of minibatches, or a loader that makes a new iterator each "
        f"time, got make_iterator={make_iterator!r}: give lambda: iter(loader)."
    )


def _encode(state: Any) -> Any:
    """Return what `get_state` of an iterator has returned as a JSON value of its own.

    Raises:
      TypeError: if it is neither bytes nor JSON values.
    """
    if isinstance(state, bytes):
        return {"bytes": base64.b64encode(state).decode()}
    try:
        return {"json": json.dumps(state, default=_as_number)}
    except TypeError as error:
        raise TypeError(
            "get_state of the iterator must return bytes or numbers, strings, lists and dicts of them, got "
            f"{state!r}: convert it, or train without checkpoint=."
        ) from error


def _as_number(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return np.asarray(value).tolist()
    raise TypeError


def _decode(position: Any) -> Any:
    return base64.b64decode(position["bytes"]) if "bytes" in position else json.loads(position["json"])
