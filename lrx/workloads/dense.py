"""Fully connected layers as plain arrays: lists of `{"kernel": (inputs, outputs), "bias": (outputs,)}`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network

Layer = Mapping[str, jax.Array]


def affine(layer: Layer, x: jax.Array) -> jax.Array:
    """Return `x @ kernel + bias`: (n, inputs) -> (n, outputs)."""
    return x @ layer["kernel"] + layer["bias"][None, :]


def perceptron(
    sizes: Sequence[int],
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    *,
    scalar: bool = False,
    zero_output: bool = False,
) -> Network:
    """Build a perceptron with kernels of variance 2 / inputs and biases of 0; without hidden layers, kernels are 0.

    Args:
      sizes: widths of the inputs, of the hidden layers and of the outputs.
      activation: after each hidden layer.
      scalar: whether to return outputs (n,) instead of (n, 1).
      zero_output: whether the last kernel is 0 too, so that all outputs begin at 0.
    """

    def init(key: jax.Array) -> list[dict[str, jax.Array]]:
        layers = he_normal_layers(key, sizes)
        if zero_output or len(sizes) == 2:
            layers[-1] = jax.tree.map(jnp.zeros_like, layers[-1])
        return layers

    def apply(layers: Any, x: jax.Array) -> jax.Array:
        x = hidden_units(layers, x, activation)
        x = affine(layers[-1], x)
        return x[:, 0] if scalar else x

    return Network(init, apply)


def hidden_units(layers: Sequence[Layer], x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Return the units before the last layer of a perceptron: (n, inputs) -> (n, width)."""
    for layer in layers[:-1]:
        x = activation(affine(layer, x))
    return x


def he_normal_layers(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Return layers between `sizes`, with kernels of variance 2 / inputs and biases of 0."""
    return he_normal(key, list(itertools.pairwise(sizes)))


def he_normal(key: jax.Array, shapes: Sequence[tuple[int, int]]) -> list[dict[str, jax.Array]]:
    """Return a layer for each of `shapes`, (inputs, outputs), with a kernel of variance 2 / inputs and biases of 0."""
    # All numbers are drawn at once, because each drawing call takes the compiler a second.
    numbers = jax.random.normal(key, (sum(rows * columns for rows, columns in shapes),))
    layers, first = [], 0
    for rows, columns in shapes:
        drawn = numbers[first : first + rows * columns].reshape(rows, columns)
        layers.append({"kernel": drawn * np.sqrt(2 / rows), "bias": jnp.zeros(columns)})
        first += rows * columns
    return layers


def uniform_layers(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Return layers between `sizes`, with kernels and biases of `uniform_by_fan_in`."""
    layers = []
    for (inputs, outputs), layer_key in zip(
        itertools.pairwise(sizes), jax.random.split(key, len(sizes) - 1), strict=True
    ):
        kernel_key, bias_key = jax.random.split(layer_key)
        kernel = uniform_by_fan_in(kernel_key, inputs, (inputs, outputs))
        layers.append({"kernel": kernel, "bias": uniform_by_fan_in(bias_key, inputs, (outputs,))})
    return layers


def uniform_by_fan_in(key: jax.Array, fan_in: int, shape: tuple[int, ...]) -> jax.Array:
    """Draw from -1 / sqrt(fan-in) to 1 / sqrt(fan-in), as PyTorch does for kernels and biases of linear layers."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
