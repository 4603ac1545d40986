"""Tasks of more kinds, for one measurement of the rules of `lrx.select` that are fixed by then.

The rules were fixed before any method or rate was compared on these tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.adapters import adapted_network
from lrx.workloads.datasets import load
from lrx.workloads.denoising import make_masked_workload
from lrx.workloads.dense import perceptron
from lrx.workloads.distillation import make_distillation_workload
from lrx.workloads.equilibrium import equilibrium_network
from lrx.workloads.links import draw_links, link_network
from lrx.workloads.measurements import make_dictionary_workload, make_phases_workload
from lrx.workloads.mixtures import make_clusters_workload
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.ranking import draw_lists, list_cross_entropy, scoring_network
from lrx.workloads.scenes import draw_scenes, location_network, place_images, segmentation_network
from lrx.workloads.series import draw_seasons, draw_tones, tone_network
from lrx.workloads.small_attention import patches
from lrx.workloads.suite.task import Task, accuracy_task, loss_task
from lrx.workloads.supervised import (
    Examples,
    Measure,
    absolute_error,
    cross_entropy,
    make_supervised_workload,
    squared_error,
)
from lrx.workloads.symbols import chain_likelihood, draw_sequences, draw_tags, sorting_network, tag_network


def _digits(number: int = 1000) -> tuple[Examples, Examples]:
    """Load `number` digits for training, and of the others at most 1,000 for the evaluation."""
    (images, labels), (more_images, more_labels) = shrink(load("digits"))
    images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
    return (images[:number], labels[:number]), (images[number:][:1000], labels[number:][:1000])


def _flat_digits(number: int = 1000) -> tuple[Examples, Examples]:
    train, test = _digits(number)
    return flatten(train), flatten(test)


def _generate(
    name: str,
    network: Network,
    draw: Callable[[int, np.random.Generator], Examples],
    measure: Measure,
    *,
    numbers: tuple[int, int] = (2000, 1000),
    batch_size: int = 32,
) -> Workload:
    """Build a workload of drawn examples, of which `numbers` are for training and for the evaluation."""
    rng = np.random.default_rng(0)
    parts = draw(numbers[0], rng), draw(numbers[1], rng)
    return make_supervised_workload(name, network, *parts, measure, batch_size=batch_size)


def _segmentation() -> Workload:
    network, sizes = segmentation_network(3), (1000, 500)
    return _generate("shapes-segmentation", network, draw_scenes, cross_entropy, numbers=sizes, batch_size=8)


def _location() -> Workload:
    rng, (train, test) = np.random.default_rng(0), _digits()
    darkest = train[0].min()
    parts = place_images(train[0] - darkest, rng), place_images(test[0] - darkest, rng)
    return make_supervised_workload("digits-location", location_network(16), *parts, squared_error, batch_size=32)


def _sorting() -> Workload:
    return _generate(
        "sorting", sorting_network(10, 5), draw_sequences, cross_entropy, numbers=(4000, 500), batch_size=16
    )


def _tags() -> Workload:
    return _generate("chain-tags", tag_network(4, 4), draw_tags, chain_likelihood, numbers=(1000, 500))


def _tones() -> Workload:
    return _generate("tones", tone_network(6), draw_tones, cross_entropy)


def _seasons() -> Workload:
    return _generate("seasons", perceptron((24, 32, 8)), draw_seasons, absolute_error)


def _masked() -> Workload:
    train, test = _flat_digits()
    return make_masked_workload("digits-masked", train[0], test[0])


def _dictionary() -> Workload:
    """Build a dictionary of the quarters of the first digits."""
    quarters = patches(_digits()[0][0][:75], 4, 4).reshape(-1, 16)
    return make_dictionary_workload("digits-dictionary", quarters)


def _equilibrium() -> Workload:
    return make_supervised_workload(
        "digits-equilibrium", equilibrium_network(64, 10), *_flat_digits(), cross_entropy, batch_size=32
    )


def _adapters() -> Workload:
    network = adapted_network((64, 64, 64), 10)
    return make_supervised_workload("digits-adapters", network, *_flat_digits(200), cross_entropy, batch_size=20)


def _links() -> Workload:
    pairs, goals = draw_links(150, 16, np.random.default_rng(0))
    parts = (pairs[:1600], goals[:1600]), (pairs[1600:], goals[1600:])
    return make_supervised_workload("shifted-links", link_network(150, 16), *parts, cross_entropy, batch_size=64)


def _ranking() -> Workload:
    return _generate(
        "graded-lists", scoring_network(6), draw_lists, list_cross_entropy, numbers=(1000, 500), batch_size=16
    )


UNSEEN: dict[str, Task] = {
    "shapes-segmentation": loss_task("segmentation", _segmentation, 200),
    "digits-location": loss_task("location", _location, 400),
    "sorting": accuracy_task("symbols", _sorting, 350),
    "chain-tags": loss_task("tagging", _tags, 300),
    "tones": accuracy_task("tones", _tones, 400),
    "seasons": loss_task("forecasting", _seasons, 600),
    "digits-distilled": loss_task(
        "distillation", lambda: make_distillation_workload("digits-distilled", *_flat_digits()), 500
    ),
    "digits-masked": loss_task("masked prediction", _masked, 800),
    "digits-dictionary": loss_task("dictionaries", _dictionary, 600),
    "phases": loss_task("phase retrieval", make_phases_workload, 1500),
    "clusters": loss_task("mixtures", make_clusters_workload, 1000),
    "digits-equilibrium": accuracy_task("equilibria", _equilibrium, 300),
    "digits-adapters": accuracy_task("adapters", _adapters, 100),
    "shifted-links": loss_task("links", _links, 800),
    "graded-lists": Task(lambda data_dir: _ranking(), 500, "gain", "max", "ranking"),  # noqa: ARG005
}
