"""Examples whose labels are wrong or rare, small images, tables, and networks that were trained before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads._dataset import make_dataset
from lrx.workloads.fine_tuning import classes, make_fine_tuning_workload
from lrx.workloads.labels import by_class, mislabel, thin_out
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.supervised import absolute_error, binary_cross_entropy, cross_entropy, squared_error
from lrx.workloads.tables import load_table, make_friedman_table, standardize

LABELS = np.arange(4000, dtype=np.int32) % 10
EXAMPLES = np.arange(4000.0, dtype=np.float32)[:, None], LABELS


def test_a_share_of_the_labels_is_drawn_and_a_tenth_of_these_is_right() -> None:
    inputs, labels = mislabel(EXAMPLES, 0.4)
    assert np.mean(labels != LABELS) == pytest.approx(0.4 * 0.9, abs=0.03)
    np.testing.assert_array_equal(inputs, EXAMPLES[0])
    np.testing.assert_array_equal(labels, mislabel(EXAMPLES, 0.4)[1])
    assert np.any(labels != mislabel(EXAMPLES, 0.4, seed=1)[1])


def test_classes_become_rarer_by_the_ratio_and_keep_their_first_examples() -> None:
    inputs, labels = thin_out(EXAMPLES, 0.5)
    assert np.bincount(labels).tolist() == [400, 200, 100, 50, 25, 12, 6, 3, 2, 1]
    np.testing.assert_array_equal(inputs[labels == 7][:, 0], [7, 17, 27])


def test_each_class_counts_alike_in_the_class_loss() -> None:
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.8, 0.2]]))
    found = by_class(2)(logits, jnp.array([0, 0, 0, 1]))
    assert float(found["class_loss"]) == pytest.approx(-(np.log(0.9) + np.log(0.2)) / 2)
    assert float(found["loss"]) == pytest.approx(-(3 * np.log(0.9) + np.log(0.2)) / 4)


def test_losses_are_what_their_names_say() -> None:
    outputs, targets = jnp.array([1.0, -2.0]), jnp.array([0.0, 1.0])
    assert float(squared_error(outputs, targets)["loss"]) == pytest.approx((1 + 9) / 4)
    assert float(absolute_error(outputs, targets)["loss"]) == pytest.approx((1 + 3) / 2)
    found = binary_cross_entropy(outputs, jnp.array([1, 1]))
    assert float(found["loss"]) == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 2)
    assert float(found["accuracy"]) == 0.5
    found = cross_entropy(jnp.array([[2.0, 0.0], [1.0, 3.0]]), jnp.array([0, 0]))
    assert float(found["loss"]) == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(2))) / 2)
    assert float(found["accuracy"]) == 0.5


def test_pixels_are_means_over_blocks_of_what_is_left_of_the_image() -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 8, 8, 1), dtype=np.uint8)
    dataset = make_dataset("random", (pixels, LABELS[:20]), (pixels[:5], LABELS[:5]))
    (images, labels), _ = shrink(dataset, 2, crop=1)
    height = dataset.train_images.shape[1]
    assert images.shape[1:3] == ((height - 2) // 2,) * 2
    blocks = dataset.train_images[:, 1:3, 1:3].mean(axis=(1, 2))
    slope = np.polyfit(blocks[:, 0], images[:, 0, 0, 0], 1)
    np.testing.assert_allclose(np.polyval(slope, blocks[:, 0]), images[:, 0, 0, 0], atol=1e-4)
    assert images.mean() == pytest.approx(0, abs=1e-5)
    assert images.std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(flatten((images, labels))[0], images.reshape(len(images), -1))


def test_tables_have_their_rows_and_every_fifth_is_a_test_row() -> None:
    for name, rows, features in (("breast_cancer", 569, 30), ("diabetes", 442, 10), ("wine", 178, 13)):
        table = load_table(name)
        tests = -(-rows // 5)
        assert table.train[0].shape == (rows - tests, features)
        assert table.test[0].shape == (tests, features)
        assert table.train[0].dtype == np.float32
    assert load_table("diabetes").train[1].max() > 300  # in its own units
    with pytest.raises(ValueError, match="did you mean 'wine'"):
        load_table("vine")


def test_standardized_tables_use_the_statistics_of_the_training_rows() -> None:
    raw = make_friedman_table(num_rows=200)
    table = standardize(raw, targets=True)
    np.testing.assert_allclose(table.train[0].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(table.train[0].std(axis=0), 1, atol=1e-4)
    assert table.train[1].mean() == pytest.approx(0, abs=1e-5)
    ratio = np.diff(table.test[0][:, 2]) / np.diff(raw.test[0][:, 2])
    np.testing.assert_allclose(ratio, 1 / raw.train[0][:, 2].std(), rtol=1e-3)
    x, y = make_friedman_table(num_rows=100, noise=0.0).train
    expected = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    np.testing.assert_allclose(y, expected, rtol=1e-4)


@pytest.mark.slow
def test_a_fine_tuned_network_begins_with_what_it_has_learnt_and_a_new_last_layer() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400).astype(np.int32)
    examples = rng.normal(size=(4, 5))[labels].astype(np.float32), labels
    old, new = classes(examples, 0, 1), classes(examples, 2, 3)
    assert set(new[1].tolist()) == {0, 1}
    np.testing.assert_array_equal(new[0], examples[0][labels >= 2])
    workload = make_fine_tuning_workload("new", old, new, new, hidden=(6,))
    first, second = (workload.init(jax.random.key(seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(first[0]["kernel"], second[0]["kernel"])
    assert float(workload.evaluate(first, ())["loss"]) == pytest.approx(np.log(2), rel=1e-5)
    # Its hidden units tell the old classes apart: another network was trained on them.
    untrained = make_fine_tuning_workload("new", (old[0], np.zeros_like(old[1])), new, new, hidden=(6,))
    moved = np.abs(first[0]["kernel"] - untrained.init(jax.random.key(0))[0][0]["kernel"])
    assert moved.max() > 0.01
