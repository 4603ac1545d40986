"""The tasks that strategies are measured on, by how much the rules of `select` have seen of them."""

from __future__ import annotations

from typing import NamedTuple

from lrx.workloads.suite import TASKS, Task
from lrx.workloads.suite.last import LAST
from lrx.workloads.suite.latest import LATEST


class Suite(NamedTuple):
    """Tasks that are measured together."""

    tasks: dict[str, Task]
    title: str  # of their tables


SUITES = {  # the names of the options and of the files of results
    "folds": Suite(TASKS, "Rules found without the kind of the task"),
    "last": Suite(LAST, "Tasks made last, of kinds that no rule was found with"),
    "latest": Suite(LATEST, "Tasks measured once, of kinds that no rule has seen"),
}
