"""What a person sees of a run under way: a bar in a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

_LINE_SECONDS = 10.0  # between two lines where there is no terminal


class Progress:
    """Show loss, rate, speed and time left of a training run.

    Args:
      shown: False shows nothing.
      total: steps in all.
      done: steps that an earlier call did.
      batch_size: examples in a step, for the speed.
    """

    def __init__(self, shown: bool, total: int, done: int, batch_size: int) -> None:
        self._total, self._first, self._batch_size = total, done, batch_size
        self._shown, self._bar, self._task = shown, None, None
        self._start = self._latest_line = time.monotonic()
        self._evaluation = ""

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
                from rich.progress import Progress as Bar
            except ImportError as error:
                raise ImportError('progress=True needs rich: pip install "lrx[papers]", or progress=False.') from error
            # The bar gives way first in a narrow terminal: the numbers are what one looks for.
            self._bar = Bar(
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task("", total=self._total, completed=self._first, numbers="compiling")
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, loss: float, rate: float) -> None:
        """Tell that `done` steps are done, and the latest loss and rate."""
        if not self._shown:
            return
        elapsed = max(time.monotonic() - self._start, 1e-6)
        speed = (done - self._first) * self._batch_size / elapsed
        numbers = f"loss {loss:.3f} lr {rate:.2e} {_short(speed)} ex/s{self._evaluation}"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=numbers)  # type: ignore[arg-type]
        elif done == self._total or time.monotonic() - self._latest_line >= _LINE_SECONDS:
            self._latest_line = time.monotonic()
            left = elapsed / max(done - self._first, 1) * (self._total - done)
            print(f"step {done}/{self._total} {numbers} {left:.0f} s left", file=sys.stderr, flush=True)

    def evaluated(self, values: dict[str, float]) -> None:
        """Tell what an evaluation gave."""
        self._evaluation = f" acc {values['accuracy']:.3f}" if "accuracy" in values else ""


def _short(speed: float) -> str:
    return f"{speed / 1000:.1f}k" if speed >= 10_000 else f"{speed:.0f}"
