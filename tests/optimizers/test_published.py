"""Methods against what their authors published, on the real MNIST."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training import Batches, Workload, train
from lrx.workloads import make_workload
from lrx.workloads.datasets import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("LRX_DATA_DIR"), reason="LRX_DATA_DIR names no folder with the real data"),
]


def initialized(workload: Workload, draw: Callable[[jax.Array, int, tuple[int, ...]], jax.Array]) -> Workload:
    """The workload with initial values of another framework: `draw` takes a key, the fan-in and a shape."""

    def init(key: jax.Array) -> tuple[Any, Any]:
        params, model_state = workload.init(key)
        drawn = {}
        for index, (name, layer) in enumerate(sorted(params.items())):
            fan_in = layer["kernel"].shape[0]
            keys = jax.random.split(jax.random.fold_in(key, index))
            drawn[name] = {
                part: draw(part_key, fan_in, layer[part].shape)
                for part, part_key in zip(("kernel", "bias"), keys, strict=True)
            }
        return drawn, model_state

    return dataclasses.replace(workload, init=init)


def as_torch(key: jax.Array, fan_in: int, shape: tuple[int, ...]) -> jax.Array:
    bound = 1 / np.sqrt(fan_in)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


@pytest.fixture(scope="module")
def softmax_regression() -> Workload:
    return initialized(make_workload("mnist", "mlp", batch_size=128, widths=()), as_torch)


@pytest.fixture(scope="module")
def perceptron() -> Workload:
    return initialized(make_workload("mnist", "mlp", batch_size=128, widths=(1000, 1000)), as_torch)


# Mean training loss of epoch 1 and validation loss after epoch 2 in the authors' result files: A. G. Baydin et al.,
# "Online Learning Rate Adaptation with Hypergradient Descent", ICLR 2018, arXiv:1703.04782, logistic regression.
@pytest.mark.parametrize(
    ("tx", "training_loss", "validation_loss"),
    [
        pytest.param(lrx.sgd(1e-3), 1.204, 0.583, id="sgd"),
        pytest.param(lrx.hypergradient_sgd(), 0.417, 0.302, id="sgd_hd"),
        pytest.param(lrx.sgd(1e-3, momentum=0.9, nesterov=True), 0.568, 0.332, id="nesterov"),
        pytest.param(lrx.hypergradient_sgd(momentum=0.9, nesterov=True), 0.361, 0.275, id="nesterov_hd"),
        pytest.param(lrx.adam(1e-3), 0.431, 0.281, id="adam"),
        pytest.param(lrx.hypergradient_adam(1e-3), 0.421, 0.281, id="adam_hd"),
    ],
)
def test_hypergradient_descent_reaches_the_published_losses(
    softmax_regression: Workload, tx: optax.GradientTransformation, training_loss: float, validation_loss: float
) -> None:
    history = train(softmax_regression, optax.chain(optax.add_decayed_weights(1e-4), tx), epochs=2)
    epoch = softmax_regression.batches.steps_per_epoch
    np.testing.assert_allclose(history.loss[:epoch].mean(), training_loss, rtol=0.1)
    np.testing.assert_allclose(history.evaluations["loss"][1], validation_loss, rtol=0.1)


# The same for their perceptron of two hidden layers of 1,000 units.
@pytest.mark.parametrize(
    ("tx", "training_loss"),
    [
        pytest.param(lrx.sgd(1e-3), 2.158, id="sgd"),
        pytest.param(lrx.hypergradient_sgd(), 0.634, id="sgd_hd"),
        pytest.param(lrx.sgd(1e-3, momentum=0.9, nesterov=True), 1.016, id="nesterov"),
        pytest.param(lrx.hypergradient_sgd(momentum=0.9, nesterov=True), 0.341, id="nesterov_hd"),
        pytest.param(lrx.adam(1e-3), 0.197, id="adam"),
    ],
)
def test_hypergradient_descent_reaches_the_published_losses_of_a_perceptron(
    perceptron: Workload, tx: optax.GradientTransformation, training_loss: float
) -> None:
    history = train(perceptron, optax.chain(optax.add_decayed_weights(1e-4), tx), epochs=1)
    np.testing.assert_allclose(history.loss.mean(), training_loss, rtol=0.1)


# The log of one run in the authors' repository: F. Orabona, T. Tommasi, "Training Deep Networks without Learning Rates
# Through Coin Betting", NeurIPS 2017, arXiv:1705.07795, figure 2, top row; the initial values are its own.
def test_cocob_reaches_the_published_log() -> None:
    mnist = load("mnist")
    sizes = (784, 1000, 1000, 10)

    def init(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        shapes = list(itertools.pairwise(sizes))
        keys = jax.random.split(key, len(shapes))
        return [
            (0.1 * jax.random.truncated_normal(key, -2, 2, shape), jnp.full(shape[1:], 0.1))
            for key, shape in zip(keys, shapes, strict=True)
        ]

    def logits(params: Any, images: jax.Array) -> jax.Array:
        x = images.reshape(len(images), -1) / 255.0
        for kernel, bias in params[:-1]:
            x = jax.nn.relu(jnp.dot(x, kernel) + bias[None])
        return jnp.dot(x, params[-1][0]) + params[-1][1][None]

    def cost(params: Any, batch: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch[0]), batch[1]).mean()

    training = (jnp.asarray(mnist.train_images), jnp.asarray(mnist.train_labels))
    test = (jnp.asarray(mnist.test_images), jnp.asarray(mnist.test_labels))

    @jax.jit
    def measured(params: Any, training: Any, test: Any) -> dict[str, jax.Array]:
        parts = jax.tree.map(lambda x: x.reshape(60, 1000, *x.shape[1:]), training)
        wrong = jnp.argmax(logits(params, test[0]), axis=1) != test[1]
        costs = jax.lax.map(lambda part: cost(params, part), parts)
        return {"cost": jnp.mean(costs), "error": jnp.mean(wrong)}

    workload = Workload.from_functions(
        "cocob",
        init,
        lambda params, batch, key: cost(params, batch),
        Batches(training, batch_size=100),
        evaluate=lambda params: measured(params, training, test),
    )
    found = train(workload, lrx.cocob(), epochs=2).evaluations
    assert found["cost"][0] <= 0.0915
    assert found["error"][0] <= 0.0414
    np.testing.assert_allclose(found["cost"][1], 0.0322, rtol=0.25)
    np.testing.assert_allclose(found["error"][1], 0.0227, atol=0.004)


# F. Schaipp et al., "MoMo: Momentum Models for Adaptive Learning Rates", ICML 2024, arXiv:2305.07583: the accuracy
# hardly depends on the rate, where that of SGD with momentum does.
def test_momo_keeps_its_accuracy_over_four_decades_of_rates() -> None:
    workload = make_workload("mnist", "mlp", widths=(128,))
    rates = {"lr": np.logspace(-3, 1, 9)}

    def spread(tx: Callable[[Any], optax.GradientTransformation]) -> float:
        found = lrx.sweep(workload, tx=lambda lr: tx(lr), grid=rates, num_steps=500, strategy="vmap")
        accuracy = np.nan_to_num(found.evaluations["accuracy"], nan=0.1)  # of a run that diverged
        return float(np.ptp(accuracy))

    momo, sgd = spread(lambda lr: lrx.momo(lr)), spread(lambda lr: lrx.sgd(lr, momentum=0.9))
    assert momo < sgd / 3, (momo, sgd)
