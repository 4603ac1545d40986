"""Networks that take noise away, from images and from points, whose density they learn, and that fill in pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import perceptron
from lrx.workloads.flow import two_moons


def make_denoising_workload(
    name: str, train: np.ndarray, test: np.ndarray, *, noise: float = 1.0, hidden: int = 32, batch_size: int = 32
) -> Workload:
    """Build the workload of recovering images from images with normal noise, by a perceptron.

    Args:
      name: name of the workload.
      train: (n, pixels) float32, standardized.
      test: the same, which are evaluated with fixed noise; the loss is half the mean square of the error of a pixel.
      noise: standard deviation of the noise.
      hidden: units of the hidden layer.
      batch_size: images in a minibatch.

    Source: P. Vincent, H. Larochelle, Y. Bengio, P. Manzagol, "Extracting and composing robust features with denoising
      autoencoders", ICML 2008, with normal noise.
    """
    network = perceptron((train.shape[1], hidden, train.shape[1]))

    def loss(params: Any, images: jax.Array, drawn: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((network.apply(params, images + noise * drawn) - images) ** 2)

    drawn = np.random.default_rng(0).normal(size=test.shape).astype(np.float32)
    return _workload(name, network.init, loss, jax.random.normal, train, (test, drawn), batch_size)


def make_masked_workload(
    name: str, train: np.ndarray, test: np.ndarray, *, hidden_share: float = 0.5, hidden: int = 32, batch_size: int = 32
) -> Workload:
    """Build the workload of predicting the hidden pixels of images from the others, by a perceptron.

    The network sees an image with hidden pixels set to 0, and which they are; others are hidden in each step. The loss
    is half the mean square of the error of a hidden pixel.

    Args:
      name: name of the workload.
      train: (n, pixels) float32, standardized.
      test: the same, which are evaluated with fixed hidden pixels.
      hidden_share: probability with which a pixel is hidden, in (0, 1).
      hidden: units of the hidden layer.
      batch_size: images in a minibatch.

    Source: K. He et al., "Masked autoencoders are scalable vision learners", 2021, arXiv:2111.06377, section 3, with
      single pixels and a perceptron.
    """
    pixels = train.shape[1]
    network = perceptron((2 * pixels, hidden, pixels))

    def loss(params: Any, images: jax.Array, drawn: jax.Array) -> jax.Array:
        is_hidden = (drawn < hidden_share).astype(images.dtype)
        found = network.apply(params, jnp.concatenate([images * (1 - is_hidden), is_hidden], axis=1))
        return 0.5 * jnp.sum(is_hidden * (found - images) ** 2) / jnp.maximum(is_hidden.sum(), 1)

    drawn = np.random.default_rng(0).random(size=test.shape).astype(np.float32)
    return _workload(name, network.init, loss, jax.random.uniform, train, (test, drawn), batch_size)


def make_energy_workload(
    *,
    noise: float = 0.3,
    hidden: int = 24,
    num_train: int = 4000,
    num_test: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build an energy E(x) of points of two moons, a scalar network that is trained by denoising score matching.

    The slope of the energy points away from where a point was before noise s z was added: the loss is
    mean |s grad E(x + s z) - z|^2 / 2, and its gradient goes through a gradient.

    Args:
      noise: s.
      hidden: units of each of the two hidden layers, of tanh.
      num_train: number of training points.
      num_test: number of points that are evaluated, with fixed noise.
      batch_size: points in a minibatch.
      seed: seed of the points.

    Source: P. Vincent, "A connection between score matching and denoising autoencoders", Neural Computation 23, 2011,
      equation 10, times s^2.
    """
    rng = np.random.default_rng(seed)
    train, test = two_moons(num_train, rng), two_moons(num_test, rng)
    drawn = rng.normal(size=test.shape).astype(np.float32)
    energy = perceptron((2, hidden, hidden, 1), jnp.tanh, scalar=True)

    def loss(params: Any, points: jax.Array, drawn: jax.Array) -> jax.Array:
        slopes = jax.grad(lambda x: energy.apply(params, x).sum())(points + noise * drawn)
        return 0.5 * jnp.mean(jnp.sum((noise * slopes - drawn) ** 2, axis=1))

    return _workload("moons-energy", energy.init, loss, jax.random.normal, train, (test, drawn), batch_size)


def _workload(
    name: str,
    init: Callable[..., Any],
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array],
    draw: Callable[..., jax.Array],
    train: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray],
    batch_size: int,
) -> Workload:
    """Build a workload whose loss is that of points and of numbers drawn for each.

    Args:
      name: name of the workload.
      init: key to initial parameters.
      loss: parameters, points and drawn numbers of their shape to the loss.
      draw: key and shape to drawn numbers, in each step.
      train: the points.
      held_out: the points that are evaluated, and the numbers that are drawn for them.
      batch_size: points in a minibatch.
    """

    def measure(params: Any, held_out: Any) -> dict[str, jax.Array]:
        return {"loss": loss(params, *held_out)}

    return Workload.from_functions(
        lambda params, points, key: loss(params, points, draw(key, points.shape)),
        init,
        Batches(train, batch_size),
        name=name,
        evaluate=Evaluation(measure, held_out),
    )
