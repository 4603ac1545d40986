"""The workloads of characters and words: what is predicted from what."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.text import load_topics
from lrx.workloads.words import make_ngram_workload, make_sequence_workload, make_words_workload


def test_a_character_is_predicted_from_those_before_it() -> None:
    text = load_topics()
    workload = make_ngram_workload(context=4, width=2, hidden=3, num_train=len(text.train) - 4)
    before, following = (np.asarray(part) for part in workload.batches.arrays)
    np.testing.assert_array_equal(before[10], text.train[10:14])
    assert following[10] == text.train[14]
    flat = jax.tree.map(jnp.zeros_like, workload.init(jax.random.key(0))[0])
    assert float(workload.evaluate(flat, ())["loss"]) == pytest.approx(np.log(64), rel=1e-5)


def test_every_character_of_a_window_is_predicted_from_those_before_it() -> None:
    workload = make_sequence_workload(length=6, width=4, num_train=500)
    windows, following = (np.asarray(part) for part in workload.batches.arrays)
    assert windows.shape == (500, 7)
    np.testing.assert_array_equal(following, windows[:, 1:])
    codes = load_topics().train
    np.testing.assert_array_equal(windows[-1], codes[-7:])
    params, loss = workload.init(jax.random.key(0))[0], jax.jit(workload.loss_fn)
    batch = jnp.asarray(windows[:8]), jnp.asarray(following[:8])
    changed = batch[0].at[:, -1].set(0)  # the last character is predicted, and not read
    np.testing.assert_allclose(loss(params, (), batch, None)[0], loss(params, (), (changed, batch[1]), None)[0])


def test_a_word_is_predicted_from_its_neighbours_on_both_sides() -> None:
    from pydoc_data.topics import topics

    workload = make_words_workload(vocabulary=50, context=1, width=2)
    around, middle = (np.asarray(part) for part in workload.batches.arrays)
    assert around.shape == (len(middle), 2)
    assert middle.max() == 48  # the last code stands for rare words, which are not predicted
    assert around.max() == 49
    words = re.findall(r"[a-z]+", " ".join(topics[name] for name in sorted(topics)).lower())
    found, counts = np.unique(words, return_counts=True)
    ranked = found[np.argsort(-counts, kind="stable")].tolist()
    codes = [min(ranked.index(word), 49) for word in words[:60]]
    expected = [codes[i - 1 : i + 2] for i in range(1, 59) if codes[i] < 49]
    got = np.stack([around[:, 0], middle, around[:, 1]], axis=1)[: len(expected)]
    np.testing.assert_array_equal(got, expected)
