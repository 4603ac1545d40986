"""Caffe's network: its size, its layers in the published order, its input, and how it learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_images import number_of_parameters, random_array, small_dataset

from lrx.workloads import dataset_workload
from lrx.workloads._cpu_layers import avg_pool, local_response_norm, max_pool
from lrx.workloads.caffe import CaffeNet, caffe_gradient


def test_caffe_net_has_the_number_of_parameters_counted_by_hand():
    number = number_of_parameters(lambda: CaffeNet((32, 32, 3), 10, rngs=nnx.Rngs(0)))
    assert number == 25 * (3 * 32 + 32 * 32 + 32 * 64) + 128 + 4 * 4 * 64 * 10 + 10


@pytest.mark.slow
def test_caffe_net_refuses_other_numbers_of_widths_and_images_too_small_to_be_pooled():
    with pytest.raises(ValueError, match="widths must be three numbers of channels"):
        CaffeNet((8, 8, 1), 10, widths=(8, 8), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="image_shape must be at least"):
        CaffeNet((4, 4, 1), 10, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_caffe_net_equals_its_layers_in_the_published_order():
    model = CaffeNet((8, 8, 3), 10, widths=(4, 4, 4), rngs=nnx.Rngs(0))
    x = 100 * random_array(2, 8, 8, 3)

    def convolution(layer, x):
        kernel = 100 * layer.kernel[...]  # large, so that the normalisation is felt
        layer.kernel[...] = kernel
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    y = local_response_norm(jax.nn.relu(max_pool(convolution(model.conv1, x))))
    y = local_response_norm(avg_pool(jax.nn.relu(convolution(model.conv2, y))))
    y = avg_pool(jax.nn.relu(convolution(model.conv3, y)))
    expected = y.reshape(2, -1) @ model.output.kernel[...]
    np.testing.assert_allclose(model(x, train=True), expected, rtol=1e-4, atol=1e-6)


def test_caffe_net_sees_pixels_minus_the_mean_image():
    dataset = small_dataset()
    batches = dataset_workload(dataset, "caffe", batch_size=40).batches
    images, _ = batches.transform(batches.arrays, jax.random.key(0))
    pixels = dataset.train_images.astype(np.float64)
    np.testing.assert_allclose(images, pixels - pixels.mean(axis=0), atol=1e-4)


def test_caffe_gradient_doubles_biases_and_decays_the_last_layer_250_times():
    params = {name: {"kernel": jnp.full(2, 3.0), "bias": jnp.full(2, 5.0)} for name in ("conv1", "conv3", "output")}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = caffe_gradient(0.004)
    new, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(new["conv1"]["kernel"], 1 + 0.004 * 3, rtol=1e-6)
    np.testing.assert_allclose(new["conv1"]["bias"], 2 * (1 + 0.004 * 5), rtol=1e-6)
    np.testing.assert_allclose(new["conv3"]["bias"], 1 + 0.004 * 5, rtol=1e-6)
    np.testing.assert_allclose(new["output"]["kernel"], 1 + 250 * 0.004 * 3, rtol=1e-6)
    np.testing.assert_allclose(new["output"]["bias"], 2.0, rtol=1e-6)
