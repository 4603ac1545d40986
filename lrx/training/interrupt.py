"""Ctrl-C, which ends a run between two steps."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lrx.training.history import History


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped the run between two steps, after its checkpoint was written if it keeps any.

    Attributes:
      step: completed steps.
      history: the `History` up to the step.
    """

    def __init__(self, message: str, step: int, history: History) -> None:
        super().__init__(message)
        self.step, self.history = step, history


def interruption(step: int, total: int, folder: Path | None, history: History) -> TrainingInterrupted:
    """Return the exception of a run that Ctrl-C has stopped.

    Args:
      step: completed steps.
      total: steps of the whole run.
      folder: where its state is saved, if it is.
      history: the history of the run until then.
    """
    message = f"stopped by Ctrl-C after {step:,} of {total:,} steps. "
    if folder is None:
        message += "Nothing is saved, for want of checkpoint=FOLDER; the state is in the exception's history."
    else:
        message += f"Saved in {str(folder)!r}: start it again with the same arguments to go on."
    return TrainingInterrupted(message, step, history)


@contextlib.contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Defer the first Ctrl-C to the end of a segment; the function that is yielded returns whether there was one.

    An exception in the middle of a compiled call would lose the state, whose buffers the call has taken over. A handler
    other than Python's own stays in place; other threads get no signals.
    """
    pressed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True
        print("Ctrl-C: stopping in about a second; once more to stop at once, without saving.", file=sys.stderr)

    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
