"""Tasks on simulated motions: differential equations, and policies that are trained for a reward."""

from __future__ import annotations

from lrx.training import Workload
from lrx.workloads.datasets import load
from lrx.workloads.differential import make_oscillator_workload, make_pendulum_workload
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.policies import make_balance_workload, make_bandit_workload
from lrx.workloads.suite.task import Task, reward_task


def _bandit() -> Workload:
    return make_bandit_workload("digits-bandit", *(flatten(part) for part in shrink(load("digits"))))


TASKS: dict[str, Task] = {
    "oscillator": Task(lambda data_dir: make_oscillator_workload(), 1500, "error", "min", "physics"),  # noqa: ARG005
    "pendulum": Task(lambda data_dir: make_pendulum_workload(), 400, "error", "min", "physics"),  # noqa: ARG005
    "digits-bandit": reward_task("rewards", _bandit, 800),
    "balance": reward_task("rewards", make_balance_workload, 200),
}
