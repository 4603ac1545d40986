"""Tasks of fields, layouts, kernels, sets, adversaries, binary units, spins, experts and counts."""

from __future__ import annotations

import numpy as np

from lrx.training import Workload
from lrx.workloads.adversarial import make_adversarial_workload
from lrx.workloads.binary import binary_network, make_spins_workload
from lrx.workloads.datasets import load
from lrx.workloads.dense import perceptron
from lrx.workloads.experts import draw_pieces, expert_network
from lrx.workloads.fields import make_field_workload, make_kernel_workload, make_layout_workload
from lrx.workloads.outcomes import draw_counts, poisson
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.sets import draw_samples, draw_shapes, make_sets_workload
from lrx.workloads.suite.task import Task, accuracy_task, loss_task
from lrx.workloads.supervised import Examples, cross_entropy, make_supervised_workload, squared_error


def _digits() -> tuple[Examples, Examples]:
    train, test = shrink(load("digits"))
    return flatten(train), flatten(test)


def _layout() -> Workload:
    return make_layout_workload("digits-layout", _digits()[0][0][:200])


def _spread() -> Workload:
    rng = np.random.default_rng(0)
    return make_sets_workload("sets-spread", draw_samples(2000, rng), draw_samples(1000, rng), 1, squared_error)


def _shapes() -> Workload:
    rng = np.random.default_rng(0)
    return make_sets_workload("sets-shapes", draw_shapes(2000, rng), draw_shapes(1000, rng), 3, cross_entropy)


def _spins() -> Workload:
    train, test = (np.where(part[0] > 0, 1.0, -1.0).astype(np.float32) for part in _digits())
    return make_spins_workload("digits-spins", train, test)


def _binary() -> Workload:
    return make_supervised_workload(
        "digits-binary", binary_network(64, 32, 10), *_digits(), cross_entropy, batch_size=32
    )


def _experts() -> Workload:
    rng = np.random.default_rng(1)
    parts = draw_pieces(2000, rng), draw_pieces(1000, rng)
    return make_supervised_workload("pieces-experts", expert_network(4, 6), *parts, squared_error, batch_size=32)


def _counts() -> Workload:
    rng = np.random.default_rng(0)
    parts = draw_counts(2000, rng), draw_counts(1000, rng)
    return make_supervised_workload("counts", perceptron((8, 16, 1), scalar=True), *parts, poisson, batch_size=32)


STRUCTURES: dict[str, Task] = {
    "warped-waves": loss_task("fields", make_field_workload, 500),
    "digits-layout": loss_task("layouts", _layout, 500),
    "kernel": loss_task("marginal likelihood", make_kernel_workload, 200),
    "sets-spread": loss_task("sets", _spread, 400),
    "sets-shapes": accuracy_task("sets", _shapes, 400),
    "digits-adversarial": accuracy_task(
        "adversaries", lambda: make_adversarial_workload("digits-adversarial", *_digits()), 300
    ),
    "digits-binary": accuracy_task("binary units", _binary, 400),
    "digits-spins": loss_task("pseudo-likelihood", _spins, 300),
    "pieces-experts": loss_task("experts", _experts, 500),
    "counts": loss_task("counts", _counts, 500),
}
