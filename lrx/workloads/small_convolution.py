"""A convolutional network for images of few pixels, with or without batch norm, that sweeps cheaply on a CPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads._cpu_layers import BATCH_NORM_EPSILON, normalize_batch
from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.supervised import Examples, cross_entropy

MOMENTUM = 0.9  # of the running statistics of batch norm


def convolutional_network(channels: int, num_classes: int = 10, *, widths: tuple[int, int] = (8, 16)) -> Network:
    """Build two 3x3 convolutions with ReLU, the second with stride 2, the mean over pixels and a linear layer.

    Args:
      channels: of the images, (n, height, width, channels).
      num_classes: width of the output.
      widths: channels of the two convolutions.
    """
    shapes = _shapes(channels, num_classes, widths)

    def apply(layers: Any, images: jax.Array) -> jax.Array:
        x = jax.nn.relu(convolve(layers[0], images, 1))
        x = jax.nn.relu(convolve(layers[1], x, 2))
        return affine(layers[2], x.mean(axis=(1, 2)))

    return Network(lambda key: he_normal(key, shapes), apply)


def make_normalized_convolution_workload(
    name: str, train: Examples, test: Examples, *, batch_size: int = 32, widths: tuple[int, int] = (8, 16)
) -> Workload:
    """Build the workload of the same network with batch norm after each convolution, whose statistics are its state.

    Args:
      name: name of the workload.
      train: training images, (n, height, width, channels) float32, and their labels.
      test: those that `evaluate` measures, with the running statistics.
      batch_size: examples in a minibatch.
      widths: channels of the two convolutions.
    """
    num_classes = int(train[1].max()) + 1
    shapes = _shapes(train[0].shape[-1], num_classes, widths)

    def init(key: jax.Array) -> tuple[Any, Any]:
        norms = [{"scale": jnp.ones(width), "bias": jnp.zeros(width)} for width in widths]
        statistics = [{"mean": jnp.zeros(width), "variance": jnp.ones(width)} for width in widths]
        return {"layers": he_normal(key, shapes), "norms": norms}, statistics

    def loss_fn(params: Any, statistics: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        del key
        x, labels = batch
        moved = []
        for layer, norm, old, stride in zip(params["layers"], params["norms"], statistics, (1, 2), strict=False):
            x, new = normalize(convolve(layer, x, stride), norm, old)
            x = jax.nn.relu(x)
            moved.append(new)
        return cross_entropy(affine(params["layers"][2], x.mean(axis=(1, 2))), labels)["loss"], moved

    def measure(params: Any, statistics: Any, held_out: Any) -> dict[str, jax.Array]:
        x, labels = held_out
        for layer, norm, seen, stride in zip(params["layers"], params["norms"], statistics, (1, 2), strict=False):
            x = jax.nn.relu(normalize_by(convolve(layer, x, stride), norm, seen))
        return cross_entropy(affine(params["layers"][2], x.mean(axis=(1, 2))), labels)

    return Workload.from_functions(
        loss_fn, init, Batches(train, batch_size), name=name, evaluate=Evaluation(measure, test), has_state=True
    )


def _shapes(channels: int, num_classes: int, widths: tuple[int, int]) -> list[tuple[int, int]]:
    return [(9 * channels, widths[0]), (9 * widths[0], widths[1]), (widths[1], num_classes)]


def convolve(layer: Any, x: jax.Array, stride: int) -> jax.Array:
    """Convolve with a layer's `kernel`, and add its `bias`."""
    return neighbourhoods(x, stride) @ layer["kernel"] + layer["bias"][None, None, None]


def neighbourhoods(x: jax.Array, stride: int) -> jax.Array:
    """Return the 3x3 neighbourhoods of every `stride`-th pixel: (n, rows, columns, 9 channels).

    A convolution is their product with a matrix, since XLA's convolution on CPUs is slow under `vmap`.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1)


def normalize(x: jax.Array, norm: Any, statistics: Any) -> tuple[jax.Array, Any]:
    """Normalize by the statistics of the batch; return with it the running ones, moved towards these.

    Args:
      x: (n, rows, columns, channels).
      norm: `scale` and `bias`, (channels,).
      statistics: the running `mean` and `variance`, (channels,).
    """
    x, mean, variance = normalize_batch(x, norm["scale"], norm["bias"])
    new = {"mean": mean, "variance": variance}
    return x, jax.tree.map(lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, statistics, new)


def normalize_by(x: jax.Array, norm: Any, statistics: Any) -> jax.Array:
    """Normalize by the running statistics; the arguments are those of `normalize`."""
    gain = norm["scale"] * jax.lax.rsqrt(statistics["variance"] + BATCH_NORM_EPSILON)
    shift = norm["bias"] - statistics["mean"] * gain
    return x * gain[None, None, None] + shift[None, None, None]
