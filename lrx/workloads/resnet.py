"""The residual networks for CIFAR of He et al. (2015, section 4.2) in Flax NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from lrx.workloads._cpu_layers import BatchNorm, conv
from lrx.workloads._dataset import ImageShape


def _conv3x3(in_features: int, out_features: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    initial = nnx.initializers.he_normal()
    return conv(3, in_features, out_features, stride, use_bias=False, kernel_init=initial, rngs=rngs)


def shortcut(x: jax.Array, out_features: int, stride: int) -> jax.Array:
    """Carry `x` past a residual branch without parameters: He et al.'s option A.

    Every `stride`-th pixel is kept and the new channels are filled with zeros.

    Args:
      x: (n, height, width, channels).
      out_features: channels of the result, at least those of `x`.
      stride: stride of the residual branch's first convolution.
    """
    if stride != 1:
        x = x[:, ::stride, ::stride, :]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, out_features - x.shape[-1])))


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions with batch norm, beside an option-A shortcut unless it is left out (He et al., figure 2)."""

    def __init__(
        self, in_features: int, out_features: int, stride: int, *, shortcuts: bool = True, rngs: nnx.Rngs
    ) -> None:
        self.conv1 = _conv3x3(in_features, out_features, stride, rngs)
        self.norm1 = BatchNorm(out_features, rngs=rngs)
        self.conv2 = _conv3x3(out_features, out_features, 1, rngs)
        self.norm2 = BatchNorm(out_features, rngs=rngs)
        self.out_features = out_features
        self.stride = stride
        self.shortcuts = shortcuts

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        residual = nnx.relu(self.norm1(self.conv1(x), train=train))
        residual = self.norm2(self.conv2(residual), train=train)
        return nnx.relu(shortcut(x, self.out_features, self.stride) + residual if self.shortcuts else residual)


class ResNet(nnx.Module):
    """CIFAR residual network with `depth = 6 n + 2` weighted layers.

    A 3x3 convolution, then 2 n convolutions on each of three sizes of the image with 16, 32 and 64 channels,
    global average pooling and a linear layer; batch norm after each convolution, shortcuts without parameters,
    He-normal weights, no dropout.

    Args:
      image_shape: (height, width, channels).
      num_classes: width of the output.
      depth: 8, 14, 20, 32, 44, 56, 110, ...
      shortcuts: whether there are any; without them it is the plain network that the source compares.
      rngs: `nnx.Rngs` for the initial weights.

    Raises:
      ValueError: if `depth` is not 6 n + 2.

    Source: K. He, X. Zhang, S. Ren, J. Sun, 2015, arXiv 1512.03385, section 4.2.
    """

    def __init__(
        self, image_shape: ImageShape, num_classes: int, *, depth: int, shortcuts: bool = True, rngs: nnx.Rngs
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f"depth must be 6 n + 2 with n >= 1, got depth={depth}: take 8, 14, 20, 32, 44, 56 or 110."
            )
        self.conv = _conv3x3(image_shape[-1], 16, 1, rngs)
        self.norm = BatchNorm(16, rngs=rngs)
        names, in_features = [], 16
        for stage, features in enumerate((16, 32, 64), start=1):
            for index in range(1, depth // 6 + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                names.append(f"stage{stage}_block{index}")
                setattr(self, names[-1], ResidualBlock(in_features, features, stride, shortcuts=shortcuts, rngs=rngs))
                in_features = features
        self.block_names = tuple(names)
        self.output = nnx.Linear(64, num_classes, kernel_init=nnx.initializers.he_normal(), rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(images), train=train))
        for name in self.block_names:
            x = getattr(self, name)(x, train=train)
        return self.output(jnp.mean(x, axis=(1, 2)))
