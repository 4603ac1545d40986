"""Progress of a run: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, Self

LINE_EVERY = 10.0  # seconds between two lines if there is no terminal
EVALUATION_EVERY = 1.0  # seconds between the lines of evaluations in one of many runs, whose log would have hundreds
BAR_WIDTH = 20  # columns that a bar with a title has at least; in a narrower terminal it has none


class ProgressMeter:
    """Progress of a run that shows nothing.

    Args:
      title: what is trained.
      step: completed steps at the start.
      total: steps of the whole run.
      batch_size: examples in a step.
      unit: name of the examples, "images".
      loss_name: name of the loss that `update` takes.
    """

    def __init__(
        self, title: str, *, step: int, total: int, batch_size: int, unit: str, loss_name: str = "loss"
    ) -> None:
        self.title, self.step, self.total, self.batch_size, self.unit = title, step, total, batch_size, unit
        self.loss_name = loss_name
        self.loss = self.rate = math.nan
        self.evaluations: dict[str, float] = {}
        self._first, self._started = step, time.monotonic()

    @property
    def enabled(self) -> bool:
        """True if anything is shown; then it is worth stopping for numbers."""
        return type(self) is not ProgressMeter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def start(self) -> None:
        """Start the clock, after compilation."""
        self._first, self._started = self.step, time.monotonic()

    def update(self, step: int, loss: float, rate: float) -> None:
        """Show the numbers after `step` steps."""
        self.step, self.loss, self.rate = step, loss, rate

    def show_evaluation(self, step: int, results: dict[str, float]) -> None:
        """Show the results of an evaluation after `step` steps."""
        self.step, self.evaluations = step, results

    def announce(self, what: str) -> None:
        """Show a line that stays, such as what a search will cost."""

    def parts(self) -> list[str]:
        """Return training loss, rate, speed and time left, then the latest evaluation."""
        if self.step == self._first:
            return ["compiling"]
        # Evaluations and checkpoints are included, so that the time left is right.
        speed = (self.step - self._first) / max(time.monotonic() - self._started, 1e-6)
        shown = [f"{self.loss_name} {self.loss:.4g}"]
        if not math.isnan(self.rate):
            shown.append(f"rate {self.rate:.3g}")
        done = speed * self.batch_size
        shown.append(f"{done:,.0f} {self.unit}/s" if done >= 10 else f"{done:.2g} {self.unit}/s")
        shown.append(f"{_clock((self.total - self.step) / speed)} left")
        results = "  ".join(f"{name} {value:.4g}" for name, value in self.evaluations.items())
        return [*shown, f"| evaluation {results}"] if results else shown


class Lines(ProgressMeter):
    """A line every few seconds, for each evaluation and at the end, for logs."""

    evaluation_every = 0.0  # seconds; evaluations that come faster share a line
    _printed = -math.inf
    _last: Any = None  # content of the latest line, so that no line is printed twice

    def update(self, step: int, loss: float, rate: float) -> None:
        super().update(step, loss, rate)
        now = time.monotonic()
        if now - self._printed >= LINE_EVERY:
            self._printed = now
            self._print()

    def show_evaluation(self, step: int, results: dict[str, float]) -> None:
        super().show_evaluation(step, results)
        now = time.monotonic()
        if step > self._first and now - self._printed >= self.evaluation_every:
            self._printed = now
            self._print()

    def announce(self, what: str) -> None:
        print(f"{self.title}: {what}", flush=True)

    def __exit__(self, *exception: object) -> None:
        if self.step > self._first:
            self._print()

    def _print(self) -> None:
        if self._last == (self.step, self.evaluations):
            return
        self._last = self.step, self.evaluations
        print(f"{self.title}: step {self.step:,} of {self.total:,}  {'  '.join(self.parts())}", flush=True)


class Bar(ProgressMeter):
    """A bar on a terminal of any width, the numbers below it."""

    def __init__(self, console: Any, title: str, **arguments: Any) -> None:
        super().__init__(title, **arguments)
        from rich.live import Live

        self._console = console
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def announce(self, what: str) -> None:
        self._console.print(f"{self.title}: {what}", highlight=False, markup=False)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1), expand=True)
        count = f"{self.step:,}/{self.total:,}"
        cells: list[Any] = [ProgressBar(total=self.total, completed=self.step), count]
        if self._console.width >= len(self.title) + len(count) + BAR_WIDTH:
            row.add_column(no_wrap=True)
            cells.insert(0, Text(self.title, style="bold"))
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        row.add_row(*cells)
        # A line may break between two numbers, but not within one.
        parts = [
            part.replace("  ", "\n").replace(" ", "\N{NO-BREAK SPACE}").replace("\n", "  ") for part in self.parts()
        ]
        return Group(row, Text("  ".join(parts)))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(title: str, what: str) -> None:
    """Print on stderr what must not be missed, whether or not progress is shown."""
    print(f"{title}: {what}", file=sys.stderr)


def require_progress(progress: Any) -> None:
    """Check an argument for `reporter`.

    Raises:
      TypeError: if it is something else.
    """
    if not (progress is None or isinstance(progress, bool | str)):
        raise TypeError(f"progress must be True, False, None or a title, got progress={progress!r}.")


def reporter(progress: bool | str | None, title: str, **arguments: Any) -> ProgressMeter:
    """Return what shows the progress of a run.

    Args:
      progress: False shows nothing. True shows a bar if stdout is a terminal and rich is installed, otherwise lines.
        A string is another title, for one of many runs: evaluations within a second then share a line.
        None shows a bar on a terminal and nothing anywhere else.
      title: what is trained.
      **arguments: those of `ProgressMeter`.
    """
    terminal = sys.stdout.isatty()
    if progress is False or (progress is None and not terminal):
        return ProgressMeter(title, **arguments)
    if isinstance(progress, str):
        title = progress
    if terminal:
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            return Bar(Console(), title, **arguments)
    lines = Lines(title, **arguments)
    if isinstance(progress, str):
        lines.evaluation_every = EVALUATION_EVERY
    return lines
