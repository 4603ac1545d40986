"""Units of a network, and spins of a model, that are -1 or 1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal_layers


def binary_network(features: int, hidden: int, outputs: int) -> Network:
    """Build a perceptron with two hidden layers whose units are -1 or 1.

    Backwards a unit is the identity where its input is within 1 of 0, and constant elsewhere.

    Source: M. Courbariaux et al., "Binarized neural networks", 2016, arXiv:1602.02830, equation 4, for units only.
    """

    def init(key: jax.Array) -> Any:
        return he_normal_layers(key, (features, hidden, hidden, outputs))

    def unit(x: jax.Array) -> jax.Array:
        passed = jnp.clip(x, -1, 1)
        return passed + jax.lax.stop_gradient(jnp.where(x >= 0, 1.0, -1.0) - passed)

    def apply(layers: Any, x: jax.Array) -> jax.Array:
        for layer in layers[:-1]:
            x = unit(affine(layer, x) / np.sqrt(layer["kernel"].shape[0]))
        return affine(layers[-1], x)

    return Network(init, apply)


def make_spins_workload(name: str, train: np.ndarray, test: np.ndarray, *, batch_size: int = 32) -> Workload:
    """Build the fit of couplings of spins by the pseudo-likelihood: each spin is told by all others.

    The loss is the mean of ln(1 + exp(-2 s_i (b_i + sum of J_ij s_j))) over spins, with symmetric J and J_ii = 0.

    Args:
      name: name of the workload.
      train: (n, spins) of -1 and 1.
      test: those that are evaluated.
      batch_size: rows in a minibatch.

    Source: J. Besag, "Statistical analysis of non-lattice data", The Statistician 24, 1975.
    """
    spins = train.shape[1]

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        couplings = (params["couplings"] + params["couplings"].T) * (1 - np.eye(spins, dtype=np.float32))
        fields = rows @ couplings + params["biases"][None]
        return jnp.mean(jax.nn.softplus(-2 * rows * fields))

    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {"couplings": 0.01 * jax.random.normal(key, (spins, spins)), "biases": jnp.zeros(spins)}

    return Workload.from_functions(
        lambda params, batch, key: loss(params, batch),  # noqa: ARG005
        init,
        Batches(train, batch_size),
        name=name,
        evaluate=Evaluation(lambda params, rows: {"loss": loss(params, rows)}, test),
    )
