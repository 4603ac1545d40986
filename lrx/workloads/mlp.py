"""Multilayer perceptron in Flax NNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx

from lrx.workloads._dataset import ImageShape


class MLP(nnx.Module):
    """Multilayer perceptron on the flattened image: linear layers with ReLU between them.

    Args:
      image_shape: (height, width, channels).
      num_classes: width of the output.
      widths: widths of the hidden layers; an empty sequence gives softmax regression.
      initial: `(key, fan-in of the layer, shape) -> array` draws the kernels, of shape (fan-in, width), and the biases,
        (width,); by default weights are He-normal, LeCun-normal in the last layer, and biases 0.
      rngs: `nnx.Rngs` for the initial values.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        *,
        widths: Sequence[int] = (128, 128),
        initial: Callable[[jax.Array, int, tuple[int, ...]], jax.Array] | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        def layer(fan_in: int, width: int, **options: Any) -> nnx.Linear:
            if initial is not None:
                draw = partial(_drawn, initial, fan_in)
                options = {"kernel_init": draw, "bias_init": draw}
            return nnx.Linear(fan_in, width, rngs=rngs, **options)

        sizes = (math.prod(image_shape), *widths)
        self.num_hidden = len(widths)
        for index in range(self.num_hidden):
            hidden = layer(sizes[index], sizes[index + 1], kernel_init=nnx.initializers.he_normal())
            setattr(self, f"hidden{index + 1}", hidden)
        self.output = layer(sizes[-1], num_classes)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train  # the same function in training and evaluation
        x = images.reshape(images.shape[0], -1)
        for index in range(self.num_hidden):
            x = nnx.relu(getattr(self, f"hidden{index + 1}")(x))
        return self.output(x)


def _drawn(initial: Callable[..., jax.Array], fan_in: int, key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
    """Draw a layer's kernel or bias, as Flax asks for it."""
    return initial(key, fan_in, tuple(shape)).astype(dtype)
