"""Tasks whose difficulty is the shape of the loss: ill-conditioned, not smooth, or flat where a run begins."""

from __future__ import annotations

from lrx.workloads.linear import make_least_squares_workload
from lrx.workloads.suite.task import Task, loss_task

TASKS: dict[str, Task] = {
    "least_squares": loss_task("convex", make_least_squares_workload, 1000),
}
