"""Tasks of sequences, ratings, graphs, denoising, ordered outcomes and conditional distributions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads.datasets import load
from lrx.workloads.denoising import make_denoising_workload, make_energy_workload
from lrx.workloads.dense import perceptron
from lrx.workloads.graphs import make_graph_workload
from lrx.workloads.outcomes import (
    make_folded_curve,
    make_ordinal_workload,
    make_survival_workload,
    mixture_density,
    pinball,
)
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.ratings import make_ratings_workload
from lrx.workloads.recurrent import make_filter_workload, recurrent_network
from lrx.workloads.suite.task import Task, accuracy_task, loss_task
from lrx.workloads.supervised import cross_entropy, make_supervised_workload
from lrx.workloads.tables import load_table, make_friedman_table, standardize


def _recurrent() -> Workload:
    """Build a recurrent network that reads an image row by row."""
    train, test = ((images[..., 0], labels) for images, labels in shrink(load("digits")))
    return make_supervised_workload("digits-recurrent", recurrent_network(8), train, test, cross_entropy, batch_size=32)


def _ordinal() -> Workload:
    return make_ordinal_workload(standardize(load_table("diabetes")))


def _quantiles() -> Workload:
    table = standardize(make_friedman_table(), targets=True)
    levels = (0.1, 0.5, 0.9)
    network, measure = perceptron((10, 16, len(levels))), pinball(levels)
    return make_supervised_workload("friedman-quantiles", network, table.train, table.test, measure, batch_size=32)


def _mixture() -> Workload:
    rng, components = np.random.default_rng(0), 4
    train, test = make_folded_curve(2000, rng), make_folded_curve(1000, rng)
    network, measure = perceptron((1, 16, 3 * components), jnp.tanh), mixture_density(components)
    return make_supervised_workload("curve-mixture", network, train, test, measure, batch_size=32)


def _denoising() -> Workload:
    train, test = (flatten(part)[0] for part in shrink(load("digits")))
    return make_denoising_workload("digits-denoising", train, test)


OUTCOMES: dict[str, Task] = {
    "digits-recurrent": loss_task("recurrence", _recurrent, 500),
    "filter": loss_task("recurrence", make_filter_workload, 400),
    "ratings": loss_task("ratings", make_ratings_workload, 1500),
    "diabetes-ordinal": loss_task("ordered outcomes", _ordinal, 300),
    "survival": loss_task("ordered outcomes", make_survival_workload, 500),
    "graph": accuracy_task("graphs", make_graph_workload, 150),
    "friedman-quantiles": loss_task("conditional distributions", _quantiles, 800),
    "curve-mixture": loss_task("conditional distributions", _mixture, 1000),
    "digits-denoising": loss_task("denoising", _denoising, 600),
    "moons-energy": loss_task("denoising", make_energy_workload, 800),
}
