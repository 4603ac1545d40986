"""Tasks without labels to predict: embeddings that are learnt from comparisons, and models of the data."""

from __future__ import annotations

from lrx.training import Workload
from lrx.workloads.autoencoder import make_autoencoder_workload
from lrx.workloads.datasets import load
from lrx.workloads.flow import make_flow_workload
from lrx.workloads.metric_learning import make_contrastive_workload, make_triplet_workload
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.suite.task import Task, accuracy_task, loss_task


def _contrastive() -> Workload:
    train, test = (flatten(part) for part in shrink(load("digits")))
    return make_contrastive_workload("digits-contrastive", train[0], test[0])


def _triplets() -> Workload:
    return make_triplet_workload("digits-triplets", *(flatten(part) for part in shrink(load("digits"))))


def _autoencoder() -> Workload:
    return make_autoencoder_workload(load("digits"), 32, 4, batch_size=32, evaluate=True)


TASKS: dict[str, Task] = {
    "digits-contrastive": loss_task("metric learning", _contrastive, 600),
    "digits-triplets": accuracy_task("metric learning", _triplets, 400),
    "digits-autoencoder": loss_task("generative models", _autoencoder, 800),
    "moons-flow": loss_task("generative models", make_flow_workload, 800),
}
