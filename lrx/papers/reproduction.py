"""The parts of a paper: its scales, the job of measuring it, and the claims that are checked."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lrx.records import Result, stopwatch, write_atomically
from lrx.workloads.datasets import load as load_dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Task = TypeVar("Task", bound=Any)  # has `data`, the name of a data set


@dataclasses.dataclass(frozen=True)
class Scale:
    """One size at which a paper can be reproduced."""

    description: str  # the model and the lengths
    cost: str  # roughly how long, and on what
    size: Any  # what the paper's `measure` takes
    data: str = ""  # the data set that it takes by default; "" for none
    seeds: tuple[int, ...] = (0, 1, 2)  # by default


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of a paper's `measure` besides the size.

    Attributes:
      seeds: seeds of the runs, at least one.
      data: name of the data set, "" for none.
      data_dir: folder of its files; see `lrx.workloads.datasets.load`.
      checkpoints: folder that keeps the runs, so that an interrupted reproduction continues; or None.
      progress: whether to show progress bars.
    """

    seeds: tuple[int, ...]
    data: str = ""
    data_dir: str | os.PathLike[str] | None = None
    checkpoints: Path | None = None
    progress: bool = False

    def folder(self, name: str) -> Path | None:
        """Return the folder of checkpoints of one of its runs, or None."""
        return None if self.checkpoints is None else self.checkpoints / re.sub(r"[^\w.-]+", "-", name)

    def progress_title(self, name: str) -> bool | str:
        """Return the argument `progress` of one of its runs: its name if bars are shown, otherwise False."""
        return name if self.progress else False

    def select_tasks(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks on the data sets that `data` names, joined by commas.

        Raises:
          ValueError: if one of them has no task.
        """
        names = [name.strip() for name in self.data.split(",") if name]
        known = dict.fromkeys(task.data for task in tasks)
        if not set(names) <= set(known):
            raise ValueError(
                f"data must be of {', '.join(known)}, joined by commas, at this scale, got data={self.data!r}."
            )
        for name in names:
            load_dataset(name, self.data_dir)  # missing files are reported before the first run
        return [task for task in tasks if task.data in names]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper, with the measured value."""

    text: str
    expected: str  # the value of the paper or of theory
    measured: str
    holds: bool

    @classmethod
    def of_values(cls, text: str, expected: str, values: Any, low: float = -math.inf, high: float = math.inf) -> Claim:
        """Build a claim that holds if the mean over seeds lies between `low` and `high`; its spread is shown.

        Args:
          text: the statement, with the bounds.
          expected: the value of the paper, or of theory.
          values: the value of each seed, or a single one.
          low: the smallest mean for which it holds.
          high: the largest mean for which it holds.
        """
        each = np.atleast_1d(np.asarray(values, np.float64))
        mean = float(np.mean(each))
        spread = f" ± {np.std(each, ddof=1):.2g}" if len(each) > 1 and np.isfinite(each).all() else ""
        return cls(text, expected, f"{mean:.4g}{spread}", bool(low <= mean <= high))


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper that can be reproduced: its authors, its figure, and the functions that measure, check and draw it."""

    name: str  # <author>_<year>
    title: str
    authors: str
    year: int
    source: str
    figure: str
    scales: dict[str, Scale]
    measure: Callable[[Any, Job], tuple[dict[str, Any], dict[str, Any]]]  # (size, job) -> settings, curves
    claims: Callable[[Result], list[Claim]]
    plot: Callable[[Result], dict[str, Figure]]  # file stem -> figure; draws from the result alone

    def run(
        self,
        scale: str = "demo",
        *,
        data: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        seeds: Sequence[int] | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> Result:
        """Measure the figure of the paper.

        Args:
          scale: a name in `scales`.
          data: a data set in place of that of the scale.
          data_dir: folder of the data set's files.
          seeds: seeds in place of those of the scale.
          checkpoints: folder that keeps the runs, so that an interrupted reproduction continues.
          progress: whether to show progress bars.

        Raises:
          ValueError: if `scale` is unknown, or `data` is given and the paper has none.
        """
        if scale not in self.scales:
            raise ValueError(f"scale must be one of {', '.join(self.scales)}, got scale={scale!r}.")
        defaults = self.scales[scale]
        if data is not None and not defaults.data:
            raise ValueError(f"data must be left out, since this paper trains on no data set, got data={data!r}.")
        job = Job(
            tuple(defaults.seeds if seeds is None else seeds),
            data or defaults.data,
            data_dir,
            None if checkpoints is None else Path(checkpoints),
            progress,
        )
        elapsed, spent = stopwatch(), None if job.checkpoints is None else job.checkpoints / "seconds.txt"
        earlier = float(spent.read_text()) if spent and spent.exists() else 0.0  # of runs that were interrupted
        try:
            settings, curves = self.measure(defaults.size, job)
        finally:
            seconds = round(earlier + elapsed(), 1)
            if spent and spent.parent.is_dir():
                write_atomically(spent, f"{seconds}\n")
        return Result(self.name, scale, job.data, list(job.seeds), settings, curves, seconds)
