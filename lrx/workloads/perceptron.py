"""Perceptrons with dropout, and softmax regression with an L2 term, on flat images with pixels of 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training import Batches, Workload
from lrx.workloads._dataset import Dataset
from lrx.workloads.dense import affine, he_normal_layers


def make_perceptron_workload(
    dataset: Dataset, widths: Sequence[int] = (), *, dropped: float = 0.0, l2: float = 0.0, batch_size: int = 128
) -> Workload:
    """Build a ReLU perceptron with dropout on its hidden layers; without hidden layers, softmax regression.

    Kernels start He-normal; those of the regression start at 0, since its loss is convex and has no symmetry to break.

    Args:
      dataset: images and labels; nothing is evaluated.
      widths: widths of the hidden layers.
      dropped: probability with which a hidden unit is dropped, in [0, 1); rounded to a multiple of 1 / 256.
      l2: factor of the term ||W||^2 / 2 in the loss, W being the kernels, >= 0.
      batch_size: examples in a minibatch.

    Returns:
      A `Workload`, whose parameters are a list of layers.
    """
    sizes = (int(np.prod(dataset.train_images.shape[1:])), *widths, dataset.num_classes)

    def loss_fn(layers: Any, batch: Any, key: jax.Array) -> jax.Array:
        x, labels = batch
        for place, layer in enumerate(layers[:-1]):
            # A byte for each unit: on a CPU, drawing float32 numbers would take half as long as the network.
            bits = jax.random.bits(jax.random.fold_in(key, place), (len(x), widths[place]), jnp.uint8)
            x = jnp.where(bits >= round(256 * dropped), jax.nn.relu(affine(layer, x)) / (1 - dropped), 0.0)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(affine(layers[-1], x), labels))
        return loss + l2 / 2 * sum(jnp.sum(layer["kernel"] ** 2) for layer in layers) if l2 else loss

    def init(key: jax.Array) -> Any:
        return he_normal_layers(key, sizes) if widths else [{"kernel": jnp.zeros(sizes), "bias": jnp.zeros(sizes[-1])}]

    name = f"{dataset.name}-{'dropout' if widths else 'regression'}"
    batches = Batches((dataset.train_images, dataset.train_labels), batch_size, transform=flat_pixels)
    return Workload.from_functions(loss_fn, init, batches, name=name)


def flat_pixels(raw: Any, key: jax.Array) -> Any:
    """Return flat images with pixels of 0 to 1, and the labels."""
    del key
    images, labels = raw
    return images.reshape(len(images), -1).astype(jnp.float32) / 255, labels
