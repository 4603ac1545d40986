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
