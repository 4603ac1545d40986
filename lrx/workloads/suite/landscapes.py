"""Tasks whose difficulty is the shape of the loss: ill-conditioned, not smooth, or flat where a run begins."""

from __future__ import annotations

from lrx.training import Workload
from lrx.workloads.linear import make_factored_workload, make_least_absolute_workload, make_least_squares_workload
from lrx.workloads.suite.task import Task, loss_task


def _triples() -> Workload:
    return make_factored_workload(order=3, initial=0.2)


TASKS: dict[str, Task] = {
    "least_squares": loss_task("convex", make_least_squares_workload, 1000),
    "least_absolute": loss_task("convex", make_least_absolute_workload, 10_000),
    "factored-pairs": loss_task("plateaus", make_factored_workload, 300),
    "factored-triples": loss_task("plateaus", _triples, 600),
}
