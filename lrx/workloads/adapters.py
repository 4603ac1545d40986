"""Matrices of low rank that are trained beside the fixed kernels of a network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal


def adapted_network(sizes: Sequence[int], outputs: int, *, rank: int = 2, seed: int = 0) -> Network:
    """Build a ReLU perceptron with fixed random kernels, to each of which a product of two thin matrices is added.

    Only these, x -> x (K + D U), and a linear output layer are trained. U begins at 0, as in the source.

    Args:
      sizes: widths of the inputs and of the hidden layers.
      outputs: width of the outputs.
      rank: columns of D and rows of U.
      seed: seed of the fixed kernels, which have the variance 2 / inputs.

    Source: E. Hu et al., "LoRA: low-rank adaptation of large language models", 2021, arXiv:2106.09685, equation 3, on
      random kernels instead of trained ones.
    """
    rng, shapes = np.random.default_rng(seed), list(itertools.pairwise(sizes))
    kernels = [(rng.normal(size=shape) * np.sqrt(2 / shape[0])).astype(np.float32) for shape in shapes]

    def init(key: jax.Array) -> dict[str, Any]:
        *down, output = he_normal(key, [*((inputs, rank) for inputs, _ in shapes), (sizes[-1], outputs)])
        adapters = [
            {"down": layer["kernel"], "up": jnp.zeros((rank, width))}
            for layer, (_, width) in zip(down, shapes, strict=True)
        ]
        return {"adapters": adapters, "output": output}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        for kernel, adapter in zip(kernels, params["adapters"], strict=True):
            x = jax.nn.relu(x @ kernel + (x @ adapter["down"]) @ adapter["up"])
        return affine(params["output"], x)

    return Network(init, apply)
