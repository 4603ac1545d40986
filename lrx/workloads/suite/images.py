"""Tasks on images of few pixels: architectures, wrong labels, and training that goes on with other images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads.datasets import load
from lrx.workloads.dense import perceptron
from lrx.workloads.fine_tuning import classes, make_fine_tuning_workload
from lrx.workloads.labels import by_class, mislabel, thin_out
from lrx.workloads.pixels import flatten, shrink
from lrx.workloads.small_attention import attention_network, patches
from lrx.workloads.small_convolution import convolutional_network, make_normalized_convolution_workload
from lrx.workloads.suite.task import DataDir, Task, accuracy_task, loss_task
from lrx.workloads.supervised import Examples, cross_entropy, make_supervised_workload


def _digits() -> tuple[Examples, Examples]:
    return shrink(load("digits"))


def _flat_digits() -> tuple[Examples, Examples]:
    train, test = _digits()
    return flatten(train), flatten(test)


def _mnist(data_dir: DataDir, num_train: int, num_test: int) -> tuple[Examples, Examples]:
    """Load the first images of MNIST, with 8x8 pixels."""
    train, test = shrink(load("mnist", data_dir).first(num_train, num_test), 3, crop=2)
    return flatten(train), flatten(test)


def _cifar10(data_dir: DataDir, num_train: int, num_test: int) -> tuple[Examples, Examples]:
    """Load the first images of CIFAR-10, with 8x8 pixels."""
    return shrink(load("cifar10", data_dir).first(num_train, num_test), 4)


def _convolution() -> Workload:
    network = convolutional_network(1)
    return make_supervised_workload("digits-convolution", network, *_digits(), cross_entropy, batch_size=32)


def _normalized_convolution(data_dir: DataDir) -> Workload:
    return make_normalized_convolution_workload("cifar10-convolution", *_cifar10(data_dir, 4000, 1000))


def _narrow() -> Workload:
    """Build eight hidden layers of 16 units."""
    network = perceptron((64, *[16] * 8, 10), jnp.tanh)
    return make_supervised_workload("digits-narrow", network, *_flat_digits(), cross_entropy, batch_size=32)


def _wide(data_dir: DataDir) -> Workload:
    train, test = _cifar10(data_dir, 4000, 1000)
    parts = flatten(train), flatten(test)
    return make_supervised_workload(
        "cifar10-perceptron", perceptron((192, 64, 64, 10)), *parts, cross_entropy, batch_size=32
    )


def _attention() -> Workload:
    (images, labels), (test_images, test_labels) = _digits()
    parts = (patches(images, 2, 2), labels), (patches(test_images, 2, 2), test_labels)
    return make_supervised_workload("digits-attention", attention_network(16, 4), *parts, cross_entropy, batch_size=32)


def _attention_on_rows(data_dir: DataDir) -> Workload:
    """Build attention without normalization; a token is a row of eight pixels."""
    (images, labels), (test_images, test_labels) = _mnist(data_dir, 4000, 2000)
    parts = (images.reshape(-1, 8, 8), labels), (test_images.reshape(-1, 8, 8), test_labels)
    network = attention_network(8, 8, norm=False)
    return make_supervised_workload("mnist-attention", network, *parts, cross_entropy, batch_size=32)


def _wrong_labels(data_dir: DataDir) -> Workload:
    train, test = _mnist(data_dir, 1000, 2000)
    parts = mislabel(train, 0.4), test
    return make_supervised_workload("mnist-mislabelled", perceptron((64, 64, 10)), *parts, cross_entropy, batch_size=32)


def _rare_classes() -> Workload:
    train, test = _flat_digits()
    network, parts = perceptron((64, 32, 10)), (thin_out(train, 0.75), test)
    return make_supervised_workload("digits-rare", network, *parts, by_class(10), batch_size=16)


def _new_classes() -> Workload:
    """Build fine-tuning on the digits 5 to 9 of a perceptron that knows 0 to 4; 100 images of them are for training."""
    train, test = _flat_digits()
    old, new = classes(train, 0, 4), classes(train, 5, 9)
    held_out = tuple(np.concatenate([a[100:], b]) for a, b in zip(new, classes(test, 5, 9), strict=True))
    few = new[0][:100], new[1][:100]
    return make_fine_tuning_workload("digits-new-classes", old, few, (held_out[0], held_out[1]))


def _other_images(data_dir: DataDir) -> Workload:
    """Build fine-tuning on the digits of scikit-learn of a perceptron that knows MNIST."""
    train, test = _flat_digits()
    few = train[0][:300], train[1][:300]
    held_out = np.concatenate([train[0][300:], test[0]]), np.concatenate([train[1][300:], test[1]])
    return make_fine_tuning_workload("mnist-to-digits", _mnist(data_dir, 4000, 1)[0], few, held_out)


def _small_inputs() -> Workload:
    """Build a perceptron on images with pixels of the order of 1e-3."""
    train, test = ((np.float32(1e-3) * images, labels) for images, labels in _flat_digits())
    network = perceptron((64, 32, 10), jax.nn.gelu)
    return make_supervised_workload("digits-small-inputs", network, train, test, cross_entropy, batch_size=32)


TASKS: dict[str, Task] = {
    "digits-convolution": loss_task("convolutions", _convolution, 300),
    "cifar10-convolution": Task(_normalized_convolution, 300, kind="convolutions"),
    "digits-narrow": loss_task("perceptrons", _narrow, 600),
    "cifar10-perceptron": Task(_wide, 500, kind="perceptrons"),
    "digits-attention": loss_task("attention", _attention, 300),
    "mnist-attention": Task(_attention_on_rows, 300, kind="attention"),
    "mnist-mislabelled": Task(_wrong_labels, 800, kind="labels"),
    "digits-rare": Task(lambda data_dir: _rare_classes(), 600, "class_loss", "min", "labels"),  # noqa: ARG005
    "digits-new-classes": accuracy_task("fine-tuning", _new_classes, 100),
    "mnist-to-digits": Task(_other_images, 200, "loss", "min", "fine-tuning"),
    "digits-small-inputs": loss_task("input scales", _small_inputs, 600),
}
