"""Functions of a place: a picture as a network of coordinates, points in a plane with given distances, and kernels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import make_supervised_workload, squared_error


def make_field_workload(
    *,
    num_waves: int = 16,
    scale: float = 3.0,
    hidden: int = 32,
    num_train: int = 2000,
    num_test: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build the fit of a picture, sin(4 x + 2 sin(3 y)), by a perceptron on sines and cosines of the coordinates.

    Args:
      num_waves: number of the fixed random waves whose sines and cosines are the inputs.
      scale: standard deviation of their angular frequencies.
      hidden: units of the hidden layer.
      num_train: number of places in the square from -1 to 1 whose value is known.
      num_test: number of places that are evaluated.
      batch_size: places in a minibatch.
      seed: seed of places and waves.

    Source: M. Tancik et al., "Fourier features let networks learn high frequency functions in low dimensional domains",
      2020, arXiv:2006.10739, section 3.
    """
    rng = np.random.default_rng(seed)
    places = rng.uniform(-1, 1, size=(num_train + num_test, 2))
    angles = places @ (scale * rng.normal(size=(2, num_waves)))
    inputs = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    values = np.sin(4 * places[:, 0] + 2 * np.sin(3 * places[:, 1])).astype(np.float32)
    parts = (inputs[:num_train], values[:num_train]), (inputs[num_train:], values[num_train:])
    network = perceptron((2 * num_waves, hidden, 1), scalar=True)
    return make_supervised_workload("warped-waves", network, *parts, squared_error, batch_size=batch_size)


def make_layout_workload(
    name: str, points: np.ndarray, *, num_train: int = 8000, num_test: int = 2000, batch_size: int = 32, seed: int = 0
) -> Workload:
    """Build a layout in the plane: positions of points, whose distances are to be those of the points.

    The loss is the mean of (|p_i - p_j| - d_ij)^2 / 2 over pairs, in units of the mean distance. Positions begin normal
    with the standard deviation 0.1.

    Args:
      name: name of the workload.
      points: (n, features), of which distances are Euclidean.
      num_train: number of pairs to train on.
      num_test: number of other pairs, which are evaluated.
      batch_size: pairs in a minibatch.
      seed: seed of the pairs.

    Source: J. Kruskal, "Multidimensional scaling by optimizing goodness of fit to a nonmetric hypothesis",
      Psychometrika 29, 1964; the stress is that of metric scaling.
    """
    number, rng = len(points), np.random.default_rng(seed)
    first, second = np.triu_indices(number, 1)
    drawn = rng.permutation(len(first))[: num_train + num_test]
    pairs = np.stack([first[drawn], second[drawn]], axis=1).astype(np.int32)
    distances = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    distances = (distances / distances.mean()).astype(np.float32)

    def apply(positions: Any, pairs: jax.Array) -> jax.Array:
        gaps = positions[pairs[:, 0]] - positions[pairs[:, 1]]
        return jnp.sqrt(jnp.sum(gaps**2, axis=1) + 1e-8)

    network = Network(lambda key: 0.1 * jax.random.normal(key, (number, 2)), apply)
    parts = (pairs[:num_train], distances[:num_train]), (pairs[num_train:], distances[num_train:])
    return make_supervised_workload(name, network, *parts, squared_error, batch_size=batch_size)


def make_kernel_workload(
    *, num_features: int = 4, noise: float = 0.2, num_train: int = 1000, batch_size: int = 16, seed: int = 0
) -> Workload:
    """Build the fit of a Gaussian process's kernel: scales of the features, amplitude and noise.

    The loss is the negative log of the marginal likelihood of a minibatch, by itself, in nats per point. Values are
    sin(2 x_1) + x_2 / 2 with normal noise; the other features do not matter. `evaluate` has 16 fixed minibatches.

    Args:
      num_features: number of features, standard normal; at least 2.
      noise: standard deviation of the noise.
      num_train: number of training points.
      batch_size: points in a minibatch.
      seed: seed of the points.

    Source: C. Rasmussen, C. Williams, "Gaussian processes for machine learning", 2006, equations 5.8 and 5.1.
    """
    rng, groups = np.random.default_rng(seed), 16
    number = num_train + groups * batch_size
    x = rng.normal(size=(number, num_features)).astype(np.float32)
    y = (np.sin(2 * x[:, 0]) + x[:, 1] / 2 + noise * rng.normal(size=number)).astype(np.float32)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        scaled = x * jnp.exp(params["log_inverse_scales"])[None]
        squares = jnp.sum((scaled[:, None] - scaled[None]) ** 2, axis=2)
        kernel = jnp.exp(2 * params["log_amplitude"] - squares / 2)
        kernel = kernel + (jnp.exp(2 * params["log_noise"]) + 1e-4) * jnp.eye(len(y))
        factor = jnp.linalg.cholesky(kernel)
        white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return jnp.mean(white**2 / 2 + jnp.log(jnp.diag(factor))) + jnp.log(2 * jnp.pi) / 2

    def init(key: jax.Array) -> dict[str, jax.Array]:
        drawn = 0.1 * jax.random.normal(key, (num_features,))
        return {"log_inverse_scales": drawn, "log_amplitude": jnp.zeros([]), "log_noise": jnp.zeros([])}

    held_out = x[num_train:].reshape(groups, batch_size, -1), y[num_train:].reshape(groups, batch_size)
    return Workload.from_functions(
        lambda params, batch, key: loss(params, *batch),  # noqa: ARG005
        init,
        Batches((x[:num_train], y[:num_train]), batch_size),
        name="kernel",
        evaluate=Evaluation(
            lambda params, held_out: {"loss": jax.vmap(loss, in_axes=(None, 0, 0))(params, *held_out).mean()}, held_out
        ),
    )
