"""Image classifiers in Flax NNX, each called as `model(images, train=...)` on `(n, height, width, channels)` float32.

A multilayer perceptron, the CIFAR residual networks of He et al. (2015, section 4.2) and the convolutional network
of Caffe's `cifar10_full` example, on which Smith (2017) tried cyclical rates. `MODELS` names them for the command line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lrx import _checks

ImageShape = tuple[int, int, int]  # height, width, channels


class MLP(nnx.Module):
    """Multilayer perceptron on the flattened image: linear layers with ReLU between them.

    Args:
      image_shape: (height, width, channels).
      num_classes: width of the output.
      widths: widths of the hidden layers; an empty sequence gives softmax regression.
      rngs: `nnx.Rngs` for the He-normal initial weights.
    """

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, widths: Sequence[int] = (128, 128), rngs: nnx.Rngs
    ) -> None:
        sizes = (math.prod(image_shape), *widths)
        self.num_hidden = len(widths)
        for index in range(self.num_hidden):
            layer = nnx.Linear(
                sizes[index], sizes[index + 1], kernel_init=nnx.initializers.he_normal(), rngs=rngs
            )
            setattr(self, f"hidden{index + 1}", layer)
        self.output = nnx.Linear(sizes[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train  # the same function in training and evaluation
        x = images.reshape(images.shape[0], -1)
        for index in range(self.num_hidden):
            x = nnx.relu(getattr(self, f"hidden{index + 1}")(x))
        return self.output(x)


def _conv3x3(in_features: int, out_features: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # One pixel of zeros on every side also where the stride is 2: "SAME" would pad the far side only.
    return nnx.Conv(
        in_features,
        out_features,
        kernel_size=(3, 3),
        strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def _batch_norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


def shortcut(x: jax.Array, out_features: int, stride: int) -> jax.Array:
    """Carry `x` past a residual branch without parameters: He et al.'s option A.

    Every `stride`-th pixel is kept and the new channels are filled with zeros.

    Args:
      x: (n, height, width, channels).
      out_features: channels of the result, at least those of `x`.
      stride: of the residual branch's first convolution.
    """
    if stride != 1:
        x = x[:, ::stride, ::stride, :]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, out_features - x.shape[-1])))


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions with batch norm beside an option-A shortcut (He et al. 2015, figure 2)."""

    def __init__(self, in_features: int, out_features: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = _conv3x3(in_features, out_features, stride, rngs)
        self.norm1 = _batch_norm(out_features, rngs)
        self.conv2 = _conv3x3(out_features, out_features, 1, rngs)
        self.norm2 = _batch_norm(out_features, rngs)
        self.out_features = out_features
        self.stride = stride

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        residual = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
        residual = self.norm2(self.conv2(residual), use_running_average=not train)
        return nnx.relu(shortcut(x, self.out_features, self.stride) + residual)


class ResNet(nnx.Module):
    """CIFAR residual network with `depth = 6 n + 2` weighted layers.

    A 3x3 convolution, then 2 n convolutions on each of three sizes of the image with 16, 32 and 64 channels, global
    average pooling and a linear layer; batch norm after each convolution, shortcuts without parameters, He-normal
    weights. The running statistics keep 0.9 of their value at each step. No dropout, as in the paper.

    Args:
      image_shape: (height, width, channels).
      num_classes: width of the output.
      depth: 8, 14, 20, 32, 44, 56, 110, ...
      rngs: `nnx.Rngs` for the initial weights.

    Raises:
      ValueError: if `depth` is not 6 n + 2.

    Source: K. He, X. Zhang, S. Ren, J. Sun, 2015, arXiv 1512.03385, section 4.2.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, *, depth: int, rngs: nnx.Rngs) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f"depth must be 6 n + 2 with n >= 1, got depth={depth}: take one of 8, 14, 20, 32, 44, 56, 110."
            )
        self.conv = _conv3x3(image_shape[-1], 16, 1, rngs)
        self.norm = _batch_norm(16, rngs)
        names, in_features = [], 16
        for stage, features in enumerate((16, 32, 64), start=1):
            for index in range(1, depth // 6 + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                names.append(f"stage{stage}_block{index}")
                setattr(self, names[-1], ResidualBlock(in_features, features, stride, rngs=rngs))
                in_features = features
        self.block_names = tuple(names)
        self.output = nnx.Linear(64, num_classes, kernel_init=nnx.initializers.he_normal(), rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(images), use_running_average=not train))
        for name in self.block_names:
            x = getattr(self, name)(x, train=train)
        return self.output(jnp.mean(x, axis=(1, 2)))


def _pool_padding(size: int) -> tuple[int, int]:
    """Padding that makes a window of 3 with stride 2 cover the last pixel, as Caffe's rounding up does."""
    if size < 2:
        raise ValueError(
            f"image_shape must be at least 8 x 8 pixels, got a map of {size}: too small to be pooled."
        )
    return 0, (max(-(-(size - 3) // 2), 0) * 2 + 3) - size


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows with stride 2, (n, h, w, c) -> (n, ceil((h-1)/2), ceil((w-1)/2), c)."""
    padding = ((0, 0), _pool_padding(x.shape[1]), _pool_padding(x.shape[2]), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def avg_pool(x: jax.Array) -> jax.Array:
    """Mean over 3x3 windows with stride 2; a window that leaves the image is averaged over what is inside."""
    padding = ((0, 0), _pool_padding(x.shape[1]), _pool_padding(x.shape[2]), (0, 0))
    window = partial(jax.lax.reduce_window, init_value=0.0, computation=jax.lax.add)
    total = window(x, window_dimensions=(1, 3, 3, 1), window_strides=(1, 2, 2, 1), padding=padding)
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total / window(ones, window_dimensions=(1, 3, 3, 1), window_strides=(1, 2, 2, 1), padding=padding)


def local_response_norm(x: jax.Array, *, alpha: float = 5e-5, beta: float = 0.75) -> jax.Array:
    """Divide each value by `(1 + alpha * mean of squares in its 3x3 neighbourhood) ** beta`, channel by channel.

    Outside of the image the squares count as zeros, in a mean that is always over nine.
    """
    total = jax.lax.reduce_window(
        x * x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )
    return x * (1 + (alpha / 9) * total) ** -beta


class CaffeNet(nnx.Module):
    """The network of Caffe's `cifar10_full` example, which Smith (2017) trains with cyclical rates.

    5x5 convolutions (32, 32 and 64 channels) with 3x3 pooling at stride 2 behind each (maximum, mean, mean; sizes
    are rounded up: 32, 16, 8, 4), normalisation over 3x3 neighbourhoods behind the first two, and a linear layer.
    Initial weights are normal with standard deviations 0.0001, 0.01, 0.01, 0.01, biases 0. It expects pixels of
    0..255 minus the mean image.

    Args:
      image_shape: (height, width, channels).
      num_classes: width of the output.
      widths: channels of the three convolutions; smaller ones for smaller machines.
      rngs: `nnx.Rngs` for the initial weights.

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
            raise ValueError(f"widths must be three numbers of channels, got widths={widths!r}.")
        conv = partial(nnx.Conv, kernel_size=(5, 5), padding=((2, 2), (2, 2)), rngs=rngs)
        normal = nnx.initializers.normal
        self.conv1 = conv(image_shape[-1], widths[0], kernel_init=normal(1e-4))
        self.conv2 = conv(widths[0], widths[1], kernel_init=normal(1e-2))
        self.conv3 = conv(widths[1], widths[2], kernel_init=normal(1e-2))
        rows, columns = (self._pooled_size(size) for size in image_shape[:2])
        self.output = nnx.Linear(rows * columns * widths[2], num_classes, kernel_init=normal(1e-2), rngs=rngs)

    @staticmethod
    def _pooled_size(size: int) -> int:
        for _ in range(3):
            size = (size + sum(_pool_padding(size)) - 3) // 2 + 1
        return size

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train  # the same function in training and evaluation
        x = local_response_norm(nnx.relu(max_pool(self.conv1(images))))
        x = local_response_norm(avg_pool(nnx.relu(self.conv2(x))))
        x = avg_pool(nnx.relu(self.conv3(x)))
        return self.output(x.reshape(x.shape[0], -1))


class Architecture(NamedTuple):
    """An entry of `MODELS`: how a network is built, and the pixels that it expects."""

    build: Callable[..., nnx.Module]  # (image_shape, num_classes, *, rngs, **options) -> module
    pixels: Literal[
        "standardized", "centred"
    ]  # zero mean, unit variance by channel; or 0..255 minus the mean image


MODELS: dict[str, Architecture] = {
    "mlp": Architecture(MLP, "standardized"),
    **{
        f"resnet{depth}": Architecture(partial(ResNet, depth=depth), "standardized")
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "caffe": Architecture(CaffeNet, "centred"),
}
