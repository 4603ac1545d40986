"""Made-up documents of a few words, of which most are rare, to be classified by softmax regression."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.supervised import Examples, cross_entropy, make_supervised_workload

CLASSES, WORDS = 20, 10  # words of a document
OWN_WORDS, OWN_SHARE = 20, 0.5  # rare words that belong to a class, and their share of its documents


def draw_documents(vocabulary: int, number: int, seed: int = 0) -> Examples:
    """Return documents as bags of words, (number, vocabulary) float32 of 0 and 1, and their classes.

    Half of the words are drawn with probabilities that fall as 1 / rank; the others belong to the class.

    Args:
      vocabulary: number of words.
      number: number of documents.
      seed: of the documents; the words of the classes are the same for all seeds.
    """
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(1).choice(np.arange(vocabulary // 5, vocabulary), (CLASSES, OWN_WORDS))  # rare ones
    labels = rng.integers(CLASSES, size=number).astype(np.int32)
    usual = 1 / np.arange(1, vocabulary + 1)
    words = rng.choice(vocabulary, (number, WORDS), p=usual / usual.sum())
    theirs = own[labels[:, None], rng.integers(OWN_WORDS, size=(number, WORDS))]
    words = np.where(rng.random((number, WORDS)) < OWN_SHARE, theirs, words)
    bags = np.zeros((number, vocabulary), np.float32)
    np.put_along_axis(bags, words, 1.0, axis=1)
    return bags, labels


def make_document_workload(train: Examples, test: Examples, *, batch_size: int) -> Workload:
    """Build softmax regression on bags of words, whose weights start at 0; it evaluates the test accuracy.

    Args:
      train: documents to train on, of `draw_documents`.
      test: documents that are evaluated.
      batch_size: documents in a minibatch.
    """

    def init(key: jax.Array) -> dict[str, jax.Array]:
        del key
        return {"w": jnp.zeros((train[0].shape[1], CLASSES)), "b": jnp.zeros(CLASSES)}

    network = Network(init, lambda params, bags: bags @ params["w"] + params["b"][None])
    return make_supervised_workload("documents", network, train, test, cross_entropy, batch_size=batch_size)
