"""Unknowns behind measurements: the atoms and codes of signals, and a signal of which only moduli are measured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads._network import Network
from lrx.workloads.supervised import make_supervised_workload, squared_error


def make_dictionary_workload(name: str, signals: np.ndarray, *, num_atoms: int = 24, penalty: float = 0.2) -> Workload:
    """Build the search for a dictionary in which all signals have sparse codes.

    The loss is the mean over signals of |x - c A|^2 / 2 + penalty * |c|_1, with atoms (rows of A) of unit length; the
    codes of all signals are trained with the atoms, on all signals in each step.

    Args:
      name: name of the workload.
      signals: (n, size) float32.
      num_atoms: number of atoms.
      penalty: weight of the sum of the sizes of a code.

    Source: B. Olshausen, D. Field, "Emergence of simple-cell receptive field properties by learning a sparse code for
      natural images", Nature 381, 1996, equations 2 to 4, with the sparseness |x|.
    """
    number, size = signals.shape

    def init(key: jax.Array) -> dict[str, jax.Array]:
        drawn = jax.random.normal(key, (number + size, num_atoms))
        return {"codes": 0.1 * drawn[:number], "atoms": drawn[number:].T}

    def loss(params: Any, signals: jax.Array) -> jax.Array:
        lengths = jnp.sqrt(jnp.sum(params["atoms"] ** 2, axis=1, keepdims=True))
        missed = signals - params["codes"] @ (params["atoms"] / lengths)
        sizes = jnp.sum(jnp.abs(params["codes"]), axis=1)
        return jnp.mean(jnp.sum(missed**2, axis=1) / 2 + penalty * sizes)

    return Workload.from_functions(
        lambda params, batch, key: loss(params, batch),  # noqa: ARG005
        init,
        Batches(signals, number, shuffle=False),
        name=name,
        evaluate=Evaluation(lambda params, signals: {"loss": loss(params, signals)}, signals),
    )


def make_phases_workload(
    *, size: int = 32, noise: float = 0.1, num_train: int = 320, num_test: int = 1000, seed: int = 0
) -> Workload:
    """Build the recovery of a complex signal from the squared moduli of its products with random vectors.

    A measurement is |a.x|^2 + noise, where the entries of x are complex normal of unit variance, and those of a of
    variance 1 / size. The loss is half the mean square of its error, over all measurements in each step.

    Args:
      size: entries of the signal; the parameters, (2, size), are their real and imaginary parts.
      noise: standard deviation of the noise.
      num_train: number of measurements.
      num_test: number of other measurements, without noise, which are evaluated.
      seed: seed of the signal and of the measurements.

    Source: E. Candes, X. Li, M. Soltanolkotabi, "Phase retrieval via Wirtinger flow", IEEE Transactions on Information
      Theory 61, 2015, arXiv:1407.1065, equation 1.1, from a random start.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, size)) / np.sqrt(2)
    vectors = rng.normal(size=(num_train + num_test, 2, size)) / np.sqrt(2 * size)
    moduli = np.sum(np.square(_product(vectors, x)), axis=0)
    moduli[:num_train] += noise * rng.normal(size=num_train)
    vectors, moduli = vectors.astype(np.float32), moduli.astype(np.float32)

    def apply(signal: Any, vectors: jax.Array) -> jax.Array:
        real, imaginary = _product(vectors, signal)
        return real**2 + imaginary**2

    network = Network(lambda key: jax.random.normal(key, (2, size)) / np.sqrt(2), apply)
    parts = (vectors[:num_train], moduli[:num_train]), (vectors[num_train:], moduli[num_train:])
    return make_supervised_workload("phases", network, *parts, squared_error, batch_size=num_train)


def _product(vectors: Any, x: Any) -> tuple[Any, Any]:
    """Return the real and imaginary parts, (n,), of products of complex vectors (n, 2, size) with x (2, size)."""
    return (
        vectors[:, 0] @ x[0] - vectors[:, 1] @ x[1],
        vectors[:, 0] @ x[1] + vectors[:, 1] @ x[0],
    )
