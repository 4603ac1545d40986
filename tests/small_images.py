"""Random arrays and a small data set of images, which the tests of workloads share."""

import jax
import numpy as np
from flax import nnx

from lrx.workloads.datasets import Dataset


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


def grey_dataset(pixels=0, number=128, side=28, label=0):
    """Images of one grey, all of one class."""
    grey = np.full((number, side, side, 1), pixels, np.uint8)
    labels = np.full(number, label, np.int32)
    return Dataset("made-up", grey, labels, grey, labels, 10, np.zeros(1), np.ones(1))


def loss_of(workload, params, key=0):
    batch = workload.batches.transform(workload.batches.arrays, jax.random.key(0))
    return float(jax.jit(workload.loss_fn)(params, (), batch, jax.random.key(key))[0])
