"""Images shrunk to few pixels, as standardized arrays for small networks."""

from __future__ import annotations

import numpy as np

from lrx.workloads._dataset import Dataset
from lrx.workloads.supervised import Examples


def shrink(dataset: Dataset, factor: int = 1, *, crop: int = 0) -> tuple[Examples, Examples]:
    """Return training and test images whose pixels are means over blocks, with zero mean and unit variance by channel.

    Args:
      dataset: the images.
      factor: side of the blocks, which divides the sides of the images.
      crop: pixels to cut off at each side first.

    Returns:
      Two pairs of images, (n, height, width, channels) float32, and labels, (n,) int32.

    Example:
      >>> from lrx.workloads.datasets import load
      >>> from lrx.workloads.pixels import shrink
      >>> (images, labels), test = shrink(load("digits"), 2)
      >>> images.shape, round(float(images.std()), 3)
      ((1437, 4, 4, 1), 1.0)
    """

    def blocks(images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1] - 2 * crop, images.shape[2] - 2 * crop
        kept = images[:, crop : crop + height, crop : crop + width].astype(np.float64)
        shape = len(kept), height // factor, factor, width // factor, factor, kept.shape[-1]
        return kept.reshape(shape).mean(axis=(2, 4))

    train, test = blocks(dataset.train_images), blocks(dataset.test_images)
    mean, deviation = train.mean(axis=(0, 1, 2)), train.std(axis=(0, 1, 2))
    scaled = [((images - mean) / deviation).astype(np.float32) for images in (train, test)]
    return (scaled[0], dataset.train_labels), (scaled[1], dataset.test_labels)


def flatten(examples: Examples) -> Examples:
    """Return images as rows, and their labels."""
    images, labels = examples
    return images.reshape(len(images), -1), labels
