"""Sequences of symbols: sequences to be sorted, and sequences whose tags depend on one another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.small_attention import causal_network
from lrx.workloads.supervised import Examples


def sorting_network(vocabulary: int, length: int, *, width: int = 16) -> Network:
    """Build a causal transformer that reads a sequence and a separator, and writes the sorted sequence.

    Inputs are (n, 2 length) codes as of `draw_sequences`; outputs are the logits, (n, length, vocabulary + 1), of the
    sorted symbols, each given those before it.

    Args:
      vocabulary: number of symbols; the separator is one more code.
      length: symbols of a sequence.
      width: width of the representation of a symbol.
    """
    network = causal_network(vocabulary + 1, 2 * length, width=width)
    return Network(network.init, lambda params, codes: network.apply(params, codes)[:, length:])


def draw_sequences(number: int, rng: np.random.Generator, *, vocabulary: int = 10, length: int = 5) -> Examples:
    """Draw sequences of symbols, each with a separator and all but the last of its sorted symbols, and the sorted ones.

    Args:
      number: number of sequences.
      rng: generator of the numbers.
      vocabulary: number of symbols, whose codes are 0 to vocabulary - 1; the separator is `vocabulary`.
      length: symbols of a sequence.

    Returns:
      Codes (number, 2 length), and sorted symbols (number, length).
    """
    symbols = rng.integers(vocabulary, size=(number, length))
    in_order = np.sort(symbols, axis=1)
    separator = np.full((number, 1), vocabulary)
    codes = np.concatenate([symbols, separator, in_order[:, :-1]], axis=1)
    return codes.astype(np.int32), in_order.astype(np.int32)


def tag_network(features: int, num_tags: int, *, hidden: int = 16) -> Network:
    """Build a chain whose potentials are a perceptron's scores of a tag plus a matrix of scores of two adjacent tags.

    Args:
      features: numbers at each step of a sequence, (n, steps, features).
      num_tags: number of tags.
      hidden: units of the hidden layer.

    Returns:
      A network whose outputs, (n, steps, num_tags, num_tags), are the scores of a tag (last axis) after another one.
    """

    def init(key: jax.Array) -> dict[str, Any]:
        layers = he_normal(key, [(features, hidden), (hidden, num_tags)])
        return {"layers": layers, "transitions": jnp.zeros((num_tags, num_tags))}

    def apply(params: Any, sequences: jax.Array) -> jax.Array:
        first, second = params["layers"]
        scores = affine(second, jax.nn.relu(affine(first, sequences.reshape(-1, features))))
        return scores.reshape(*sequences.shape[:2], 1, num_tags) + params["transitions"][None, None]

    return Network(init, apply)


def chain_likelihood(potentials: jax.Array, tags: jax.Array) -> dict[str, jax.Array]:
    """Return the negative log-likelihood of tags, (n, steps), under a chain with potentials, in nats per step.

    The probability of a sequence is proportional to the exponential of the sum of its potentials; the sum over all
    sequences is found step by step. Tag 0 precedes the first step.

    Source: J. Lafferty, A. McCallum, F. Pereira, "Conditional random fields", ICML 2001, equations 1 and 2.
    """
    steps = potentials.shape[1]
    before = jnp.pad(tags[:, :-1], ((0, 0), (1, 0)))
    rows = jnp.take_along_axis(potentials, before[:, :, None, None], axis=2)[:, :, 0]
    score = jnp.take_along_axis(rows, tags[:, :, None], axis=2)[:, :, 0].sum(axis=1)

    def advance(logs: jax.Array, potential: jax.Array) -> tuple[jax.Array, None]:
        return jax.nn.logsumexp(logs[:, :, None] + potential, axis=1), None

    logs, _ = jax.lax.scan(advance, potentials[:, 0, 0], jnp.moveaxis(potentials[:, 1:], 1, 0))
    return {"loss": jnp.mean(jax.nn.logsumexp(logs, axis=1) - score) / steps}


def draw_tags(
    number: int, rng: np.random.Generator, *, num_tags: int = 4, length: int = 10, features: int = 4
) -> Examples:
    """Draw tags of a Markov chain, and points that depend on them.

    A tag is kept with probability 0.3, and followed by the next one (the first follows the last) with 0.5. A tag's
    points are normal around one of two centres of its own, so that no linear score separates the tags.

    Args:
      number: number of sequences.
      rng: generator of the numbers.
      num_tags: number of tags.
      length: steps of a sequence; tag 0 precedes the first.
      features: numbers in a point.

    Returns:
      Points (number, length, features) and tags (number, length).
    """
    moves = rng.choice(num_tags, size=(number, length), p=[0.3, 0.5, *[0.2 / (num_tags - 2)] * (num_tags - 2)])
    tags = np.cumsum(moves, axis=1) % num_tags
    centres = np.random.default_rng(0).normal(size=(num_tags, 2, features))
    points = centres[tags, rng.integers(2, size=tags.shape)] + 0.7 * rng.normal(size=(number, length, features))
    return points.astype(np.float32), tags.astype(np.int32)
