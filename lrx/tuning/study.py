"""The progress and the folder of a long search."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from lrx.training.checkpoints import CheckpointFolder
from lrx.training.identity import Identity
from lrx.training.progress import ProgressMeter, reporter, say


class Study:
    """A search that shows progress and continues after an interruption.

    Use it as a context. Results are kept after each part of the search: a chunk of members, a rung, a round or a trial.

    Args:
      title: title of the search, such as "sweep, digits".
      checkpoint: a folder, or None to keep nothing.
      progress: as for `lrx.training.progress.reporter`.
      identity: returns what determines the numbers of the search; called only if there is a folder.
      unit: name of a part, such as "rung".

    Attributes:
      made: number of parts in the folder; None if it holds none yet.

    Raises:
      ValueError: if the folder holds another search.
    """

    def __init__(
        self,
        title: str,
        checkpoint: str | os.PathLike[str] | None,
        progress: bool | str | None,
        identity: Callable[[], Identity],
        unit: str,
    ) -> None:
        self.title = title
        self.made: int | None = None
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._folder: CheckpointFolder | None = None
        if checkpoint is None:
            return
        self._folder = self._stack.enter_context(contextlib.closing(CheckpointFolder(checkpoint, unit=unit)))
        try:
            self._identity = identity()
            self.made = self._folder.latest()
            if self.made is not None:
                self._folder.require_same_run(self._identity)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def restore(self) -> dict[str, np.ndarray]:
        """Return the arrays of the newest part in the folder; none if there is no part."""
        if self._folder is None or self.made is None:
            return {}
        _, _, record = self._folder.restore(())
        return {name: np.asarray(values) for name, values in record.items()}

    def restore_state(self, like: Any) -> Any:
        """Return the state of the newest part in the folder.

        Args:
          like: a pytree of arrays, or of their shapes.
        """
        assert self._folder is not None
        _, state, _ = self._folder.restore(like)
        return state

    def announce(self, what: str) -> None:
        """Print a line that must not be missed, whether or not progress is shown."""
        say(self.title, what)

    def show(self, step: int, total: int) -> ProgressMeter:
        """Begin to show progress.

        Args:
          step: steps of all runs that were made before.
          total: steps of all runs.
        """
        return self._stack.enter_context(
            reporter(self._progress, self.title, step=step, total=total, batch_size=1, unit="steps")
        )

    def save(self, made: int, record: Mapping[str, np.ndarray], state: Any = ()) -> None:
        """Keep all results so far, if there is a folder.

        Args:
          made: number of these parts.
          record: arrays.
          state: a pytree of arrays that the next part needs.
        """
        if self._folder is not None:
            self._folder.save(made, state, dict(record), self._identity)
