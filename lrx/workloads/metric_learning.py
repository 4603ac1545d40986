"""Embeddings of images on a sphere that are learnt from comparisons: of two views, or of three images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples

KEPT = 0.7  # share of the pixels that a view keeps
NOISE = 0.3  # standard deviation of the noise of a view


def make_contrastive_workload(
    name: str,
    train: np.ndarray,
    test: np.ndarray,
    *,
    hidden: int = 32,
    width: int = 8,
    temperature: float = 0.2,
    batch_size: int = 32,
) -> Workload:
    """Build the workload of telling which two views are of one image; no label is used.

    A view has some pixels set to 0 and noise on the others. The loss is the cross-entropy of finding an image's second
    view among those of the minibatch, by the cosine of the embeddings divided by the temperature, both ways.

    Args:
      name: name of the workload.
      train: (n, pixels) float32, standardized.
      test: the same, which are evaluated in groups of `batch_size` with fixed views.
      hidden: units of the hidden layer.
      width: width of the embedding.
      temperature: > 0.
      batch_size: images in a minibatch.

    Source: T. Chen, S. Kornblith, M. Norouzi, G. Hinton, 2020, arXiv 2002.05709, section 2, with the negatives of the
      other view only.
    """
    network = perceptron((train.shape[1], hidden, width))

    def contrast(params: Any, first: jax.Array, second: jax.Array) -> jax.Array:
        cosines = _embed(network, params, first) @ _embed(network, params, second).T / temperature
        matches = jnp.diagonal(cosines)
        missed = jax.nn.logsumexp(cosines, axis=0) + jax.nn.logsumexp(cosines, axis=1)
        return jnp.mean(missed / 2 - matches)

    def loss_fn(params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        return contrast(params, *_views(images, key))

    def measure(params: Any, views: Any) -> dict[str, jax.Array]:
        return {"loss": jax.vmap(contrast, in_axes=(None, 0, 0))(params, *views).mean()}

    groups = len(test) // batch_size
    views = [np.asarray(view) for view in _views(jnp.asarray(test[: groups * batch_size]), jax.random.key(0))]
    held_out = tuple(view.reshape(groups, batch_size, -1) for view in views)
    evaluate = Evaluation(measure, held_out)
    return Workload.from_functions(loss_fn, network.init, Batches(train, batch_size), name=name, evaluate=evaluate)


def make_triplet_workload(
    name: str,
    train: Examples,
    test: Examples,
    *,
    hidden: int = 32,
    width: int = 3,
    margin: float = 0.3,
    num_train: int = 4000,
    num_test: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build the workload of putting an image nearer to one of its class than to one of another, by a margin.

    The loss is max(0, |a - p|^2 - |a - n|^2 + margin) of the embeddings on the unit circle or sphere.

    Args:
      name: name of the workload.
      train: training images, (n, pixels) float32, and their labels.
      test: those of which the evaluated triplets are made; their accuracy is the share that is ordered rightly.
      hidden: units of the hidden layer.
      width: width of the embedding.
      margin: > 0.
      num_train: number of training triplets.
      num_test: number of evaluated triplets.
      batch_size: triplets in a minibatch.
      seed: seed of the triplets.

    Source: F. Schroff, D. Kalenichenko, J. Philbin, 2015, arXiv 1503.03832, equation 3.
    """
    rng = np.random.default_rng(seed)
    network = perceptron((train[0].shape[1], hidden, width))

    def measure(params: Any, triplets: jax.Array) -> dict[str, jax.Array]:
        flat = triplets.reshape(-1, triplets.shape[-1])
        anchor, positive, negative = jnp.moveaxis(_embed(network, params, flat).reshape(-1, 3, width), 1, 0)
        gaps = jnp.sum((anchor - positive) ** 2 - (anchor - negative) ** 2, axis=-1)
        return {"loss": jax.nn.relu(gaps + margin).mean(), "accuracy": (gaps < 0).mean()}

    return Workload.from_functions(
        lambda params, batch, key: measure(params, batch)["loss"],  # noqa: ARG005
        network.init,
        Batches(draw_triplets(rng, *train, num_train), batch_size),
        name=name,
        evaluate=Evaluation(measure, draw_triplets(rng, *test, num_test)),
    )


def _embed(network: Any, params: Any, images: jax.Array) -> jax.Array:
    x = network.apply(params, images)
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def _views(images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    uniform, normal = jax.random.split(key)
    kept = jax.random.uniform(uniform, (2, *images.shape)) < KEPT
    seen = jnp.where(kept, images[None] + NOISE * jax.random.normal(normal, kept.shape), 0.0)
    return seen[0], seen[1]


def draw_triplets(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Draw (number, 3, pixels): an image, another of its class, and one of another class."""
    anchors = rng.integers(len(labels), size=number)
    scores = rng.random((number, len(labels)))
    same = labels[anchors][:, None] == labels[None]
    others = same.copy()
    others[np.arange(number), anchors] = False
    positives = np.where(others, scores, -1).argmax(axis=1)
    negatives = np.where(same, -1, scores).argmax(axis=1)
    return images[np.stack([anchors, positives, negatives], axis=1)]
