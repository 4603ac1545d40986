"""Experts of which a gate chooses, on a function in pieces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal_layers
from lrx.workloads.supervised import Examples


def expert_network(features: int, experts: int) -> Network:
    """Build linear experts, weighted by the softmax of linear gates: (n, features) -> (n,).

    Source: R. Jacobs, M. Jordan, S. Nowlan, G. Hinton, "Adaptive mixtures of local experts", Neural Computation 3,
      1991, equation 1.
    """

    def init(key: jax.Array) -> Any:
        return he_normal_layers(key, (features, 2 * experts))

    def apply(layers: Any, x: jax.Array) -> jax.Array:
        gates, values = jnp.split(affine(layers[0], x), 2, axis=1)
        return jnp.sum(jax.nn.softmax(gates) * values, axis=1)

    return Network(init, apply)


def draw_pieces(number: int, rng: np.random.Generator, *, features: int = 4) -> Examples:
    """Draw points with a function that is linear in each quadrant of the first two coordinates, with noise of 0.1."""
    x = rng.normal(size=(number, features))
    slopes = np.random.default_rng(0).normal(size=(4, features))
    quadrant = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
    values = np.sum(slopes[quadrant] * x, axis=1) + 0.1 * rng.normal(size=number)
    return x.astype(np.float32), values.astype(np.float32)
