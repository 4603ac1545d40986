"""The network of Caffe's `cifar10_full` example, on which Smith (2017) tried cyclical rates, and how it learns."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

from lrx.workloads._cpu_layers import avg_pool, conv, local_response_norm, max_pool, pooled_size
from lrx.workloads._dataset import ImageShape


class CaffeNet(nnx.Module):
    """The network of Caffe's `cifar10_full` example, which Smith (2017) trains with cyclical rates.

    5x5 convolutions (32, 32 and 64 channels) with 3x3 pooling at stride 2 behind each (maximum, mean, mean;
    sizes are rounded up: 32, 16, 8, 4), normalisation over 3x3 neighbourhoods behind the first two, and a linear
    layer. Initial weights are normal with standard deviations 0.0001, 0.01, 0.01, 0.01; biases are 0. It expects
    pixels of 0..255 minus the mean image.

    Args:
      image_shape: (height, width, channels).
      num_classes: width of the output.
      widths: channels of the three convolutions; smaller ones for smaller machines.
      rngs: `nnx.Rngs` for the initial weights.

    Raises:
      ValueError: if `widths` are not three, or the image is too small to be pooled three times.

    Source: BVLC Caffe, examples/cifar10; L. Smith, 2017, arXiv 1506.01186, table 1.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        *,
        widths: tuple[int, int, int] = (32, 32, 64),
        rngs: nnx.Rngs,
    ) -> None:
        if len(widths) != 3:
            raise ValueError(f"widths must be three numbers of channels, got widths={widths!r}: take (32, 32, 64).")
        convolution = partial(conv, 5, rngs=rngs)
        normal = nnx.initializers.normal
        self.conv1 = convolution(image_shape[-1], widths[0], kernel_init=normal(1e-4))
        self.conv2 = convolution(widths[0], widths[1], kernel_init=normal(1e-2))
        self.conv3 = convolution(widths[1], widths[2], kernel_init=normal(1e-2))
        rows, columns = (pooled_size(pooled_size(pooled_size(size))) for size in image_shape[:2])
        self.output = nnx.Linear(rows * columns * widths[2], num_classes, kernel_init=normal(1e-2), rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train  # the same function in training and evaluation
        x = local_response_norm(nnx.relu(max_pool(self.conv1(images))))
        x = local_response_norm(avg_pool(nnx.relu(self.conv2(x))))
        x = avg_pool(nnx.relu(self.conv3(x)))
        return self.output(x.reshape(x.shape[0], -1))


def caffe_gradient(weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """Return Caffe's multipliers of `cifar10_full`: biases learn twice, the output layer decays 250 times as fast.

    g <- lr_mult (g + weight_decay decay_mult w), before the momentum, whose velocity holds the rate.
    """

    def on_leaf(path: Any, gradient: jax.Array, weight: jax.Array) -> jax.Array:
        layer, kind = (str(getattr(entry, "key", entry)) for entry in path[-2:])
        output, bias = layer == "output", kind == "bias"
        decay = weight_decay * ((0.0 if bias else 250.0) if output else 1.0)
        speed = 2.0 if bias and layer != "conv3" else 1.0
        return speed * (gradient + decay * weight)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(on_leaf, updates, params))
