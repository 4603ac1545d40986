"""Lists whose items are to be ranked by grades."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples


def scoring_network(features: int, *, hidden: int = 16) -> Network:
    """Build a perceptron that scores each item of a list by itself: (n, items, features) -> (n, items)."""
    network = perceptron((features, hidden, 1), scalar=True)

    def apply(params: Any, lists: jax.Array) -> jax.Array:
        return network.apply(params, lists.reshape(-1, features)).reshape(lists.shape[:2])

    return Network(network.init, apply)


def list_cross_entropy(scores: jax.Array, grades: jax.Array) -> dict[str, jax.Array]:
    """Return the mean cross-entropy of the softmax of grades and that of scores, both (n, items), and the `gain`.

    The gain of a list is the sum over its items, ranked by score, of (2^grade - 1) / log2(1 + rank), divided by the sum
    for the best order.

    Source: Z. Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007, section 4 and
      equation 6; the gain is that of K. Jarvelin, J. Kekalainen, ACM Transactions on Information Systems 20, 2002.
    """
    loss = -jnp.mean(jnp.sum(jax.nn.softmax(grades) * jax.nn.log_softmax(scores), axis=1))
    discounts = 1 / np.log2(2 + np.arange(grades.shape[1], dtype=np.float32))[None]
    worth = 2.0**grades - 1
    ranked = jnp.take_along_axis(worth, jnp.argsort(-scores, axis=1), axis=1)
    best = jnp.sum(-jnp.sort(-worth, axis=1) * discounts, axis=1)
    gain = jnp.sum(ranked * discounts, axis=1) / jnp.maximum(best, 1e-6)
    return {"loss": loss, "gain": gain.mean()}


def draw_lists(number: int, rng: np.random.Generator, *, items: int = 8, features: int = 6) -> Examples:
    """Draw lists of items with grades of 0 to 3: a list's quarters by x_1 + sin(2 x_2) + x_3 x_4 and noise of 0.5.

    Args:
      number: number of lists.
      rng: generator of the numbers.
      items: items of a list, a multiple of 4.
      features: numbers in an item, standard normal; at least 4.

    Returns:
      Items (number, items, features) and grades (number, items).
    """
    x = rng.normal(size=(number, items, features))
    value = x[..., 0] + np.sin(2 * x[..., 1]) + x[..., 2] * x[..., 3] + 0.5 * rng.normal(size=(number, items))
    places = value.argsort(axis=1).argsort(axis=1)
    return x.astype(np.float32), (4 * places // items).astype(np.float32)
