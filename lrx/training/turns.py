"""What the processes of a run agree on before each segment, as their clocks and signals differ."""

from __future__ import annotations

import collections
import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

FAILED = -1  # in place of a step


class Turn(NamedTuple):
    """What holds until the end of the next segment."""

    length: int  # the most steps of the segment
    waited: bool  # whether it is time for a checkpoint
    interrupted: Callable[[], bool]


def take_turn(length: int, waited: bool, interrupted: Callable[[], bool], *, together: bool) -> Turn:
    """Return what holds for all processes: length and time are those of the first, an interruption is that of any.

    Args:
      length: the most steps of the next segment, by the clock of this process.
      waited: whether it is time for a checkpoint, by its clock.
      interrupted: whether Ctrl-C was pressed here.
      together: whether the run belongs to several processes. If not, this process decides alone.
    """
    if not together:
        return Turn(length, waited, interrupted)
    lengths, times, pressed = gather([length, waited, interrupted()]).T
    is_pressed = bool(pressed.any())
    return Turn(int(lengths[0]), bool(times[0]), lambda: is_pressed)


def agree_on_end(end: int, *, together: bool) -> int:
    """Return the step before which the minibatches of all processes end: each may have read another number of them.

    Raises:
      RuntimeError: if another process could not read.
    """
    if not together:
        return end
    ends = gather(end)
    failed = np.flatnonzero(ends == FAILED).tolist()
    if failed:
        which = f"process {failed[0]}" if len(failed) == 1 else f"the processes {', '.join(map(str, failed))}"
        raise RuntimeError(f"{which} could not read the next minibatches, and the run ends: see the error there.")
    return int(ends.min())


def report_failure(*, together: bool) -> None:
    """Take the turn of `agree_on_end` in a process that could not read, so that the others do not wait for it."""
    if together:
        gather(FAILED)


def require_alike(**values: Any) -> None:
    """Check that all processes were given the same values.

    Args:
      **values: name of an argument to a JSON value that describes it.

    Raises:
      ValueError: if they were not, on all processes.
    """
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values.values()]
    sums = gather(np.asarray([zlib.crc32(text.encode()) for text in texts], np.uint32).view(np.int32))
    for name, of_all in zip(values, sums.T, strict=True):
        usual, _ = collections.Counter(of_all.tolist()).most_common(1)[0]
        others = np.flatnonzero(of_all != usual).tolist()
        if others:
            raise ValueError(
                f"{name} must be the same on all {len(of_all)} processes of a mesh, got something else on process "
                f"{', '.join(map(str, others))}: each process makes the same call."
            )


def gather(numbers: Any) -> np.ndarray:
    """Return the int32 numbers of all processes, (processes, n)."""
    from jax.experimental import multihost_utils

    mine = np.asarray(numbers, np.int32)
    return np.asarray(multihost_utils.process_allgather(mine)).reshape(jax.process_count(), *mine.shape)
