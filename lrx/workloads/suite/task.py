"""What a task is: a workload, the length of a run, the metric that counts, and its kind."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from lrx import _checks
from lrx.training import Workload

DataDir = str | os.PathLike[str] | None


@dataclasses.dataclass(frozen=True)
class Task:
    """A workload, the length of a run and the metric that counts.

    Attributes:
      make: `folder of the data files -> workload`.
      steps: length of a full run.
      metric: name of a result of the workload's `evaluate`.
      mode: "min" or "max", whichever is better.
      kind: what the task is an example of, such as "text"; tasks of one kind are never on both sides of a comparison.

    Raises:
      ValueError: if `steps` is not a whole number above 0, or the mode is unknown.
    """

    make: Callable[[DataDir], Workload]
    steps: int
    metric: str = "accuracy"
    mode: str = "max"
    kind: str = ""

    def __post_init__(self) -> None:
        _checks.steps("steps", self.steps)
        _checks.one_of("mode", self.mode, ("min", "max"))


def loss_task(kind: str, make: Callable[[], Workload], steps: int) -> Task:
    """Build a task without data files whose metric is the loss."""
    return Task(lambda data_dir: make(), steps, "loss", "min", kind)  # noqa: ARG005


def accuracy_task(kind: str, make: Callable[[], Workload], steps: int) -> Task:
    """Build a task without data files whose metric is the accuracy."""
    return Task(lambda data_dir: make(), steps, "accuracy", "max", kind)  # noqa: ARG005


def reward_task(kind: str, make: Callable[[], Workload], steps: int) -> Task:
    """Build a task without data files whose metric is the reward."""
    return Task(lambda data_dir: make(), steps, "reward", "max", kind)  # noqa: ARG005
