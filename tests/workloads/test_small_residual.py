"""The small residual network: against XLA's convolutions layer by layer, with shortcuts and without."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.small_residual import make_small_residual_workload

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
DEPTH, WIDTH = 6, 3


def workload(**options: Any) -> Any:
    return make_small_residual_workload(
        "images",
        (IMAGES, LABELS),
        (IMAGES[:3], LABELS[:3]),
        **{"depth": DEPTH, "width": WIDTH, "batch_size": 6} | options,
    )


def loss_by_layers(params: Any, *, shortcuts: bool) -> float:
    """The loss of a minibatch of all images, with one layer of the network written after the other."""

    def layer(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
        kernel = kernel.reshape(3, 3, x.shape[-1], WIDTH)
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=numbers)
        axes = (0, 1, 2)
        return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)

    x = jax.nn.relu(layer(jnp.asarray(IMAGES), params["first"]["kernel"], 2))
    kernels = jnp.split(params["blocks"]["kernel"], DEPTH - 2, axis=1)
    for first, second in zip(kernels[::2], kernels[1::2], strict=True):
        residual = layer(jax.nn.relu(layer(x, first, 1)), second, 1)
        x = jax.nn.relu(x + residual if shortcuts else residual)
    logits = x.mean((1, 2)) @ params["output"]["kernel"]
    return float(-jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), LABELS]))


@pytest.mark.slow
@pytest.mark.parametrize("shortcuts", [True, False])
def test_the_loop_over_layers_is_the_network_layer_by_layer(shortcuts: bool) -> None:
    network = workload(shortcuts=shortcuts)
    params, statistics = network.init(jax.random.key(0))
    loss, moved = network.loss_fn(params, statistics, (jnp.asarray(IMAGES), jnp.asarray(LABELS)), jax.random.key(0))
    assert float(loss) == pytest.approx(loss_by_layers(params, shortcuts=shortcuts), rel=1e-4)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, statistics)


@pytest.mark.slow
def test_evaluations_are_of_the_first_training_images_and_of_the_test_images() -> None:
    few, same = workload(measured=3), workload(measured=6)
    start = few.init(jax.random.key(0))
    found, of_all = few.evaluate(*start), same.evaluate(*start)
    assert float(found["training_error"]) == pytest.approx(float(found["error"]))  # the same three images
    assert float(of_all["training_loss"]) != pytest.approx(float(found["training_loss"]))


@pytest.mark.parametrize("depth", [2, 7])
def test_depths_without_whole_blocks_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be 2 n \\+ 2 with n >= 1, got depth={depth}"):
        workload(depth=depth)


def test_every_column_of_the_kernel_is_a_filter_of_one_layer() -> None:
    params, _ = workload().init(jax.random.key(0))
    assert params["blocks"]["kernel"].shape == (9 * WIDTH, (DEPTH - 2) * WIDTH)
