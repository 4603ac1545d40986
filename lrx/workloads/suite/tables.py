"""Tasks on tables, and on features of an unusual scale."""

from __future__ import annotations

import numpy as np

from lrx.training import Workload
from lrx.workloads.dense import perceptron
from lrx.workloads.suite.task import Task, loss_task
from lrx.workloads.supervised import binary_cross_entropy, cross_entropy, make_supervised_workload, squared_error
from lrx.workloads.tables import load_table, make_friedman_table, standardize


def _diabetes() -> Workload:
    """Build a regression in the units of the target: its mean square is 3e4."""
    table = standardize(load_table("diabetes"))
    network = perceptron((10, 16, 1), scalar=True)
    return make_supervised_workload("diabetes", network, table.train, table.test, squared_error, batch_size=16)


def _wine() -> Workload:
    """Build softmax regression on features as they were measured, of 0.1 to 1,700, with all 142 rows in each step."""
    table = load_table("wine")
    return make_supervised_workload("wine", perceptron((13, 3)), table.train, table.test, cross_entropy, batch_size=142)


def _breast_cancer() -> Workload:
    """Build logistic regression with one example a step."""
    table = standardize(load_table("breast_cancer"))
    network = perceptron((30, 1), scalar=True)
    return make_supervised_workload(
        "breast_cancer", network, table.train, table.test, binary_cross_entropy, batch_size=1
    )


def _large_inputs() -> Workload:
    """Build a regression on features of the order of 1,000, with targets of unit variance; outputs begin at 0."""
    table = standardize(make_friedman_table(), targets=True)
    train, test = ((np.float32(1000) * x, y) for x, y in (table.train, table.test))
    network = perceptron((10, 32, 1), scalar=True, zero_output=True)
    return make_supervised_workload("friedman-large-inputs", network, train, test, squared_error, batch_size=32)


TASKS: dict[str, Task] = {
    "diabetes-units": loss_task("tables", _diabetes, 800),
    "wine-unscaled": loss_task("tables", _wine, 500),
    "breast_cancer-single": loss_task("tables", _breast_cancer, 2000),
    "friedman-large-inputs": loss_task("input scales", _large_inputs, 600),
}
