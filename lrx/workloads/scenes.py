"""Images of which places are predicted: the class of each pixel, and where a small image lies on a canvas."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.small_convolution import convolve
from lrx.workloads.supervised import Examples


def segmentation_network(num_classes: int, *, widths: tuple[int, int] = (4, 8)) -> Network:
    """Build 3x3 convolutions with ReLU that return logits of each pixel, (n, height, width, num_classes).

    The logits are the sum of two convolutions: of the first layer, and of two more at half the resolution, whose pixels
    are repeated. Images are (n, height, width, 1) with even sides.

    Args:
      num_classes: number of classes of a pixel.
      widths: channels at the full and at half the resolution.

    Source: J. Long, E. Shelhamer, T. Darrell, "Fully convolutional networks for semantic segmentation", 2014,
      arXiv:1411.4038, section 4.2, with one shortcut and no trained interpolation.
    """
    full, half = widths
    shapes = [(9, full), (9 * full, half), (9 * half, half), (9 * half, num_classes), (9 * full, num_classes)]

    def apply(layers: Any, images: jax.Array) -> jax.Array:
        fine = jax.nn.relu(convolve(layers[0], images, 1))
        coarse = jax.nn.relu(convolve(layers[1], fine, 2))
        coarse = convolve(layers[3], jax.nn.relu(convolve(layers[2], coarse, 1)), 1)
        return convolve(layers[4], fine, 1) + jnp.repeat(jnp.repeat(coarse, 2, axis=1), 2, axis=2)

    return Network(lambda key: he_normal(key, shapes), apply)


def draw_scenes(number: int, rng: np.random.Generator, *, size: int = 10, noise: float = 0.5) -> Examples:
    """Draw images of a disc and a square with normal noise, and the class of each pixel.

    Both have the brightness 1 before a background of 0, and random radii and places; the square may hide the disc.

    Args:
      number: number of images.
      rng: generator of the numbers.
      size: side of an image.
      noise: standard deviation of the noise.

    Returns:
      Images (number, size, size, 1) and classes (number, size, size): 0 background, 1 disc, 2 square.
    """
    radii = rng.uniform(2.0, 3.5, size=(2, number, 1, 1))
    rows, columns = rng.uniform(2.0, size - 3.0, size=(2, 2, number, 1, 1))
    down = np.arange(size)[None, None, :, None] - rows
    right = np.arange(size)[None, None, None, :] - columns
    is_disc = down[0] ** 2 + right[0] ** 2 <= radii[0] ** 2
    is_square = np.maximum(np.abs(down[1]), np.abs(right[1])) <= 0.8 * radii[1]
    classes = np.where(is_square, 2, np.where(is_disc, 1, 0)).astype(np.int32)
    images = (classes > 0) + noise * rng.normal(size=classes.shape)
    return images.astype(np.float32)[..., None], classes


def location_network(size: int, *, width: int = 8) -> Network:
    """Build two 3x3 convolutions with stride 2 and ReLU, and a linear layer of all their outputs, for two numbers.

    Args:
      size: side of the images, a multiple of 4.
      width: channels of the convolutions.
    """
    shapes = [(9, width), (9 * width, width), ((size // 4) ** 2 * width, 2)]

    def apply(layers: Any, images: jax.Array) -> jax.Array:
        x = jax.nn.relu(convolve(layers[0], images, 2))
        x = jax.nn.relu(convolve(layers[1], x, 2))
        return affine(layers[2], x.reshape(len(x), -1))

    return Network(lambda key: he_normal(key, shapes), apply)


def place_images(images: np.ndarray, rng: np.random.Generator, *, size: int = 16, noise: float = 0.5) -> Examples:
    """Add each image to a canvas of normal noise, at a random place.

    Args:
      images: (n, height, width, 1), at most as large as the canvas.
      rng: generator of the numbers.
      size: side of the canvas.
      noise: standard deviation of the noise.

    Returns:
      Canvases (n, size, size, 1), and places (n, 2), row and column, from -1 to 1 between the extreme places.
    """
    room = np.array([size - images.shape[1], size - images.shape[2]])
    corners = rng.integers(room + 1, size=(len(images), 2))
    canvases = noise * rng.normal(size=(len(images), size, size, 1))
    for canvas, image, (row, column) in zip(canvases, images, corners, strict=True):
        canvas[row : row + image.shape[0], column : column + image.shape[1]] += image
    return canvases.astype(np.float32), (2 * corners / room - 1).astype(np.float32)
