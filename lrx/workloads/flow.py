"""A normalizing flow that learns the density of points in the plane."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import affine, he_normal


def two_moons(number: int, rng: np.random.Generator, *, noise: float = 0.1) -> np.ndarray:
    """Draw points of two interleaved half circles with normal noise: (number, 2) float32.

    Args:
      number: number of points.
      rng: generator of the numbers.
      noise: standard deviation of the noise.
    """
    angle, upper = np.pi * rng.random(number), rng.random(number) < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle)) - 0.5
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle)) - 0.25
    return (np.stack([x, y], axis=1) + noise * rng.normal(size=(number, 2))).astype(np.float32)


def make_flow_workload(
    *,
    couplings: int = 4,
    hidden: int = 16,
    num_train: int = 4000,
    num_test: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build a flow of affine couplings on two moons, whose loss is the negative log-likelihood in nats per point.

    Each coupling scales and shifts one coordinate by functions of the other, y = x exp(s) + t with |s| < 2; the code
    is standard normal.

    Args:
      couplings: number of couplings; each changes the coordinate that the one before has left.
      hidden: units of the hidden layer of a coupling, of tanh.
      num_train: number of training points.
      num_test: number of points that are evaluated.
      batch_size: points in a minibatch.
      seed: seed of the points.

    Source: L. Dinh, J. Sohl-Dickstein, S. Bengio, 2017, arXiv 1605.08803, sections 3.2 and 3.3.
    """
    rng = np.random.default_rng(seed)
    train, test = two_moons(num_train, rng), two_moons(num_test, rng)

    def init(key: jax.Array) -> Any:
        layers = he_normal(key, [(1, hidden), (hidden, 2)] * couplings)
        for last in layers[1::2]:
            last["kernel"] = 0.1 * last["kernel"]  # near the identity
        return layers

    def negative_log_likelihood(layers: Any, points: jax.Array) -> jax.Array:
        fixed, moved = points[:, :1], points[:, 1:]
        log_volume = jnp.zeros([])
        for place in range(couplings):
            first, last = layers[2 * place : 2 * place + 2]
            scale, shift = jnp.split(affine(last, jnp.tanh(affine(first, fixed))), 2, axis=1)
            scale = 2 * jnp.tanh(scale / 2)
            log_volume = log_volume + scale.mean()
            fixed, moved = moved * jnp.exp(scale) + shift, fixed
        return jnp.mean(fixed**2 + moved**2) / 2 + jnp.log(2 * jnp.pi) - log_volume

    return Workload.from_functions(
        lambda params, batch, key: negative_log_likelihood(params, batch),  # noqa: ARG005
        init,
        Batches(train, batch_size),
        name="moons-flow",
        evaluate=Evaluation(lambda params, points: {"loss": negative_log_likelihood(params, points)}, test),
    )
