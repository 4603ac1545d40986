"""Every classifier of the table: shapes, widths, initial values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_images import number_of_parameters, small_dataset

from lrx.workloads import dataset_workload
from lrx.workloads.caffe import CaffeNet
from lrx.workloads.mlp import MLP
from lrx.workloads.models import MODELS
from lrx.workloads.resnet import ResidualBlock

DEEP = ("resnet32", "resnet44", "resnet56", "resnet110")  # more of the same blocks


@pytest.mark.parametrize("name", [name for name in MODELS if name not in DEEP])
@pytest.mark.parametrize("image_shape", [(32, 32, 3), (8, 8, 1), (28, 28, 1)])
def test_every_model_takes_every_image_shape(name, image_shape):
    def logits():
        model = MODELS[name].build(image_shape, 7, rngs=nnx.Rngs(0))
        return model(jnp.zeros((2, *image_shape)), train=True), model(jnp.zeros((2, *image_shape)), train=False)

    train, test = jax.eval_shape(logits)
    assert train.shape == test.shape == (2, 7)
    assert train.dtype == test.dtype == jnp.float32


def test_models_of_smaller_widths():
    assert number_of_parameters(lambda: MLP((8, 8, 1), 10, widths=(), rngs=nnx.Rngs(0))) == 650
    number = number_of_parameters(lambda: CaffeNet((32, 32, 3), 10, widths=(8, 8, 16), rngs=nnx.Rngs(0)))
    assert number == 25 * (3 * 8 + 8 * 8 + 8 * 16) + 32 + 4 * 4 * 16 * 10 + 10


@pytest.mark.slow
def test_initial_weights_have_the_published_standard_deviations():
    caffe = CaffeNet((32, 32, 3), 10, rngs=nnx.Rngs(0))
    for layer, std in [(caffe.conv1, 1e-4), (caffe.conv2, 0.01), (caffe.conv3, 0.01), (caffe.output, 0.01)]:
        np.testing.assert_allclose(np.std(layer.kernel[...]), std, rtol=0.05)
        assert not np.any(layer.bias[...])
    block = ResidualBlock(32, 64, 2, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(np.std(block.conv1.kernel[...]), np.sqrt(2 / (9 * 32)), rtol=0.05)
    np.testing.assert_allclose(np.std(block.conv2.kernel[...]), np.sqrt(2 / (9 * 64)), rtol=0.05)


@pytest.mark.slow
def test_perceptron_draws_its_initial_values_from_the_fan_in_it_is_told():
    def initial(key, fan_in, shape):
        return fan_in + jax.random.uniform(key, shape)

    params, _ = dataset_workload(small_dataset(), "mlp", batch_size=4, widths=(16,), initial=initial).init(
        jax.random.key(0)
    )
    for name, fan_in, width in (("hidden1", 192, 16), ("output", 16, 10)):
        assert params[name]["kernel"].shape == (fan_in, width)
        for part in params[name].values():
            assert fan_in <= part.min() < part.max() < fan_in + 1
    assert params["output"]["bias"][0] != params["output"]["kernel"][0, 0]
