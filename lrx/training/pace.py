"""How many steps a compiled call runs, so that the host gets control about once a second."""

from __future__ import annotations

import time

SEGMENT_SECONDS = 1.0  # how long a compiled call should take
SEGMENT_GROWTH = 8  # at most; a short call says little about how long a long one will take


class Pace:
    """The number of steps of the next compiled call, which follows from the time of the last one.

    Args:
      most: the most steps of a call.

    Attributes:
      length: steps of the next call.
    """

    def __init__(self, most: int) -> None:
        self.most, self.length = most, 1
        self._began = time.monotonic()

    def begin(self) -> None:
        """Note that a call begins."""
        self._began = time.monotonic()

    def end(self, done: int) -> None:
        """Note that the call has made `done` steps."""
        wanted = int(SEGMENT_SECONDS / max(time.monotonic() - self._began, 1e-9) * done)
        self.length = max(1, min(wanted, SEGMENT_GROWTH * done, self.most))
