"""Images of few pixels with a small network: what several papers train, many runs at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrx.papers.reproduction import Job
from lrx.papers.runs import strategy_of_networks
from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.datasets import load
from lrx.workloads.dense import perceptron
from lrx.workloads.labels import mislabel
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.small_convolution import convolutional_network
from lrx.workloads.supervised import Examples, error_in_percent, make_supervised_workload

CHANCE = 90.0  # percent, the error of a guess among ten classes


class Images(NamedTuple):
    """Which images, and which network.

    Attributes:
      network: "perceptron", or "convolutions", two of them and the mean over pixels.
      number: of images of the training set, the first ones.
      test: number of those of the test set.
      shrink: pixels along each axis that are averaged.
      widths: of the hidden layers, or the channels of the two convolutions.
      wrong_labels: part of the training images that have a drawn label.
    """

    network: str
    number: int
    test: int
    shrink: int
    widths: tuple[int, ...]
    wrong_labels: float = 0.0

    @property
    def strategy(self) -> str:
        """Return the strategy of a sweep over the network."""
        return "vmap" if self.network == "perceptron" else strategy_of_networks()


class Problem(NamedTuple):
    """A network and its examples."""

    network: Network
    train: Examples
    test: Examples


def load_problem(images: Images, job: Job, network: Network | None = None) -> Problem:
    """Load the images of a job's data, and build their network; another one may be given.

    Args:
      images: which images, and which network.
      job: names the data and its folder.
      network: in place of that of `images`; it takes images as rows.
    """
    train, test = shrink(load(job.data, job.data_dir).first(images.number, images.test), images.shrink)
    train = mislabel(train, images.wrong_labels) if images.wrong_labels else train
    if images.network == "convolutions":
        channels = train[0].shape[-1]
        return Problem(convolutional_network(channels, widths=(images.widths[0], images.widths[-1])), train, test)
    train, test = flatten(train), flatten(test)
    return Problem(network or perceptron((train[0].shape[1], *images.widths, 10)), train, test)


def workload_of(problem: Problem, name: str, batch_size: int) -> Workload:
    """Build the workload of a problem, which evaluates the test `loss` and the test `error` in percent."""
    return make_supervised_workload(
        name, problem.network, problem.train, problem.test, error_in_percent, batch_size=batch_size
    )


def replace_divergence(errors: np.ndarray) -> np.ndarray:
    """Return errors in percent in which a run that diverged has the error of a guess."""
    return np.where(np.isfinite(errors), errors, CHANCE)
