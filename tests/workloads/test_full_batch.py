"""The tanh perceptron that sees all examples in every step: preparation, initial values, loss, the span of the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.workloads import full_batch
from lrx.workloads.full_batch import make_full_batch_workload, squared_loss, standardize_pixels


def rows(number=30, features=40):
    return np.random.default_rng(0).normal(size=(number, features)) * np.geomspace(3, 0.3, features)


def small():
    return make_full_batch_workload(rows(), np.arange(30, dtype=np.int32) % 3, widths=(5, 4), num_classes=3)


def test_pixels_have_zero_mean_and_unit_variance_over_all_images():
    images = np.random.default_rng(0).integers(0, 255, (50, 4, 3, 2)).astype(np.uint8)
    images[:, 1, 1, 0] = 7  # a pixel that is the same everywhere
    flat = images.reshape(50, -1).astype(np.float64)
    spread = flat.std(axis=0)
    expected = (flat - flat.mean(axis=0)) / np.where(spread == 0, 1, spread)
    found = standardize_pixels(images, 20)
    np.testing.assert_allclose(found, expected[:20], atol=1e-10)


@pytest.mark.slow
def test_initial_values_are_uniform_within_one_over_the_root_of_the_inputs():
    workload = make_full_batch_workload(np.ones((50, 30)), np.zeros(50, np.int32))
    params, _ = jax.jit(workload.init)(jax.random.key(0))
    shapes = [(layer["kernel"].shape, layer["bias"].shape) for layer in params]
    assert shapes == [((30, 200), (200,)), ((200, 200), (200,)), ((200, 10), (10,))]
    for layer in params:
        bound = layer["kernel"].shape[0] ** -0.5
        assert 0.98 * bound < jnp.max(jnp.abs(layer["kernel"])) <= bound
        assert jnp.std(layer["kernel"]) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert 0.5 * bound < jnp.max(jnp.abs(layer["bias"])) <= bound


def test_loss_is_half_the_squared_distance_from_the_labels():
    params = [{"kernel": jnp.zeros((2, 3)), "bias": jnp.array([1.0, 2.0, 3.0])}]
    batch = jnp.ones((2, 2)), jnp.array([0, 2])
    # (0, 2, 3) and (1, 2, 2) are left of the labels
    assert squared_loss(params, batch) == pytest.approx(0.5 * (13 + 9) / 2)


def test_the_accuracy_is_that_of_all_rows():
    params = [{"kernel": jnp.eye(2), "bias": jnp.zeros(2)}]
    batch = jnp.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [5.0, 1.0]]), jnp.array([0, 1, 1, 0])
    assert full_batch.accuracy(params, batch) == {"accuracy": 0.75}
    assert small().evaluate is not None


@pytest.mark.slow
def test_descent_in_the_span_of_the_images_is_descent_on_all_pixels(monkeypatch):
    workload = small()
    x = jnp.asarray(rows(), jnp.float32)
    labels = workload.batches.arrays[1]
    inside = jax.jit(workload.init)(jax.random.key(0))[0]
    assert inside[0]["kernel"].shape == (30, 5)
    monkeypatch.setattr(full_batch, "in_own_span", lambda x: (x, np.eye(x.shape[1])))
    outside = jax.jit(small().init)(jax.random.key(0))[0]
    assert outside[0]["kernel"].shape == (40, 5)

    @jax.jit
    def descend(params, batch):
        def step(params, _):
            value, gradient = jax.value_and_grad(squared_loss)(params, batch)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

        params, values = jax.lax.scan(step, params, length=20)
        return values, lrx.sharpness(lambda p: squared_loss(p, batch), params).largest

    losses, sharp = descend(inside, workload.batches.arrays)
    expected_losses, expected_sharp = descend(outside, (x, labels))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    assert sharp == pytest.approx(float(expected_sharp), rel=1e-3)
