"""Tasks on sparse features, on words and on characters."""

from __future__ import annotations

from lrx.workloads.linear import make_sparse_workload
from lrx.workloads.suite.task import Task, accuracy_task

TASKS: dict[str, Task] = {
    "sparse-logistic": accuracy_task("sparse features", make_sparse_workload, 1000),
}
