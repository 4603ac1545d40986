"""The tasks that strategies are measured on, by how much the rules of `select` have seen of them."""

from __future__ import annotations

from typing import NamedTuple

from lrx.workloads.suite import OUTCOMES, STRUCTURES, TASKS, UNSEEN, Task

KNOWN_TASKS = TASKS | OUTCOMES | STRUCTURES  # those that `lrx.select` knows


class Suite(NamedTuple):
    """Tasks that are measured together."""

    tasks: dict[str, Task]
    title: str  # of their tables


SUITES = {  # the names of the options and of the files of results
    "unseen": Suite(UNSEEN, "Tasks measured once, of kinds that no rule has seen"),
    "known": Suite(KNOWN_TASKS, "What is known is fitted without the kind of the task"),
}
