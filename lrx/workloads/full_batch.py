"""A tanh perceptron with the squared loss, trained on all its examples in every step, as in work on curvature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import affine, uniform_layers

Params = list[dict[str, jax.Array]]


def make_full_batch_workload(
    x: np.ndarray, labels: np.ndarray, *, widths: Sequence[int] = (200, 200), num_classes: int = 10
) -> Workload:
    """Build the workload of fitting all rows of `x` in every step; it evaluates the accuracy on them.

    Initial values are those of PyTorch. If there are fewer rows than features, the first layer holds only the part of
    its weights in the span of the rows: the rest never moves, and the Hessian is 0 along it.

    Args:
      x: (n, features).
      labels: (n,) integers.
      widths: widths of the hidden layers.
      num_classes: width of the output.

    Returns:
      A `Workload` named "fc-tanh", whose parameters are a list of layers.
    """
    sizes = (x.shape[1], *widths, num_classes)
    basis = None
    if len(x) < x.shape[1]:
        x, rows = in_own_span(x)
        basis = jnp.asarray(rows, jnp.float32)

    def init(key: jax.Array) -> Params:
        params = uniform_layers(key, sizes)
        if basis is not None:
            params[0]["kernel"] = basis @ params[0]["kernel"]
        return params

    batches = Batches((jnp.asarray(x, jnp.float32), jnp.asarray(labels)), len(x), shuffle=False)
    return Workload.from_functions(
        lambda params, batch, key: squared_loss(params, batch),  # noqa: ARG005
        init,
        batches,
        evaluate=Evaluation(accuracy, batches.arrays),
        name="fc-tanh",
    )


def standardize_pixels(images: np.ndarray, number: int) -> np.ndarray:
    """Return the first images as rows, each pixel and channel with zero mean and unit variance over all images."""
    total, squares = np.zeros(images[0].size), np.zeros(images[0].size)
    for chunk in np.array_split(images.reshape(len(images), -1), max(1, len(images) // 1000)):
        values = chunk.astype(np.float64)
        total += values.sum(axis=0)
        squares += np.einsum("ij,ij->j", values, values)
    mean = total / len(images)
    deviation = np.sqrt(np.maximum(squares / len(images) - mean**2, 0))
    deviation[deviation < 1e-6] = 1.0  # a pixel that is the same in every image
    return (images[:number].reshape(-1, len(mean)) - mean) / deviation


def in_own_span(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as coordinates in an orthonormal basis of the space that they span, and the basis, as rows."""
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > 1e-10 * values[-1]
    lengths = np.sqrt(values[kept])
    return vectors[:, kept] * lengths, (vectors[:, kept] / lengths).T @ x


def tanh_network(params: Params, x: jax.Array) -> jax.Array:
    """Return the outputs (n, classes) of a perceptron with tanh."""
    for layer in params[:-1]:
        x = jnp.tanh(affine(layer, x))
    return affine(params[-1], x)


def squared_loss(params: Params, batch: tuple[jax.Array, Any]) -> jax.Array:
    """Return half the squared distance of the outputs from the one-hot labels, the mean over examples."""
    x, labels = batch
    outputs = tanh_network(params, x)
    return 0.5 * jnp.mean(jnp.sum((outputs - jax.nn.one_hot(labels, outputs.shape[-1])) ** 2, axis=-1))


def accuracy(params: Params, batch: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
    """Return the part of the examples whose largest output is that of their label."""
    x, labels = batch
    return {"accuracy": jnp.mean(jnp.argmax(tanh_network(params, x), axis=-1) == labels)}
