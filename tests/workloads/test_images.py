"""Workloads of images: pixels, augmentation, loss, evaluation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from learning import learn
from small_images import random_array, small_dataset

from lrx.training.equality import key_of
from lrx.workloads import dataset_workload, make_workload, pixel_transform, shift_and_mirror
from lrx.workloads.datasets import load
from lrx.workloads.models import MODELS


@functools.cache
def first_loss(model):
    """The workload of a model, its initial values, a batch of all images, and the loss and the state after it."""
    workload = dataset_workload(small_dataset(), model, batch_size=40)
    params, model_state = jax.jit(workload.init)(jax.random.key(0))
    batch = workload.batches.transform(workload.batches.arrays, jax.random.key(1))
    loss, new_state = jax.jit(workload.loss_fn)(params, model_state, batch, jax.random.key(2))
    return workload, params, model_state, batch, loss, new_state


@functools.partial(jax.jit, static_argnames=("model", "train"))
def logits_of(model, params, model_state, images, *, train):
    """What the network itself returns."""
    network = nnx.eval_shape(lambda: MODELS[model].build((8, 8, 3), 10, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(network), params, model_state)(images, train=train)


def test_without_augmentation_pixels_are_standardized_and_the_key_does_not_matter():
    dataset = small_dataset()
    batches = dataset_workload(dataset, "mlp", batch_size=40).batches
    assert batches.arrays[0].dtype == jnp.uint8
    images, labels = batches.transform(batches.arrays, jax.random.key(0))
    np.testing.assert_allclose(np.mean(images, axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(images, axis=(0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels, dataset.train_labels)
    np.testing.assert_array_equal(images, batches.transform(batches.arrays, jax.random.key(1))[0])


def test_augmentation_gives_every_shift_and_mirror_with_values_preserved():
    size, n = 8, 4000
    image = np.arange(1, 1 + 3 * size**2, dtype=np.float32).reshape(size, size, 3)
    images = jnp.broadcast_to(image, (n, size, size, 3))
    out = np.asarray(jax.jit(lambda x, k: shift_and_mirror(x, k, max_shift=4, mirror=True))(images, jax.random.key(0)))
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = [padded[i : i + size, j : j + size] for i in range(9) for j in range(9)]
    possible = {crop.tobytes(): index for index, crop in enumerate(crops)}
    possible |= {crop[:, ::-1].tobytes(): 81 + index for index, crop in enumerate(crops)}
    assert len(possible) == 162
    seen = np.bincount([possible[x.tobytes()] for x in out], minlength=162)
    # 24.7 are expected of each; a count outside of this has a probability below 1e-5.
    assert seen.min() >= 5
    assert seen.max() <= 52
    assert abs(seen[:81].sum() / n - 0.5) < 0.04  # five standard deviations


def test_augmentation_is_a_function_of_the_key():
    images = jnp.asarray(random_array(16, 8, 8, 3))
    first, again, other = (
        shift_and_mirror(images, jax.random.key(seed), max_shift=4, mirror=True) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_shift_and_mirror_can_be_had_apart():
    images = jnp.asarray(np.broadcast_to(np.arange(8, dtype=np.float32)[:, None], (64, 8, 8, 1)))  # its own column
    mirrored = np.asarray(shift_and_mirror(images, jax.random.key(0), max_shift=0, mirror=True))
    assert {tuple(x[0, :, 0]) for x in mirrored} == {tuple(range(8)), tuple(range(7, -1, -1))}
    shifted = np.asarray(shift_and_mirror(images + 1, jax.random.key(0), max_shift=1, mirror=False))
    assert {tuple(x[3, 2:6, 0]) for x in shifted} == {(2, 3, 4, 5), (3, 4, 5, 6), (4, 5, 6, 7)}


def test_augmentation_fills_with_the_mean_colour():
    mean, scale = np.array([10.0, 100.0, 200.0]), np.array([2.0, 3.0, 4.0])
    raw = jnp.zeros((64, 8, 8, 3), jnp.uint8), jnp.zeros(64, jnp.int32)
    images, _ = pixel_transform(mean, scale, max_shift=4, mirror=False)(raw, jax.random.key(0))
    corner = np.asarray(images[:, 0, 0])
    outside = np.all(corner == 0, axis=-1)
    assert 0 < outside.sum() < 64
    np.testing.assert_allclose(corner[~outside], np.broadcast_to(-mean / scale, (64 - outside.sum(), 3)), rtol=1e-6)


def test_augment_is_by_default_what_the_data_set_allows_and_can_be_chosen(monkeypatch):
    monkeypatch.setattr(
        "lrx.workloads.images.load", lambda name, data_dir: small_dataset()._replace(augment=name == "cifar10")
    )

    def is_random(**arguments):
        batches = make_workload(model="mlp", batch_size=40, **arguments).batches
        one, other = (batches.transform(batches.arrays, jax.random.key(seed))[0] for seed in (0, 1))
        return not np.array_equal(one, other)

    assert is_random(data="cifar10")
    assert not is_random(data="digits")
    assert not is_random(data="cifar10", augment=False)
    assert is_random(data="digits", augment=True)


@pytest.mark.parametrize(
    "model", ["mlp", pytest.param("resnet8", marks=pytest.mark.slow), pytest.param("caffe", marks=pytest.mark.slow)]
)
def test_parameters_are_nested_dicts_and_loss_is_the_mean_cross_entropy(model):
    _, params, model_state, batch, loss, new_state = first_loss(model)
    for tree in (params, model_state):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        assert all(
            isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) for path in paths for key in path
        )
    assert jax.tree.structure(new_state) == jax.tree.structure(model_state)
    assert loss.dtype == jnp.float32

    logits = np.asarray(logits_of(model, params, model_state, batch[0], train=True), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loss, -log_probabilities[np.arange(40), batch[1]].mean(), rtol=1e-5)


@pytest.mark.slow
def test_running_statistics_move_a_tenth_of_the_way_to_the_batch():
    _, params, _, (images, _), _, new_state = first_loss("resnet8")
    first = jax.lax.conv_general_dilated(
        images, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(new_state["norm"]["mean"], 0.1 * jnp.mean(first, axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new_state["norm"]["var"], 0.9 + 0.1 * jnp.var(first, axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "num_test"), [("mlp", 23), ("resnet8", 10), ("mlp", 10), ("mlp", 3)])
def test_evaluation_equals_a_loop_over_the_test_images(model, num_test, monkeypatch):
    monkeypatch.setattr("lrx.workloads.images.EVALUATION_CHUNK", 5)
    dataset = small_dataset(num_test=num_test)
    workload = dataset_workload(dataset, model, batch_size=40)
    params, model_state = jax.jit(workload.init)(jax.random.key(0))
    model_state = jax.tree.map(lambda x: np.asarray(x) + 0.5, model_state)  # running statistics unlike those of a batch
    losses, hits = [], []
    for image, label in zip(dataset.test_images, dataset.test_labels, strict=True):
        x = (image / 255 - dataset.mean) / dataset.std
        logits = np.asarray(
            logits_of(model, params, model_state, x[None].astype(np.float32), train=False)[0], np.float64
        )
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
        hits.append(logits.argmax() == label)
    result = workload.evaluate(params, model_state)
    assert set(result) == {"loss", "accuracy"}
    np.testing.assert_allclose(result["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(result["accuracy"], np.mean(hits), rtol=1e-6)


@pytest.mark.slow
def test_training_images_are_evaluated_as_test_images_are(monkeypatch):
    monkeypatch.setattr("lrx.workloads.images.EVALUATION_CHUNK", 20)
    dataset = small_dataset()
    workload = dataset_workload(dataset, "mlp", batch_size=40, augment=True, evaluate_on=("test", "train"), widths=(8,))
    exchanged = dataset._replace(test_images=dataset.train_images, test_labels=dataset.train_labels)
    other = dataset_workload(exchanged, "mlp", batch_size=40, widths=(8,))
    params, model_state = jax.jit(workload.init)(jax.random.key(0))
    found, expected = workload.evaluate(params, model_state), other.evaluate(params, model_state)
    assert set(found) == {"loss", "accuracy", "train_loss", "train_accuracy"}
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(found[f"train_{name}"], expected[name], rtol=1e-6)
        assert found[name] != found[f"train_{name}"]


def test_a_workload_may_have_no_evaluation_and_other_parts_are_refused():
    assert dataset_workload(small_dataset(), "mlp", batch_size=40, evaluate_on=()).evaluate is None
    with pytest.raises(ValueError, match="evaluate_on must be one of test, train, got evaluate_on='trian': did you"):
        dataset_workload(small_dataset(), "mlp", batch_size=40, evaluate_on=("test", "trian"))


def test_images_that_fill_up_the_last_chunk_count_for_nothing(monkeypatch):
    monkeypatch.setattr("lrx.workloads.images.EVALUATION_CHUNK", 20)
    dataset = small_dataset(num_test=23)
    workload = dataset_workload(dataset, "mlp", batch_size=40)
    params, model_state = jax.jit(workload.init)(jax.random.key(0))
    # Always class 0, the label of the filling.
    params["output"] = {"kernel": 0 * params["output"]["kernel"], "bias": jnp.zeros(10).at[0].set(1)}
    result = workload.evaluate(params, model_state)
    np.testing.assert_allclose(result["accuracy"], np.mean(dataset.test_labels == 0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_training_lowers_the_loss(model):
    workload = dataset_workload(load("digits").first(32, 8), model, batch_size=8)
    losses = learn(workload, 0.01, steps=24).losses
    assert losses[-4:].mean() < 0.5 * losses[:4].mean()


def test_an_equal_workload_is_known_by_its_code_alone():
    def key(model="mlp", augment=False, **options):
        workload = dataset_workload(small_dataset(), model, batch_size=40, augment=augment, **options)
        return key_of((workload.init, workload.loss_fn, workload.batches.sampling, workload.evaluate.function))

    assert key() == key()
    others = [key(), key("resnet8"), key(augment=True), key(widths=(16,)), key(widths=(32,))]
    assert len(set(others)) == len(others)


def test_unknown_names_are_answered_with_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"one of .*, got model='rasnet20': did you mean 'resnet20'"):
        make_workload("digits", "rasnet20")
    with pytest.raises(ValueError, match=r"one of .*, got name='digitz': did you mean 'digits'"):
        make_workload("digitz", "mlp")


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most"):
        dataset_workload(small_dataset(), "mlp", batch_size=41)
