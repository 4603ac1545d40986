"""Ratings of items by users, predicted by the product of two matrices of factors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.supervised import make_supervised_workload, squared_error


def make_ratings_workload(
    *,
    num_users: int = 200,
    num_items: int = 100,
    rank: int = 3,
    noise: float = 0.3,
    num_train: int = 5000,
    num_test: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build matrix factorization: a rating is mean + user's bias + item's bias + u.v, with the true number of factors.

    True biases and products have the standard deviation 0.5 each, the mean is 3.5, and ratings have normal noise. Users
    and items are drawn with frequencies proportional to 1 / (rank of popularity + 10).

    Args:
      num_users: number of users.
      num_items: number of items.
      rank: number of factors.
      noise: standard deviation of the noise.
      num_train: number of training ratings.
      num_test: number of ratings that are evaluated.
      batch_size: ratings in a minibatch.
      seed: seed of the ratings.

    Source: Y. Koren, R. Bell, C. Volinsky, "Matrix factorization techniques for recommender systems", IEEE Computer 42,
      2009, equation 4, without the penalty.
    """
    rng = np.random.default_rng(seed)
    number, sizes = num_train + num_test, (num_users, num_items)
    frequencies = [1 / (np.arange(size) + 10.0) for size in sizes]
    drawn = [rng.choice(len(p), number, p=p / p.sum()) for p in frequencies]
    biases = [0.5 * rng.normal(size=size) for size in sizes]
    factors = [rng.normal(size=(size, rank)) for size in sizes]
    product = 0.5 / np.sqrt(rank) * np.sum(factors[0][drawn[0]] * factors[1][drawn[1]], axis=1)
    ratings = 3.5 + biases[0][drawn[0]] + biases[1][drawn[1]] + product + noise * rng.normal(size=number)
    pairs, ratings = np.stack(drawn, axis=1).astype(np.int32), ratings.astype(np.float32)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        start = 0.1 * jax.random.normal(key, (num_users + num_items, rank))
        return {
            "mean": jnp.zeros([]),
            "biases": jnp.zeros(num_users + num_items),
            "users": start[:num_users],
            "items": start[num_users:],
        }

    def apply(params: Any, pairs: jax.Array) -> jax.Array:
        users, items = pairs[:, 0], pairs[:, 1]
        biases = params["biases"][users] + params["biases"][num_users + items]
        return params["mean"] + biases + jnp.sum(params["users"][users] * params["items"][items], axis=1)

    parts = (pairs[:num_train], ratings[:num_train]), (pairs[num_train:], ratings[num_train:])
    return make_supervised_workload("ratings", Network(init, apply), *parts, squared_error, batch_size=batch_size)
