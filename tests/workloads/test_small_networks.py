"""The small networks of the suite: convolutions and attention, against plain definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads._network import enlarge
from lrx.workloads.dense import perceptron
from lrx.workloads.small_attention import attention_network, causal_network, patches
from lrx.workloads.small_convolution import convolutional_network, make_normalized_convolution_workload

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve by XLA, which pads at the end only for an even size: the window of a pixel begins before it."""
    kernel = kernel.reshape(3, 3, x.shape[-1], -1)
    padding = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.slow
def test_the_matrix_product_of_neighbourhoods_is_a_convolution() -> None:
    network = convolutional_network(2, 3, widths=(4, 5))
    first, second, last = layers = network.init(jax.random.key(0))
    x = jax.nn.relu(_convolve(jnp.asarray(IMAGES), first["kernel"], 1))
    x = jax.nn.relu(_convolve(x, second["kernel"], 2))
    assert x.shape == (6, 4, 4, 5)
    expected = x.mean(axis=(1, 2)) @ last["kernel"]
    np.testing.assert_allclose(network.apply(layers, IMAGES), expected, atol=1e-4)


def test_a_larger_start_has_the_same_network() -> None:
    network = perceptron((4, 3))
    params = [{"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}]
    enlarged = enlarge(network._replace(init=lambda key: params), 4.0)
    start = enlarged.init(jnp.zeros(2))
    assert start[0]["kernel"].max() == start[0]["kernel"].min() == 4.0
    assert enlarged.apply is network.apply


@pytest.mark.slow
def test_batch_norm_trains_with_the_minibatch_and_evaluates_with_running_statistics() -> None:
    workload = make_normalized_convolution_workload(
        "images", (IMAGES, LABELS), (IMAGES, LABELS), batch_size=6, widths=(4, 5)
    )
    params, statistics = workload.init(jax.random.key(0))
    batch, key = (jnp.asarray(IMAGES), jnp.asarray(LABELS)), jax.random.key(0)
    loss, moved = workload.loss_fn(params, statistics, batch, key)
    raw = _convolve(batch[0], params["layers"][0]["kernel"], 1)
    np.testing.assert_allclose(moved[0]["mean"], 0.1 * raw.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(moved[0]["variance"], 0.9 + 0.1 * raw.var(axis=(0, 1, 2)), rtol=1e-4)
    # When the statistics have come to rest, both ways give the same loss.
    for _ in range(100):
        _, statistics = workload.loss_fn(params, statistics, batch, key)
    assert float(workload.evaluate(params, statistics)["loss"]) == pytest.approx(float(loss), rel=1e-3)


def test_patches_hold_the_pixels_of_their_place() -> None:
    tokens = patches(IMAGES, 2, 4)
    assert tokens.shape == (6, 8, 16)
    np.testing.assert_array_equal(tokens[3, 5], IMAGES[3, 4:6, 4:8].ravel())


@pytest.mark.parametrize("norm", [True, False])
def test_attention_sees_the_order_of_tokens_only_by_their_positions(norm: bool) -> None:
    network = attention_network(4, 3, 5, width=4, num_heads=2, norm=norm)
    params = network.init(jax.random.key(0))
    tokens = jax.random.normal(jax.random.key(1), (2, 4, 3))
    apply = jax.jit(network.apply)
    assert not np.allclose(apply(params, tokens), apply(params, tokens[:, ::-1]), atol=1e-3)
    params["position"] = jnp.zeros_like(params["position"])
    np.testing.assert_allclose(apply(params, tokens), apply(params, tokens[:, ::-1]), atol=1e-5)


def test_a_causal_network_looks_at_nothing_that_comes_later() -> None:
    network = causal_network(16, 8, width=4)
    params, apply = network.init(jax.random.key(0)), jax.jit(network.apply)
    codes = jnp.arange(16).reshape(2, 8)
    before, after = apply(params, codes), apply(params, codes.at[:, 5].set(3))
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert np.all(np.any(np.abs(before - after)[:, 5:] > 1e-3, axis=-1))


def test_a_perceptron_begins_at_zero_where_it_says_so() -> None:
    x = jnp.ones((3, 4))
    for network in (perceptron((4, 2)), perceptron((4, 5, 2), zero_output=True)):
        np.testing.assert_array_equal(network.apply(network.init(jax.random.key(0)), x), np.zeros((3, 2)))
    network = perceptron((4, 5, 1), jnp.tanh, scalar=True)
    first, last = layers = network.init(jax.random.key(0))
    expected = jnp.tanh(x @ first["kernel"]) @ last["kernel"]
    np.testing.assert_allclose(network.apply(layers, x), expected[:, 0], rtol=1e-5)
