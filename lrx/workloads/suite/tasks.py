"""The tasks of the suite, and their kinds."""

from __future__ import annotations

from lrx.workloads.suite import features, images, landscapes, representations, simulations, tables
from lrx.workloads.suite.task import Task

TASKS: dict[str, Task] = {
    **tables.TASKS,
    **features.TASKS,
    **images.TASKS,
    **representations.TASKS,
    **simulations.TASKS,
    **landscapes.TASKS,
}
KINDS: tuple[str, ...] = tuple(dict.fromkeys(task.kind for task in TASKS.values()))
