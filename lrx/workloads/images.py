"""Image data sets and the classifiers that are trained on them, combined into `Workload` objects."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lrx import _checks
from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.datasets import Dataset, load
from lrx.workloads.models import MODELS

Params = Any  # nested dicts of float32 arrays
ModelState = Any  # the same of batch-norm statistics; empty if a model has none
MAX_SHIFT = 4  # pixels
EVALUATION_CHUNK = 500


def make_workload(
    data: str,
    model: str,
    *,
    batch_size: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
    augment: bool | None = None,
    **model_options: Any,
) -> Workload:
    """Build the workload of training `model` on `data`: cross-entropy loss, test loss and test accuracy.

    The images stay on the device as uint8; normalisation and augmentation run inside the compiled step.

    Args:
      data: a name in `lrx.workloads.datasets.DATASETS`, such as "digits"; `lrx names` lists them.
      model: a name in `lrx.workloads.models.MODELS`, such as "mlp"; `lrx names` lists them.
      batch_size: examples in a minibatch.
      data_dir: folder of the data set's files; see `lrx.workloads.datasets.load`.
      augment: whether to shift the training images by up to 4 pixels and mirror half of them, at random; by default
        if the labels of the data set allow it, as those of cifar10 do.
      **model_options: arguments of the model, such as `widths=(64, 64)` of the perceptron.

    Returns:
      A `Workload`, whose parameters are nested dicts of float32 arrays.

    Raises:
      ValueError: if a name is unknown, or `batch_size` exceeds the number of training images.
    """
    _checks.known("model", model, MODELS)
    dataset = load(data, data_dir)
    augment = dataset.augment if augment is None else augment
    return dataset_workload(dataset, model, batch_size=batch_size, augment=augment, **model_options)


def dataset_workload(
    dataset: Dataset,
    model: str,
    *,
    batch_size: int = 128,
    augment: bool = False,
    evaluate_on: Sequence[str] = ("test",),
    **model_options: Any,
) -> Workload:
    """Build the workload of training `model` on images that are already in memory.

    Args:
      dataset: the images and labels.
      model: a name in `lrx.workloads.models.MODELS`.
      batch_size: examples in a minibatch.
      augment: whether to shift the training images by up to 4 pixels and mirror half of them, at random.
      evaluate_on: the parts that `evaluate` measures, of "test" and "train"; all their images, as they are, without
        augmentation. Results on test images are called `loss` and `accuracy`, those on training images `train_loss`
        and `train_accuracy`. An empty sequence makes a workload without evaluation.
      **model_options: arguments of the model, such as `widths=(64, 64)` of the perceptron.

    Returns:
      A `Workload`, whose parameters are nested dicts of float32 arrays.

    Raises:
      ValueError: if a name is unknown, or `batch_size` exceeds the number of training images.
    """
    _checks.known("model", model, MODELS)
    for part in evaluate_on:
        _checks.known("evaluate_on", part, ("test", "train"))
    architecture = MODELS[model]
    # `init` holds these and not `dataset`, whose arrays could be changed, so that an equal workload is known as equal.
    image_shape, num_classes = dataset.train_images.shape[1:], dataset.num_classes
    if architecture.pixels == "centred":
        mean, scale = np.asarray(dataset.train_images.mean(axis=0, dtype=np.float64)), np.ones(1)
    else:
        # The statistics of a data set are those of pixels of 0..1.
        mean, scale = 255 * np.asarray(dataset.mean), 255 * np.asarray(dataset.std)
    prepare = pixel_transform(mean, scale, max_shift=MAX_SHIFT if augment else 0, mirror=augment)
    batches = Batches(
        (jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)), batch_size, transform=prepare
    )

    def build(key: jax.Array) -> nnx.Module:
        return architecture.build(image_shape, num_classes, rngs=nnx.Rngs(key), **model_options)

    graph_definition = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        network = build(key)
        return nnx.to_pure_dict(nnx.state(network, nnx.Param)), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def loss_fn(params: Params, model_state: ModelState, batch: Any, key: jax.Array) -> tuple[jax.Array, ModelState]:
        del key  # no model here is random
        images, labels = batch
        network = nnx.merge(graph_definition, params, model_state)
        losses = _cross_entropy(network(images, train=True), labels)
        return jnp.mean(losses), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def logits_fn(params: Params, model_state: ModelState, images: jax.Array) -> jax.Array:
        return nnx.merge(graph_definition, params, model_state)(images, train=False)

    parts = {
        "" if part == "test" else f"{part}_": (getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels"))
        for part in evaluate_on
    }
    evaluate = _evaluation(logits_fn, pixel_transform(mean, scale), parts) if parts else None
    return Workload(f"{dataset.name}-{model}", init, loss_fn, batches, evaluate)


def error_workload(dataset: Dataset, model: str, **options: Any) -> Workload:
    """Build a workload that evaluates the test error in percent, `error`, and the `training_loss` over all images.

    `options` are those of `dataset_workload`.
    """
    workload = dataset_workload(dataset, model, evaluate_on=("test", "train"), **options)

    def evaluate(params: Any, model_state: Any) -> dict[str, jax.Array]:
        assert workload.evaluate is not None
        found = workload.evaluate(params, model_state)
        return {"error": 100 * (1 - found["accuracy"]), "training_loss": found["train_loss"]}

    return dataclasses.replace(workload, evaluate=evaluate)


def pixel_transform(
    mean: np.ndarray, scale: np.ndarray, *, max_shift: int = 0, mirror: bool = False
) -> Callable[[Any, jax.Array], Any]:
    """Return the transform of a raw minibatch into a network's input, `(pixels - mean) / scale`, with augmentation.

    Each image is shifted by whole pixels drawn from -max_shift..max_shift, up or down and left or right, and mirrored
    with probability 1/2. So `max_shift=4, mirror=True` is the padding by 4, random crop and flip of He et al. (2015).
    Pixels from outside the image are 0 after normalisation, the mean colour.

    Args:
      mean: subtracted from the pixels; by channel, or by pixel and channel.
      scale: divides the difference; any shape that broadcasts.
      max_shift: largest shift in pixels; 0 for none.
      mirror: whether to mirror.

    Returns:
      `transform((images, labels), key) -> (float32 images, labels)`, a pure function. Without shift and mirror it
      draws nothing.
    """
    # (1, 1 or height, 1 or width, channels)
    centre, gain = (np.float32(x).reshape((1,) * (4 - x.ndim) + x.shape) for x in (mean, 1 / scale))

    def transform(raw: Any, key: jax.Array) -> Any:
        images, labels = raw
        x = (images.astype(jnp.float32) - centre) * gain
        return (shift_and_mirror(x, key, max_shift=max_shift, mirror=mirror) if max_shift or mirror else x), labels

    return transform


def shift_and_mirror(images: jax.Array, key: jax.Array, *, max_shift: int, mirror: bool) -> jax.Array:
    """Shift each image by random whole pixels, filling with zeros, and mirror it with probability 1/2."""
    n, height, width, _ = images.shape
    down_key, right_key, mirror_key = jax.random.split(key, 3)
    down = jax.random.randint(down_key, (n, 1), -max_shift, max_shift + 1)
    right = jax.random.randint(right_key, (n, 1), -max_shift, max_shift + 1)
    rows, columns = jnp.arange(height)[None, :] + down, jnp.arange(width)[None, :] + right
    if mirror:
        columns = jnp.where(jax.random.bernoulli(mirror_key, shape=(n, 1)), columns[:, ::-1], columns)

    # One gather for shift and mirror, mapped over the batch, so that a batch that is split over devices stays split.
    def gather(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
        pixels = image.at[rows[:, None], columns]
        return pixels.get(mode="fill", fill_value=0, wrap_negative_indices=False)

    return jax.vmap(gather)(images, rows, columns)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def _evaluation(
    logits_fn: Callable[[Params, ModelState, jax.Array], jax.Array],
    prepare: Callable[[Any, jax.Array], Any],
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Evaluation:
    """Build the mean loss and accuracy over all images of each part, a chunk at a time in one compiled loop.

    Args:
      logits_fn: `(params, model_state, images) -> logits`.
      prepare: transform of raw images and labels, which draws nothing.
      parts: prefix of the names of the results to images and labels.
    """
    key = jax.random.key(0)

    def means(params: Params, model_state: ModelState, part: Any) -> dict[str, jax.Array]:
        def one_chunk(chunk: Any) -> tuple[jax.Array, jax.Array]:
            images, labels, counts = chunk
            x, labels = prepare((images, labels), key)
            logits = logits_fn(params, model_state, x)
            hits = jnp.argmax(logits, axis=-1) == labels
            return jnp.sum(counts * _cross_entropy(logits, labels)), jnp.sum(counts * hits)

        losses, hits = jax.lax.map(one_chunk, part)
        total = jnp.sum(part[2])
        return {"loss": jnp.sum(losses) / total, "accuracy": jnp.sum(hits) / total}

    def evaluate(params: Params, model_state: ModelState, parts: Any) -> dict[str, jax.Array]:
        return {
            f"{prefix}{name}": value
            for prefix, part in parts.items()
            for name, value in means(params, model_state, part).items()
        }

    return Evaluation(evaluate, {prefix: _in_chunks(*part) for prefix, part in parts.items()})


def _in_chunks(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, labels and weights with a leading axis of chunks; images that fill up the last one weigh 0."""
    chunk = min(EVALUATION_CHUNK, len(images))
    missing = -len(images) % chunk

    def split(x: np.ndarray) -> np.ndarray:
        padded = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
        return padded.reshape(-1, chunk, *x.shape[1:])

    return split(images), split(labels), split(np.ones(len(images), np.float32))
