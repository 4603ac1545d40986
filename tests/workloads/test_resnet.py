"""The residual networks: their sizes, their shortcuts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_images import number_of_parameters, random_array

from lrx.workloads.resnet import ResidualBlock, ResNet, shortcut


@pytest.mark.parametrize(
    ("depth", "published_millions", "digits"),
    [(20, 0.27, 2), (32, 0.46, 2), (44, 0.66, 2), (56, 0.85, 2), pytest.param(110, 1.7, 1, marks=pytest.mark.slow)],
)
def test_resnet_has_the_published_number_of_parameters(depth, published_millions, digits):
    number = number_of_parameters(lambda: ResNet((32, 32, 3), 10, depth=depth, rngs=nnx.Rngs(0)))
    assert round(number / 1e6, digits) == published_millions


def test_resnet20_has_the_number_of_parameters_counted_by_hand():
    stages = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    number = number_of_parameters(lambda: ResNet((32, 32, 3), 10, depth=20, rngs=nnx.Rngs(0)))
    assert number == stages + norms + 64 * 10 + 10


@pytest.mark.parametrize("depth", [2, 19, 21])
def test_resnet_refuses_a_depth_that_is_not_of_the_family(depth):
    with pytest.raises(ValueError, match=f"depth must be 6 n \\+ 2 with n >= 1, got depth={depth}"):
        ResNet((8, 8, 1), 10, depth=depth, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 2)])
def test_shortcut_keeps_every_stride_th_pixel_and_fills_new_channels_with_zeros(channels, stride):
    x = random_array(2, 8, 8, 16)
    out = np.asarray(shortcut(x, channels, stride))
    assert out.shape == (2, 8 // stride, 8 // stride, channels)
    np.testing.assert_array_equal(out[..., :16], x[:, ::stride, ::stride])
    assert not out[..., 16:].any()


@pytest.mark.slow
def test_a_block_whose_residual_is_zero_is_its_shortcut():
    block = ResidualBlock(16, 32, 2, rngs=nnx.Rngs(0))
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    x = np.abs(random_array(2, 8, 8, 16))
    np.testing.assert_array_equal(block(x, train=True), shortcut(x, 32, 2))


@pytest.mark.slow
def test_a_convolution_of_stride_2_is_centred_on_the_pixels_that_the_shortcut_keeps():
    block = ResidualBlock(16, 32, 2, rngs=nnx.Rngs(0))
    block.conv1.kernel[...] = jnp.zeros((3, 3, 16, 32)).at[1, 1, :, :16].set(jnp.eye(16))
    x = random_array(2, 8, 8, 16)
    np.testing.assert_allclose(block.conv1(x)[..., :16], x[:, ::2, ::2], rtol=1e-6)


@pytest.mark.slow
def test_without_shortcuts_a_block_whose_residual_is_zero_is_zero():
    block = ResidualBlock(16, 32, 2, shortcuts=False, rngs=nnx.Rngs(0))
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    assert not np.asarray(block(np.abs(random_array(2, 8, 8, 16)), train=True)).any()


def test_resnet_without_shortcuts_has_none_in_any_block():
    network = nnx.eval_shape(lambda: ResNet((8, 8, 1), 10, depth=14, shortcuts=False, rngs=nnx.Rngs(0)))
    assert not any(getattr(network, name).shortcuts for name in network.block_names)
