"""The parts of a paper: its scales, the job of measuring it, and the claims that are checked."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import optax

from lrx.papers.changes import Arms, overlay, replace_settings
from lrx.papers.figures import looks_of_changes
from lrx.records import Result, stopwatch
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
      arms: label to transformation, arms of the caller that are trained beside the paper's own.
    """

    seeds: tuple[int, ...]
    data: str = ""
    data_dir: str | os.PathLike[str] | None = None
    checkpoints: Path | None = None
    progress: bool = False
    arms: Mapping[str, optax.GradientTransformation] = dataclasses.field(default_factory=dict)

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
    """A statement of the paper, with the measured value.

    Attributes:
      text: the statement, with its bounds.
      expected: the value of the paper or of theory.
      measured: the value of this run.
      holds: whether it is within the bounds.
      published: whether the bounds come from numbers that the paper printed for its own data and settings, so that the
        claim says nothing about others.
    """

    text: str
    expected: str
    measured: str
    holds: bool
    published: bool = False

    @classmethod
    def of_values(
        cls,
        text: str,
        expected: str,
        values: Any,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        published: bool = False,
    ) -> Claim:
        """Build a claim that holds if the mean over seeds lies between `low` and `high`; its spread is shown.

        Args:
          text: the statement, with the bounds.
          expected: the value of the paper, or of theory.
          values: the value of each seed, or a single one.
          low: the smallest mean for which it holds.
          high: the largest mean for which it holds.
          published: see the class.
        """
        each = np.atleast_1d(np.asarray(values, np.float64))
        mean = float(np.mean(each))
        spread = f" ± {np.std(each, ddof=1):.2g}" if len(each) > 1 and np.isfinite(each).all() else ""
        return cls(text, expected, f"{mean:.4g}{spread}", bool(low <= mean <= high), published)


class Verdicts(NamedTuple):
    """The claims that were checked, and those that do not apply because settings or data were changed."""

    claims: list[Claim]
    left_out: list[Claim]


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper that can be reproduced: its authors, its figure, and the functions that measure, check and draw it.

    Attributes:
      name: `<author>_<year>`.
      title: of the paper.
      authors: as they are cited.
      year: of the publication.
      source: where it was published.
      figure: what is reproduced.
      scales: name to size.
      measure: `(size, job) -> settings, curves`.
      claims: the claims of a result, all of them; `check` leaves out those that do not apply.
      plot: file stem to figure, drawn from the result alone; `draw` also takes results to draw beside it.
      arms: where `curves` holds the arms: paths to dicts of label to arm, in which "*" stands for any key. Empty if the
        paper compares no arms that a caller could add to.
    """

    name: str
    title: str
    authors: str
    year: int
    source: str
    figure: str
    scales: dict[str, Scale]
    measure: Callable[[Any, Job], tuple[dict[str, Any], dict[str, Any]]]
    claims: Callable[[Result], list[Claim]]
    plot: Callable[[Result], dict[str, Figure]]
    arms: tuple[Arms, ...] = ()

    def run(
        self,
        scale: str = "demo",
        *,
        data: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        seeds: Sequence[int] | None = None,
        settings: Mapping[str, Any] | None = None,
        arms: Mapping[str, optax.GradientTransformation] | None = None,
        checkpoints: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> Result:
        """Measure the figure of the paper.

        Args:
          scale: a name in `scales`.
          data: a data set in place of that of the scale.
          data_dir: folder of the data set's files.
          seeds: seeds in place of those of the scale.
          settings: name to value, in place of the size's own; see `lrx.papers.settings_of`.
          arms: label to transformation, trained beside the paper's own arms.
          checkpoints: folder that keeps the runs, so that an interrupted reproduction continues.
          progress: whether to show progress bars.

        Raises:
          ValueError: if `scale` or a setting is unknown, if `data` is given and the paper has none, or if `arms` are
            given and the paper compares none.
          TypeError: if a setting is of another type than the one that it replaces, or an arm is not a transformation.

        Example:
          >>> import lrx.papers
          >>> paper = lrx.papers.load("polyak_1964")
          >>> result = paper.run("demo", seeds=[0], settings={"conditions": (10,)})
          >>> result.changes
          {'settings': {'conditions': (10,)}}
          >>> [claim.holds for claim in paper.check(result).claims]
          [...]
        """
        if scale not in self.scales:
            raise ValueError(f"scale must be one of {', '.join(self.scales)}, got scale={scale!r}.")
        defaults = self.scales[scale]
        if data is not None and not defaults.data:
            raise ValueError(f"data must be left out, since this paper trains on no data set, got data={data!r}.")
        size = replace_settings(defaults.size, settings or {})
        arms = dict(arms or {})
        self._require_arms(arms)
        changes = {"settings": dict(settings or {}), "arms": {label: _describe(tx) for label, tx in arms.items()}}
        job = Job(
            tuple(defaults.seeds if seeds is None else seeds),
            data or defaults.data,
            data_dir,
            None if checkpoints is None else Path(checkpoints),
            progress,
            arms,
        )
        elapsed = stopwatch(None if job.checkpoints is None else job.checkpoints / "seconds.txt")
        try:
            used, curves = self.measure(size, job)
        finally:
            seconds = elapsed()
        changes = {kind: changed for kind, changed in changes.items() if changed}
        return Result(self.name, scale, job.data, list(job.seeds), used, curves, seconds, changes)

    def check(self, result: Result) -> Verdicts:
        """Check the claims that apply to a result.

        Those about published numbers apply only to the settings and data of the scale; they are returned apart.
        """
        found = self.claims(result)
        other_data = result.scale in self.scales and result.data != self.scales[result.scale].data
        if not other_data and not result.changes.get("settings"):
            return Verdicts(found, [])
        return Verdicts(*([claim for claim in found if claim.published == apart] for apart in (False, True)))

    def draw(self, result: Result, beside: Mapping[str, Result] | None = None) -> dict[str, Figure]:
        """Draw the figures of a result, and the arms of other results beside its own.

        Args:
          result: the result whose axes count. Arms of the caller are black.
          beside: name to result of the same paper. An arm has the colour that it has in `result`, and is dotted.

        Returns:
          File stem to figure.

        Raises:
          ValueError: if a result in `beside` is of another paper or was measured at other steps, or the paper compares
            no arms.
        """
        if beside and not self.arms:
            raise ValueError(f"beside must be left out, since {self.name} compares no arms: draw each result alone.")
        merged, gained = overlay(result, beside or {}, self.arms)
        with looks_of_changes(result.changes.get("arms", {}), gained):
            return self.plot(merged)

    def _require_arms(self, arms: Mapping[str, Any]) -> None:
        if arms and not self.arms:
            raise ValueError(f"arms must be left out, since {self.name} compares no methods, got {', '.join(arms)}.")
        for label, tx in arms.items():
            if not isinstance(tx, optax.GradientTransformation):
                raise TypeError(
                    f"arms[{label!r}] must be a transformation, such as lrx.adamw(0.001), got {tx!r}: a function of "
                    "the rate is called with one first."
                )


def _describe(tx: optax.GradientTransformation) -> str:
    """Return the expression that rebuilds a transformation of lrx, or the type of another one."""
    text = repr(tx)
    return type(tx).__name__ if "<function" in text else text
