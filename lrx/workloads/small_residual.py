"""He et al.'s residual network for images of few pixels, of any depth, that sweeps cheaply on a CPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.small_convolution import neighbourhoods, normalize, normalize_by
from lrx.workloads.supervised import Examples, cross_entropy, error_in_percent

STRIDE = 2  # of the first convolution


def make_small_residual_workload(
    name: str,
    train: Examples,
    test: Examples,
    *,
    depth: int,
    shortcuts: bool = True,
    width: int = 8,
    batch_size: int = 32,
    measured: int | None = None,
) -> Workload:
    """Build the workload of a residual network of one width, or of a plain one.

    A 3x3 convolution with stride 2, then blocks of two 3x3 convolutions and a shortcut, with batch norm after each
    convolution, the mean over pixels and a linear layer; weights are He-normal. The layers run in a loop, and their
    kernels are one matrix, in which every column is a filter: a network of 110 layers compiles in the time of one of 8.

    Evaluations are the test `error`, the `training_error`, both in percent, and the `training_loss`, with the running
    statistics of batch norm.

    Args:
      name: name of the workload.
      train: training images, (n, height, width, channels) float32, and their labels.
      test: test images and their labels.
      depth: weighted layers, 2 n + 2.
      shortcuts: whether there are any.
      width: channels.
      batch_size: examples in a minibatch.
      measured: number of training images that an evaluation takes, the first ones; by default all.

    Raises:
      ValueError: if `depth` is not 2 n + 2 with n >= 1.

    Source: K. He, X. Zhang, S. Ren, J. Sun, 2015, arXiv 1512.03385, section 4.2, which has three widths.
    """
    if depth < 4 or depth % 2:
        raise ValueError(f"depth must be 2 n + 2 with n >= 1, got depth={depth}: take 8, 20, 32 or 56.")
    layers, num_classes = depth - 2, int(train[1].max()) + 1  # in blocks; classes

    def init(key: jax.Array) -> tuple[Any, Any]:
        shapes = [(9 * train[0].shape[-1], width), (9 * width, layers * width), (width, num_classes)]
        first, inner, output = he_normal(key, shapes)
        params = {"first": _with_scale(first), "blocks": _with_scale(inner), "output": output}
        statistics = {"mean": jnp.zeros(width), "variance": jnp.ones(width)}
        of_layers = jax.tree.map(lambda leaf: jnp.tile(leaf, (layers, 1)), statistics)
        return params, {"first": statistics, "blocks": of_layers}

    def apply(params: Any, statistics: Any, images: jax.Array, *, train: bool) -> tuple[jax.Array, Any]:
        def layer(x: jax.Array, layer: Any, seen: Any, stride: int = 1) -> tuple[jax.Array, Any]:
            x = neighbourhoods(x, stride) @ layer["kernel"]
            return normalize(x, layer, seen) if train else (normalize_by(x, layer, seen), seen)

        def inner(carry: Any, this: Any) -> tuple[Any, Any]:
            (entered, x), (is_second, *parts) = carry, this
            x, moved = layer(x, *parts)
            x = jax.nn.relu(jnp.where(is_second, entered + x, x) if shortcuts else x)
            return (jnp.where(is_second, x, entered), x), moved

        x, first = layer(images, params["first"], statistics["first"], STRIDE)
        x = jax.nn.relu(x)
        # (..., layers * width) -> (layers, ..., width)
        parts = {name: leaf.reshape(*leaf.shape[:-1], layers, width) for name, leaf in params["blocks"].items()}
        by_layer = {name: jnp.moveaxis(leaf, -2, 0) for name, leaf in parts.items()}
        (_, x), moved = jax.lax.scan(inner, (x, x), (np.arange(layers) % 2 == 1, by_layer, statistics["blocks"]))
        return affine(params["output"], x.mean(axis=(1, 2))), {"first": first, "blocks": moved}

    def loss_fn(params: Any, statistics: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        del key
        logits, statistics = apply(params, statistics, batch[0], train=True)
        return cross_entropy(logits, batch[1])["loss"], statistics

    def measure(params: Any, statistics: Any, examples: Any) -> dict[str, jax.Array]:
        on_train, on_test = (
            error_in_percent(apply(params, statistics, images, train=False)[0], labels) for images, labels in examples
        )
        return {
            "error": on_test["error"],
            "training_error": on_train["error"],
            "training_loss": on_train["loss"],
        }

    examples = (train[0][:measured], train[1][:measured]), test
    return Workload.from_functions(
        loss_fn, init, Batches(train, batch_size), name=name, evaluate=Evaluation(measure, examples), has_state=True
    )


def _with_scale(layer: Any) -> Any:
    """Return a layer with the scale of its norm, 1, whose bias is the layer's own."""
    return layer | {"scale": jnp.ones_like(layer["bias"])}
