"""Layers written for speed on a CPU have the values and gradients of plain ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_images import random_array

from lrx.workloads import _cpu_layers
from lrx.workloads._cpu_layers import BatchNorm, avg_pool, convolution, local_response_norm, max_pool, normalize_batch


@pytest.mark.parametrize(
    ("n", "size", "kernel_size", "stride"),
    [(8, (8, 8), 3, 1), (6, (7, 5), 5, 1), (3, (2, 3), 3, 1), (8, (8, 8), 3, 2), (6, (7, 5), 3, 2), (3, (2, 3), 3, 2)],
)
def test_convolutions_have_the_values_and_gradients_of_lax(n, size, kernel_size, stride):
    x, kernel = random_array(n, *size, 4), random_array(kernel_size, kernel_size, 4, 6, seed=1)

    def lax_convolution(x, kernel):
        padding = ((kernel_size // 2, kernel_size // 2),) * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, dy):
        out, pullback = jax.vjp(function, x, kernel)
        return out, *pullback(dy)

    dy = random_array(*jax.eval_shape(lax_convolution, x, kernel).shape, seed=2)
    expected, *wanted = value_and_gradients(lax_convolution, dy)
    out, *gradients = value_and_gradients(lambda x, kernel: convolution(x, kernel, stride), dy)
    np.testing.assert_array_equal(out, expected)
    ways = _cpu_layers._kernel_gradient_on_cpu, _cpu_layers._kernel_gradient
    gradients += jax.jit(lambda dy: [way(stride, x, kernel, dy) for way in ways])(dy)
    for gradient, want in zip(gradients, [*wanted, wanted[1], wanted[1]], strict=True):
        # Sums of up to 512 products of size 1 in float32, in another order.
        np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=3e-5)


@pytest.mark.slow
def test_batch_norm_equals_flax_in_values_statistics_and_gradients():
    ours, flax = BatchNorm(5, rngs=nnx.Rngs(0)), nnx.BatchNorm(5, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    for norm in (ours, flax):
        norm.scale[...], norm.bias[...] = random_array(5, seed=1), random_array(5, seed=2)
    x, weights = 3 * random_array(4, 6, 6, 5) + 1, random_array(4, 6, 6, 5, seed=3)
    for _ in range(3):
        np.testing.assert_allclose(ours(x, train=True), flax(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], flax.mean[...], rtol=1e-6)
    np.testing.assert_allclose(ours.var[...], flax.var[...], rtol=1e-6)
    np.testing.assert_allclose(ours(x, train=False), flax(x, use_running_average=True), rtol=1e-6)

    def ours_loss(x, scale, bias):
        return jnp.sum(weights * jnp.tanh(normalize_batch(x, scale, bias)[0]))

    def automatic_loss(x, scale, bias):
        mean, variance = jnp.mean(x, axis=(0, 1, 2), keepdims=True), jnp.var(x, axis=(0, 1, 2), keepdims=True)
        scale, bias = scale.reshape(1, 1, 1, -1), bias.reshape(1, 1, 1, -1)
        return jnp.sum(weights * jnp.tanh((x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias))

    arguments = x, ours.scale[...], ours.bias[...]
    gradients = jax.jit(jax.grad(ours_loss, argnums=(0, 1, 2)))(*arguments)
    expected = jax.jit(jax.grad(automatic_loss, argnums=(0, 1, 2)))(*arguments)
    for gradient, wanted in zip(gradients, expected, strict=True):
        # Differences of sums over 144 values of size 1 in float32.
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=3e-5)


def test_batch_norm_of_a_constant_channel_is_finite():
    # Here the rounded mean of the squares is less than the square of the mean, by 8.
    y, mean, variance = jax.jit(normalize_batch)(jnp.full((4, 8, 8, 1), 3333.3), jnp.ones(1), jnp.zeros(1))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(mean, 3333.3, rtol=1e-5)
    assert variance == 0


def windows(x):
    """The 3x3 windows at stride 2 of Caffe, cut off at the edge; by a loop."""
    n, height, width, _ = x.shape
    rows, columns = (int(np.ceil((size - 3) / 2)) + 1 for size in (height, width))
    return [
        [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].reshape(n, -1, x.shape[-1]) for j in range(columns)]
        for i in range(rows)
    ]


@pytest.mark.parametrize(
    ("size", "pooled"), [((32, 32), (16, 16)), ((16, 8), (8, 4)), ((7, 4), (3, 2)), ((2, 3), (1, 1))]
)
def test_pooling_equals_loops_over_windows_cut_off_at_the_edge(size, pooled):
    x = random_array(2, *size, 3)
    found = jax.jit(lambda x: (max_pool(x), avg_pool(x)))(x)
    assert found[0].shape == found[1].shape == (2, *pooled, 3)
    expected = np.stack([np.stack([w.max(axis=1) for w in row], axis=1) for row in windows(x)], axis=1)
    np.testing.assert_array_equal(found[0], expected)
    expected = np.stack([np.stack([w.mean(axis=1) for w in row], axis=1) for row in windows(x)], axis=1)
    np.testing.assert_allclose(found[1], expected, rtol=1e-5, atol=1e-6)


def test_pooling_has_the_gradients_of_reduce_window():
    x, weights = random_array(2, 8, 8, 3), random_array(2, 4, 4, 3, seed=1)

    def reduce_window(x):
        padding = ((0, 0), (0, 1), (0, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * max_pool(x))))(x)
    expected = jax.jit(jax.grad(lambda x: jnp.sum(weights * reduce_window(x))))(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_local_response_norm_equals_a_loop_over_neighbourhoods():
    x = 30 * random_array(2, 5, 4, 3)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.empty_like(x)
    for i in range(5):
        for j in range(4):
            squares = (padded[:, i : i + 3, j : j + 3] ** 2).sum(axis=(1, 2))
            expected[:, i, j] = x[:, i, j] / (1 + 0.01 / 9 * squares) ** 0.75
    found = jax.jit(lambda x: local_response_norm(x, alpha=0.01))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
