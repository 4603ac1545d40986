"""Data sets and Flax models, put together as `Workload` objects that `lrx.training.train` takes.

>>> from lrx.workloads import make_workload
>>> workload = make_workload("digits", "mlp", batch_size=64, widths=(32,))
>>> workload.name
'digits-mlp'
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lrx import _checks
from lrx.training import Batches, Workload
from lrx.workloads.datasets import Dataset, load
from lrx.workloads.models import MODELS

Params = Any  # nested dicts of float32 arrays
ModelState = Any  # the same of batch-norm statistics; empty where a model has none
AUGMENTED = frozenset({"cifar10"})  # the data sets whose labels survive a shift and a mirror
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
      data: "digits", "mnist" or "cifar10".
      model: a name in `lrx.workloads.models.MODELS`.
      batch_size: examples in a minibatch.
      data_dir: folder of the data set's files; see `lrx.workloads.datasets.load`.
      augment: shift the training images by up to 4 pixels and mirror every other one, at random; by default for
        cifar10 only.
      **model_options: arguments of the model, such as `widths=(64, 64)` of the perceptron.

    Returns:
      A `Workload`, whose parameters are nested dicts of float32 arrays.

    Raises:
      ValueError: if a name is unknown, or `batch_size` exceeds the number of training images.
    """
    _known("model", model, MODELS)
    _known("data", data, ("cifar10", "digits", "mnist"))
    augment = data in AUGMENTED if augment is None else augment
    dataset = load(data, data_dir)
    return dataset_workload(dataset, model, batch_size=batch_size, augment=augment, **model_options)


