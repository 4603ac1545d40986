"""Predicting a character or a word of the help topics from its neighbours, with learnt embeddings."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.small_attention import causal_network
from lrx.workloads.supervised import Examples, cross_entropy, make_supervised_workload
from lrx.workloads.text import HELD_OUT, load_topics

EVALUATED = 1000  # places of the held-out text


def make_ngram_workload(
    *, context: int = 6, width: int = 8, hidden: int = 32, batch_size: int = 32, num_train: int = 50_000
) -> Workload:
    """Build the workload of predicting a character from those before it, by a perceptron on their embeddings.

    Args:
      context: number of characters before.
      width: width of an embedding.
      hidden: units of the hidden layer, of tanh.
      batch_size: places of the text in a minibatch.
      num_train: places of the text to train on.

    Source: Y. Bengio, R. Ducharme, P. Vincent, C. Jauvin, "A Neural Probabilistic Language Model", JMLR 3, 2003.
    """
    text = load_topics()
    vocabulary = len(text.characters) + 1
    network = _embedding_network(vocabulary, width, (context * width, hidden, vocabulary))
    train, test = (
        _evenly(_windows(codes, context), n) for codes, n in ((text.train, num_train), (text.test, EVALUATED))
    )
    return make_supervised_workload("topics-ngram", network, train, test, cross_entropy, batch_size=batch_size)


def make_sequence_workload(
    *, length: int = 16, width: int = 16, batch_size: int = 8, num_train: int = 20_000
) -> Workload:
    """Build the workload of predicting each character of a window from those before it, by one block of attention.

    Args:
      length: characters of a window.
      width: width of the representation of a character.
      batch_size: windows in a minibatch.
      num_train: windows of the text to train on.
    """
    text = load_topics()
    network = causal_network(len(text.characters) + 1, length, width=width)

    def apply(params: Any, windows: jax.Array) -> jax.Array:
        return network.apply(params, windows[:, :-1])

    def sequences(codes: np.ndarray, number: int) -> Examples:
        windows, last = _evenly(_windows(codes, length), number)
        whole = np.concatenate([windows, last[:, None]], axis=1)
        return whole, whole[:, 1:]

    train, test = sequences(text.train, num_train), sequences(text.test, EVALUATED // 4)
    shifted = Network(network.init, apply)
    return make_supervised_workload("topics-attention", shifted, train, test, cross_entropy, batch_size=batch_size)


def make_words_workload(*, vocabulary: int = 300, context: int = 2, width: int = 12, batch_size: int = 32) -> Workload:
    """Build the workload of predicting a word from those on both sides, by the mean of their embeddings.

    Only places whose word is not a rare one count; rare words in the context share a code.

    Args:
      vocabulary: number of words, the most frequent ones, one of them for all others.
      context: number of words on each side.
      width: width of an embedding.
      batch_size: places of the text in a minibatch.

    Source: T. Mikolov, K. Chen, G. Corrado, J. Dean, 2013, arXiv 1301.3781, section 3.1 (CBOW), with the full softmax.
    """
    codes = _word_codes(vocabulary)
    first = int((1 - HELD_OUT) * len(codes))
    parts = []
    for part in (codes[:first], codes[first:]):
        windows = np.lib.stride_tricks.sliding_window_view(part, 2 * context + 1)
        windows = windows[windows[:, context] < vocabulary - 1]
        parts.append((np.delete(windows, context, axis=1), windows[:, context].copy()))
    train, test = parts[0], _evenly(parts[1], EVALUATED)

    def init(key: jax.Array) -> dict[str, Any]:
        table, output = he_normal(key, [(vocabulary, width), (width, vocabulary)])
        # He's rule is for sums over inputs; a row of the table is picked.
        return {"embedding": table["kernel"] * np.sqrt(vocabulary / 2), "output": output}

    def apply(params: Any, words: jax.Array) -> jax.Array:
        return affine(params["output"], params["embedding"][words].mean(axis=1))

    name = "topics-words"
    return make_supervised_workload(name, Network(init, apply), train, test, cross_entropy, batch_size=batch_size)


def _embedding_network(vocabulary: int, width: int, sizes: tuple[int, int, int]) -> Network:
    def init(key: jax.Array) -> dict[str, Any]:
        table, *layers = he_normal(key, [(vocabulary, width), sizes[:2], sizes[1:]])
        return {"embedding": table["kernel"] * np.sqrt(vocabulary / 2), "layers": layers}

    def apply(params: Any, codes: jax.Array) -> jax.Array:
        x = params["embedding"][codes].reshape(len(codes), -1)
        return affine(params["layers"][1], jnp.tanh(affine(params["layers"][0], x)))

    return Network(init, apply)


def _windows(codes: np.ndarray, context: int) -> Examples:
    windows = np.lib.stride_tricks.sliding_window_view(codes.astype(np.int32), context + 1)
    return windows[:, :-1], windows[:, -1]


def _evenly(examples: Examples, number: int) -> Examples:
    """Return examples that are spread evenly over all."""
    places = np.linspace(0, len(examples[0]) - 1, number).astype(int)
    return examples[0][places], examples[1][places]


def _word_codes(vocabulary: int) -> np.ndarray:
    """Return the words of all help topics as codes by rank; the last code stands for all rarer words."""
    from pydoc_data.topics import topics

    words = re.findall(r"[a-z]+", " ".join(topics[name] for name in sorted(topics)).lower())
    found, codes, counts = np.unique(words, return_inverse=True, return_counts=True)
    ranks = np.empty(len(found), np.int32)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(found))
    return np.minimum(ranks[codes], vocabulary - 1)
