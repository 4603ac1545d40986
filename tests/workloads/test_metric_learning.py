"""The workloads of comparisons: contrastive losses and triplets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.metric_learning import KEPT, _views, make_contrastive_workload, make_triplet_workload

IMAGES = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
LABELS = np.arange(40, dtype=np.int32) % 4


@pytest.mark.slow
def test_embeddings_that_are_all_alike_have_the_loss_of_a_guess() -> None:
    workload = make_contrastive_workload("images", IMAGES, IMAGES[:17], hidden=4, width=2, batch_size=8)
    params = workload.init(jax.random.key(0))[0]
    alike = jax.tree.map(jnp.zeros_like, params)
    alike[-1]["bias"] = jnp.ones(2)
    assert float(workload.evaluate(alike, ())["loss"]) == pytest.approx(np.log(8), rel=1e-5)
    assert workload.evaluate.function.arrays[0].shape == (2, 8, 6)  # whole groups only
    loss = workload.loss_fn(params, (), jnp.asarray(IMAGES[:8]), jax.random.key(0))[0]
    other = workload.loss_fn(params, (), jnp.asarray(IMAGES[:8]), jax.random.key(1))[0]
    assert float(loss) != float(other)  # the views are drawn by the key
    assert float(workload.evaluate(params, ())["loss"]) == float(workload.evaluate(params, ())["loss"])


def test_views_drop_pixels_and_differ() -> None:
    first, second = _views(jnp.ones((200, 50)), jax.random.key(0))
    for view in (first, second):
        assert float(jnp.mean(view == 0)) == pytest.approx(1 - KEPT, abs=0.02)
    assert float(jnp.mean((first == 0) == (second == 0))) == pytest.approx(KEPT**2 + (1 - KEPT) ** 2, abs=0.02)


def test_triplets_have_an_anchor_another_of_its_class_and_one_of_another_class() -> None:
    examples = IMAGES, LABELS
    workload = make_triplet_workload("images", examples, examples, hidden=3, num_train=100, num_test=50, batch_size=10)
    triplets = np.asarray(workload.batches.arrays)
    assert triplets.shape == (100, 3, 6)
    places = (triplets[:, :, None] == IMAGES[None, None]).all(axis=-1).argmax(axis=-1)
    anchor, positive, negative = LABELS[places].T
    assert np.all(anchor == positive)
    assert np.all(anchor != negative)
    assert np.all(places[:, 0] != places[:, 1])
    assert len(set(places[:, 2].tolist())) > 20
    alike = jax.tree.map(jnp.zeros_like, workload.init(jax.random.key(0))[0])
    found = workload.evaluate(alike, ())
    assert float(found["loss"]) == pytest.approx(0.3)
    assert float(found["accuracy"]) == 0.0