def dataset_workload(
    dataset: Dataset, model: str, *, batch_size: int = 128, augment: bool = False, **model_options: Any
) -> Workload:
    """Build the workload of training `model` on images that are already in memory; see `make_workload`."""
    architecture = MODELS[_known("model", model, MODELS)]
    _checks.steps("batch_size", batch_size)
    if batch_size > len(dataset.train_images):
        raise ValueError(
            f"batch_size must be at most the {len(dataset.train_images)} training images of {dataset.name}, "
            f"got batch_size={batch_size}: make it smaller."
        )
    image_shape = dataset.train_images.shape[1:]
    if architecture.pixels == "centred":
        mean, scale = np.mean(dataset.train_images, axis=0, dtype=np.float64), np.ones(())
    else:
        mean, scale = np.asarray(dataset.mean), np.asarray(dataset.std)
    prepare = pixel_transform(mean, scale, max_shift=MAX_SHIFT if augment else 0, mirror=augment)
    batches = Batches(
        (jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)), batch_size, transform=prepare
    )

    def build(key: jax.Array) -> nnx.Module:
        return architecture.build(image_shape, dataset.num_classes, rngs=nnx.Rngs(key), **model_options)

    graph_definition = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        _, params, rest = nnx.split(build(key), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def loss_fn(
        params: Params, model_state: ModelState, batch: Any, key: jax.Array
    ) -> tuple[jax.Array, ModelState]:
        del key  # no model here is random
        images, labels = batch
        network = nnx.merge(graph_definition, params, model_state)
        losses = _cross_entropy(network(images, train=True), labels)
        return jnp.mean(losses), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    def logits_fn(params: Params, model_state: ModelState, images: jax.Array) -> jax.Array:
        return nnx.merge(graph_definition, params, model_state)(images, train=False)

    evaluate = _evaluation(
        logits_fn, pixel_transform(mean, scale), dataset.test_images, dataset.test_labels, EVALUATION_CHUNK
    )
    return Workload(f"{dataset.name}-{model}", init, loss_fn, batches, evaluate)


def pixel_transform(
    mean: np.ndarray, scale: np.ndarray, *, max_shift: int = 0, mirror: bool = False
) -> Callable[[Any, jax.Array], Any]:
    """Make the transform of a raw minibatch into network input: `(pixels - mean) / scale`, shifted and mirrored.

    Each image is shifted by whole pixels drawn from -max_shift..max_shift, up or down and left or right, and
    mirrored with probability 1/2 (pad 4, random crop and flip of He et al. 2015 is `max_shift=4, mirror=True`).
    What enters from outside is 0 after normalisation, the mean colour.

    Args:
      mean: subtracted from the pixels, by channel or by pixel and channel.
      scale: divides the difference; the same shapes.
      max_shift: in pixels; 0 shifts nothing.
      mirror: whether to mirror.

    Returns:
      `transform((images, labels), key) -> (float32 images, labels)`, a pure function.
    """
    centre, gain = jnp.asarray(mean, jnp.float32), jnp.asarray(1 / scale, jnp.float32)

    def transform(raw: Any, key: jax.Array) -> Any:
        images, labels = raw
        x = (images.astype(jnp.float32) - centre) * gain
        if max_shift or mirror:
            x = shift_and_mirror(x, key, max_shift=max_shift, mirror=mirror)
        return x, labels

    return transform


def shift_and_mirror(images: jax.Array, key: jax.Array, *, max_shift: int, mirror: bool) -> jax.Array:
    """Shift each image by random whole pixels, zeros coming in, and mirror every other one."""
    n, height, width, _ = images.shape
    row_key, column_key, mirror_key = jax.random.split(key, 3)
    down = jax.random.randint(row_key, (n, 1), -max_shift, max_shift + 1)
    right = jax.random.randint(column_key, (n, 1), -max_shift, max_shift + 1)
    rows, columns = jnp.arange(height) + down, jnp.arange(width) + right
    if mirror:
        columns = jnp.where(jax.random.bernoulli(mirror_key, 0.5, (n, 1)), columns[:, ::-1], columns)
    # One-hot matrices select rows and columns; an index outside of the image selects nothing, hence zeros. Matrix
    # products are fast everywhere, where gathers of single pixels are not.
    select_rows = jax.nn.one_hot(rows, height, dtype=images.dtype)
    select_columns = jax.nn.one_hot(columns, width, dtype=images.dtype)
    x = jnp.einsum("nih,nhwc->niwc", select_rows, images, precision="highest")
    return jnp.einsum("njw,niwc->nijc", select_columns, x, precision="highest")


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def _evaluation(
    logits_fn: Callable[[Params, ModelState, jax.Array], jax.Array],
    prepare: Callable[[Any, jax.Array], Any],
    images: np.ndarray,
    labels: np.ndarray,
    chunk: int,
) -> Callable[[Params, ModelState], dict[str, jax.Array]]:
    """Make the mean loss and accuracy over all of `images`, a chunk at a time in one compiled loop."""
    total = len(images)
    chunk = min(chunk, total)
    missing = -total % chunk

    # The last chunk is filled up with images that count for nothing.
    def chunked(x: np.ndarray) -> jax.Array:
        padded = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
        return jnp.asarray(padded.reshape(-1, chunk, *x.shape[1:]))

    counted = chunked(np.ones(total, np.float32))
    test_set = chunked(images), chunked(labels), counted
    key = jax.random.key(0)  # `prepare` draws nothing here

    @jax.jit
    def sums(params: Params, model_state: ModelState, test_set: Any) -> dict[str, jax.Array]:
        def one_chunk(part: Any) -> tuple[jax.Array, jax.Array]:
            images, labels, counts = part
            x, labels = prepare((images, labels), key)
            logits = logits_fn(params, model_state, x)
            hits = jnp.argmax(logits, axis=-1) == labels
            return jnp.sum(counts * _cross_entropy(logits, labels)), jnp.sum(counts * hits)

        losses, hits = jax.lax.map(one_chunk, test_set)
        return {"loss": jnp.sum(losses) / total, "accuracy": jnp.sum(hits) / total}

    def evaluate(params: Params, model_state: ModelState) -> dict[str, jax.Array]:
        return sums(params, model_state, test_set)

    return evaluate


def _known(argument: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{argument} must be one of {', '.join(names)}, got {argument}={name!r}: did you mean {nearest!r}?"
        )
    return name
