"""The models and the workloads made of them: shapes, exact layers, statistics, augmentation, evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lrx.workloads import dataset_workload, make_workload, models, pixel_transform, shift_and_mirror
from lrx.workloads.datasets import Dataset
from lrx.workloads.models import (
    MLP,
    MODELS,
    BatchNorm,
    CaffeNet,
    ResidualBlock,
    ResNet,
    avg_pool,
    convolution,
    local_response_norm,
    max_pool,
    normalize_batch,
    shortcut,
)


def random_array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small_dataset(num_train=40, num_test=23, size=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_train + num_test, size, size, channels), dtype=np.uint8)
    labels = rng.integers(0, 10, num_train + num_test).astype(np.int32)
    mean, std = images[:num_train].mean(axis=(0, 1, 2)) / 255, images[:num_train].std(axis=(0, 1, 2)) / 255
    parts = images[:num_train], labels[:num_train], images[num_train:], labels[num_train:]
    return Dataset("small", *parts, 10, mean, std)


def number_of_parameters(build):
    return sum(x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param)))


# Networks


@pytest.mark.parametrize(
    ("depth", "published_millions", "digits"),
    [(20, 0.27, 2), (32, 0.46, 2), (44, 0.66, 2), (56, 0.85, 2), (110, 1.7, 1)],
)
def test_resnet_has_the_published_number_of_parameters(depth, published_millions, digits):
    number = number_of_parameters(lambda: ResNet((32, 32, 3), 10, depth=depth, rngs=nnx.Rngs(0)))
    assert round(number / 1e6, digits) == published_millions


def test_resnet20_has_the_number_of_parameters_counted_by_hand():
    stages = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    number = number_of_parameters(lambda: ResNet((32, 32, 3), 10, depth=20, rngs=nnx.Rngs(0)))
    assert number == stages + norms + 64 * 10 + 10


def test_caffe_net_has_the_number_of_parameters_counted_by_hand():
    number = number_of_parameters(lambda: CaffeNet((32, 32, 3), 10, rngs=nnx.Rngs(0)))
    assert number == 25 * (3 * 32 + 32 * 32 + 32 * 64) + 128 + 4 * 4 * 64 * 10 + 10


@pytest.mark.parametrize("name", ["mlp", "resnet8", "resnet20", "caffe"])
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


@pytest.mark.parametrize("depth", [2, 19, 21])
def test_resnet_refuses_a_depth_that_is_not_of_the_family(depth):
    with pytest.raises(ValueError, match=f"depth must be 6 n \\+ 2 with n >= 1, got depth={depth}"):
        ResNet((8, 8, 1), 10, depth=depth, rngs=nnx.Rngs(0))


def test_caffe_net_refuses_other_numbers_of_widths_and_images_too_small_to_be_pooled():
    with pytest.raises(ValueError, match="widths must be three numbers of channels"):
        CaffeNet((8, 8, 1), 10, widths=(8, 8), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="image_shape must be at least"):
        CaffeNet((4, 4, 1), 10, rngs=nnx.Rngs(0))


def test_initial_weights_have_the_published_standard_deviations():
    caffe = CaffeNet((32, 32, 3), 10, rngs=nnx.Rngs(0))
    for layer, std in [(caffe.conv1, 1e-4), (caffe.conv2, 0.01), (caffe.conv3, 0.01), (caffe.output, 0.01)]:
        np.testing.assert_allclose(np.std(layer.kernel[...]), std, rtol=0.05)
        assert not np.any(layer.bias[...])
    block = ResidualBlock(32, 64, 2, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(np.std(block.conv1.kernel[...]), np.sqrt(2 / (9 * 32)), rtol=0.05)
    np.testing.assert_allclose(np.std(block.conv2.kernel[...]), np.sqrt(2 / (9 * 64)), rtol=0.05)


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


# Layers


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (32, 2)])
def test_shortcut_keeps_every_stride_th_pixel_and_fills_new_channels_with_zeros(channels, stride):
    x = random_array(2, 8, 8, 16)
    out = np.asarray(shortcut(x, channels, stride))
    assert out.shape == (2, 8 // stride, 8 // stride, channels)
    np.testing.assert_array_equal(out[..., :16], x[:, ::stride, ::stride])
    assert not out[..., 16:].any()


def test_a_block_whose_residual_is_zero_is_its_shortcut():
    block = ResidualBlock(16, 32, 2, rngs=nnx.Rngs(0))
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    x = np.abs(random_array(2, 8, 8, 16))
    np.testing.assert_array_equal(block(x, train=True), shortcut(x, 32, 2))


def test_a_convolution_of_stride_2_is_centred_on_the_pixels_that_the_shortcut_keeps():
    block = ResidualBlock(16, 32, 2, rngs=nnx.Rngs(0))
    block.conv1.kernel[...] = jnp.zeros((3, 3, 16, 32)).at[1, 1, :, :16].set(jnp.eye(16))
    x = random_array(2, 8, 8, 16)
    np.testing.assert_allclose(block.conv1(x)[..., :16], x[:, ::2, ::2], rtol=1e-6)


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

    expected, pullback = jax.vjp(lax_convolution, x, kernel)
    out, ours = jax.vjp(lambda x, kernel: convolution(x, kernel, stride), x, kernel)
    np.testing.assert_array_equal(out, expected)
    dy = random_array(*expected.shape, seed=2)
    for gradients in (
        ours(dy),
        models._convolution_gradients_on_cpu(stride, x, kernel, dy),
        models._convolution_gradients(stride, x, kernel, dy),
    ):
        for gradient, wanted in zip(gradients, pullback(dy), strict=True):
            # Sums of up to 512 products of size 1 in float32, in another order.
            np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=3e-5)


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
    gradients = jax.grad(ours_loss, argnums=(0, 1, 2))(*arguments)
    expected = jax.grad(automatic_loss, argnums=(0, 1, 2))(*arguments)
    for gradient, wanted in zip(gradients, expected, strict=True):
        # Differences of sums over 144 values of size 1 in float32.
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=3e-5)


def test_batch_norm_of_a_constant_channel_is_finite():
    # Here the rounded mean of the squares is less than the square of the mean, by 8.
    y, mean, variance = normalize_batch(jnp.full((4, 8, 8, 1), 3333.3), jnp.ones(1), jnp.zeros(1))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(mean, 3333.3, rtol=1e-6)
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
    assert max_pool(x).shape == avg_pool(x).shape == (2, *pooled, 3)
    expected = np.stack([np.stack([w.max(axis=1) for w in row], axis=1) for row in windows(x)], axis=1)
    np.testing.assert_array_equal(max_pool(x), expected)
    expected = np.stack([np.stack([w.mean(axis=1) for w in row], axis=1) for row in windows(x)], axis=1)
    np.testing.assert_allclose(avg_pool(x), expected, rtol=1e-5, atol=1e-6)


def test_pooling_has_the_gradients_of_reduce_window():
    x, weights = random_array(2, 8, 8, 3), random_array(2, 4, 4, 3, seed=1)

    def reduce_window(x):
        padding = ((0, 0), (0, 1), (0, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    gradient = jax.grad(lambda x: jnp.sum(weights * max_pool(x)))(x)
    expected = jax.grad(lambda x: jnp.sum(weights * reduce_window(x)))(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_local_response_norm_equals_a_loop_over_neighbourhoods():
    x = 30 * random_array(2, 5, 4, 3)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.empty_like(x)
    for i in range(5):
        for j in range(4):
            squares = (padded[:, i : i + 3, j : j + 3] ** 2).sum(axis=(1, 2))
            expected[:, i, j] = x[:, i, j] / (1 + 0.01 / 9 * squares) ** 0.75
    np.testing.assert_allclose(local_response_norm(x, alpha=0.01), expected, rtol=1e-5)


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


# Pixels


def test_without_augmentation_pixels_are_standardized_and_the_key_does_not_matter():
    dataset = small_dataset()
    batches = dataset_workload(dataset, "mlp", batch_size=40).batches
    assert batches.arrays[0].dtype == jnp.uint8
    images, labels = batches.transform(batches.arrays, jax.random.key(0))
    np.testing.assert_allclose(np.mean(images, axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(images, axis=(0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels, dataset.train_labels)
    np.testing.assert_array_equal(images, batches.transform(batches.arrays, jax.random.key(1))[0])


def test_caffe_net_sees_pixels_minus_the_mean_image():
    dataset = small_dataset()
    batches = dataset_workload(dataset, "caffe", batch_size=40).batches
    images, _ = batches.transform(batches.arrays, jax.random.key(0))
    pixels = dataset.train_images.astype(np.float64)
    np.testing.assert_allclose(images, pixels - pixels.mean(axis=0), atol=1e-4)


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


def test_augment_is_on_for_cifar10_only_and_can_be_chosen(monkeypatch):
    monkeypatch.setattr("lrx.workloads.load", lambda name, data_dir: small_dataset()._replace(name=name))

    def is_random(**arguments):
        batches = make_workload(model="mlp", batch_size=40, **arguments).batches
        one, other = (batches.transform(batches.arrays, jax.random.key(seed))[0] for seed in (0, 1))
        return not np.array_equal(one, other)

    assert is_random(data="cifar10")
    assert not is_random(data="digits")
    assert not is_random(data="cifar10", augment=False)
    assert is_random(data="digits", augment=True)


# Workloads


@pytest.mark.parametrize(
    "model", ["mlp", pytest.param("resnet8", marks=pytest.mark.slow), pytest.param("caffe", marks=pytest.mark.slow)]
)
def test_parameters_are_nested_dicts_and_loss_is_the_mean_cross_entropy(model):
    workload = dataset_workload(small_dataset(), model, batch_size=40)
    params, model_state = workload.init(jax.random.key(0))
    for tree in (params, model_state):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        assert all(
            isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) for path in paths for key in path
        )
    batch = workload.batches.transform(workload.batches.arrays, jax.random.key(1))
    loss, new_state = jax.jit(workload.loss_fn)(params, model_state, batch, jax.random.key(2))
    assert jax.tree.structure(new_state) == jax.tree.structure(model_state)
    assert loss.dtype == jnp.float32

    network = MODELS[model].build((8, 8, 3), 10, rngs=nnx.Rngs(0))
    nnx.update(network, nnx.merge_state(*(nnx.State(tree) for tree in (params, model_state))))
    logits = np.asarray(network(batch[0], train=True), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loss, -log_probabilities[np.arange(40), batch[1]].mean(), rtol=1e-5)


def test_running_statistics_move_a_tenth_of_the_way_to_the_batch():
    workload = dataset_workload(small_dataset(), "resnet8", batch_size=40)
    params, model_state = workload.init(jax.random.key(0))
    images, labels = workload.batches.transform(workload.batches.arrays, jax.random.key(1))
    _, new_state = workload.loss_fn(params, model_state, (images, labels), jax.random.key(2))
    first = jax.lax.conv_general_dilated(
        images, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(new_state["norm"]["mean"], 0.1 * jnp.mean(first, axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new_state["norm"]["var"], 0.9 + 0.1 * jnp.var(first, axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(("model", "num_test"), [("mlp", 23), ("resnet8", 10), ("mlp", 10), ("mlp", 3)])
def test_evaluation_equals_a_loop_over_the_test_images(model, num_test, monkeypatch):
    monkeypatch.setattr("lrx.workloads.EVALUATION_CHUNK", 5)
    dataset = small_dataset(num_test=num_test)
    workload = dataset_workload(dataset, model, batch_size=40)
    params, model_state = workload.init(jax.random.key(0))
    model_state = jax.tree.map(lambda x: x + 0.5, model_state)  # running statistics unlike those of a batch
    network = MODELS[model].build((8, 8, 3), 10, rngs=nnx.Rngs(0))
    nnx.update(network, nnx.merge_state(*(nnx.State(tree) for tree in (params, model_state))))
    losses, hits = [], []
    for image, label in zip(dataset.test_images, dataset.test_labels, strict=True):
        x = (image / 255 - dataset.mean) / dataset.std
        logits = np.asarray(network(x[None].astype(np.float32), train=False)[0], np.float64)
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
        hits.append(logits.argmax() == label)
    result = workload.evaluate(params, model_state)
    assert set(result) == {"loss", "accuracy"}
    np.testing.assert_allclose(result["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(result["accuracy"], np.mean(hits), rtol=1e-6)


def test_images_that_fill_up_the_last_chunk_count_for_nothing(monkeypatch):
    monkeypatch.setattr("lrx.workloads.EVALUATION_CHUNK", 20)
    dataset = small_dataset(num_test=23)
    workload = dataset_workload(dataset, "mlp", batch_size=40)
    params, model_state = workload.init(jax.random.key(0))
    # Always class 0, the label of the filling.
    params["output"] = {"kernel": 0 * params["output"]["kernel"], "bias": jnp.zeros(10).at[0].set(1)}
    result = workload.evaluate(params, model_state)
    np.testing.assert_allclose(result["accuracy"], np.mean(dataset.test_labels == 0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_training_lowers_the_loss(model):
    workload = make_workload("digits", model, batch_size=64)
    arrays = jax.tree.map(lambda x: x[:256], workload.batches.arrays)
    params, model_state = workload.init(jax.random.key(0))
    tx = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, model_state, opt_state, key):
        batch = workload.batches.transform(arrays, key)
        gradient = jax.value_and_grad(workload.loss_fn, has_aux=True)
        (loss, model_state), grads = gradient(params, model_state, batch, key)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), model_state, opt_state, loss

    opt_state, losses = tx.init(params), []
    for number in range(60):
        params, model_state, opt_state, loss = step(params, model_state, opt_state, jax.random.key(number))
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_unknown_names_are_answered_with_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"mlp, resnet8, .* got model='rasnet20': did you mean 'resnet20'"):
        make_workload("digits", "rasnet20")
    with pytest.raises(ValueError, match=r"digits.* got name='digitz': did you mean 'digits'"):
        make_workload("digitz", "mlp")


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most"):
        dataset_workload(small_dataset(), "mlp", batch_size=41)
