"""Networks on sets of points, whose outputs do not depend on the order of the points."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal_layers
from lrx.workloads.supervised import Examples, Measure, make_supervised_workload


def set_network(features: int, hidden: int, outputs: int) -> Network:
    """Build rho(mean of phi(x) over a set), both with one hidden layer: (n, points, features) -> (n, outputs).

    With one output it returns (n,).

    Source: M. Zaheer et al., "Deep sets", 2017, arXiv:1703.06114, theorem 2.
    """

    def init(key: jax.Array) -> Any:
        return he_normal_layers(key, (features, hidden, hidden, hidden, outputs))

    def apply(layers: Any, sets: jax.Array) -> jax.Array:
        x = jax.nn.relu(affine(layers[0], sets.reshape(-1, features)))
        x = affine(layers[1], x).reshape(*sets.shape[:2], hidden).mean(axis=1)
        x = affine(layers[3], jax.nn.relu(affine(layers[2], x)))
        return x[:, 0] if outputs == 1 else x

    return Network(init, apply)


def make_sets_workload(
    name: str, train: Examples, test: Examples, outputs: int, measure: Measure, *, hidden: int = 16
) -> Workload:
    """Build the workload of fitting a `set_network` to targets, with 32 sets in a minibatch."""
    network = set_network(train[0].shape[-1], hidden, outputs)
    return make_supervised_workload(name, network, train, test, measure, batch_size=32)


def draw_samples(number: int, rng: np.random.Generator, *, size: int = 10) -> Examples:
    """Draw samples of normal distributions, (number, size, 1), and the logarithms of their standard deviations.

    The distributions' means are uniform in (-1, 1), and the logarithms of their deviations in (-1.5, 0.5).
    """
    means, logs = rng.uniform(-1, 1, size=number), rng.uniform(-1.5, 0.5, size=number)
    values = means[:, None] + np.exp(logs)[:, None] * rng.normal(size=(number, size))
    return values.astype(np.float32)[..., None], logs.astype(np.float32)


def draw_shapes(number: int, rng: np.random.Generator, *, size: int = 12, noise: float = 0.15) -> Examples:
    """Draw clouds of points, (number, size, 2), on a circle, on the border of a square or on a cross, and which it is.

    Clouds are turned and scaled at random.
    """
    labels = rng.integers(3, size=number)
    t = rng.uniform(-1, 1, size=(number, size))
    sign = rng.choice([-1.0, 1.0], size=(number, size))
    circle = np.stack([np.cos(np.pi * t), np.sin(np.pi * t)], axis=2)
    square, cross = 0.9 * np.stack([t, sign], axis=2), 1.2 * np.stack([t, np.zeros_like(t)], axis=2)
    swapped = rng.random((number, size)) < 0.5
    shapes = [circle, *(np.where(swapped[..., None], each[..., ::-1], each) for each in (square, cross))]
    points = np.choose(labels[:, None, None], shapes)
    angles, scales = rng.uniform(0, 2 * np.pi, size=number), rng.uniform(0.7, 1.4, size=number)
    turns = scales * np.stack([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]])
    points = np.einsum("ijn,npj->npi", turns, points) + noise * rng.normal(size=points.shape)
    return points.astype(np.float32), labels.astype(np.int32)
