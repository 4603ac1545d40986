"""Made-up documents are sparse, and their classes can be told apart."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from lrx.workloads.documents import CLASSES, WORDS, draw_documents, make_document_workload


def test_documents_have_few_words_and_their_classes_words_of_their_own() -> None:
    bags, labels = draw_documents(500, 400)
    assert bags.sum(axis=1).max() <= WORDS
    others, theirs = draw_documents(500, 400, seed=1)
    means = np.stack([bags[labels == each].mean(axis=0) for each in range(CLASSES)])
    rare = slice(100, None)
    right = np.argmax(others[:, rare] @ means[:, rare].T, axis=1) == theirs
    assert right.mean() > 0.8


def test_the_regression_starts_with_equal_probabilities() -> None:
    workload = make_document_workload(draw_documents(100, 40), draw_documents(100, 30, seed=2), batch_size=10)
    params, state = workload.init(jax.random.key(0))
    assert float(workload.evaluate(params, state)["loss"]) == pytest.approx(np.log(CLASSES), rel=1e-5)
