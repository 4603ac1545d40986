"""Mixtures of normal distributions whose likelihood is maximized by gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload


def make_clusters_workload(
    *,
    num_components: int = 10,
    num_clusters: int = 8,
    features: int = 4,
    num_train: int = 2000,
    num_test: int = 1000,
    batch_size: int = 64,
    seed: int = 0,
) -> Workload:
    """Build the fit of a mixture of normal distributions to points of clusters, in nats per point.

    The density of a component is that of m + inv(L)^T z for a lower triangular L with a positive diagonal, whose
    logarithms, `log_scales`, are trained. Components begin as standard normal distributions around random points.

    Args:
      num_components: components of the mixture.
      num_clusters: clusters of the points, normal with random covariances and unequal in size.
      features: numbers in a point, each with zero mean and unit variance.
      num_train: number of training points.
      num_test: number of points that are evaluated.
      batch_size: points in a minibatch.
      seed: seed of the points.

    Source: R. Hosseini, S. Sra, "Matrix manifold optimization for Gaussian mixtures", NeurIPS 2015, arXiv:1506.07677,
      equation 1.1, with triangular factors of the inverse covariances.
    """
    rng = np.random.default_rng(seed)
    number = num_train + num_test
    clusters = rng.choice(num_clusters, size=number, p=rng.dirichlet(np.full(num_clusters, 5.0)))
    centres = 3 * rng.normal(size=(num_clusters, features))
    factors = rng.normal(size=(num_clusters, features, features)) / np.sqrt(features)
    points = centres[clusters] + np.einsum("nij,nj->ni", factors[clusters], rng.normal(size=(number, features)))
    points = ((points - points.mean(axis=0)) / points.std(axis=0)).astype(np.float32)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        shape = num_components, features
        return {
            "logits": jnp.zeros(num_components),
            "means": jax.random.normal(key, shape),
            "log_scales": jnp.zeros(shape),
            "below": jnp.zeros((*shape, features)),
        }

    def measure(params: Any, points: jax.Array) -> dict[str, jax.Array]:
        return {"loss": -log_density(params, points).mean()}

    return Workload.from_functions(
        lambda params, points, key: measure(params, points)["loss"],  # noqa: ARG005
        init,
        Batches(points[:num_train], batch_size),
        name="clusters",
        evaluate=Evaluation(measure, points[num_train:]),
    )


def log_density(params: Any, points: jax.Array) -> jax.Array:
    """Return the logarithm of the density of a mixture at points, (n, features) -> (n,).

    Args:
      params: `logits` (components,), `means` (components, features), and of the factors L the logarithms of the
        diagonals, `log_scales`, and what stands below them in `below` (components, features, features).
      points: the points.
    """
    features = points.shape[1]
    diagonals = jnp.exp(params["log_scales"])[:, :, None] * np.eye(features, dtype=np.float32)[None]
    factors = diagonals + params["below"] * np.tri(features, k=-1, dtype=np.float32)[None]
    white = jnp.einsum("nki,kij->nkj", points[:, None] - params["means"][None], factors)
    logs = params["log_scales"].sum(axis=1)[None] - jnp.sum(white**2, axis=2) / 2
    logs = logs + jax.nn.log_softmax(params["logits"])[None]
    return jax.nn.logsumexp(logs, axis=1) - features * np.log(2 * np.pi) / 2
