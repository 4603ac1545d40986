"""Labels that are wrong, and classes that are rare."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.workloads.supervised import Examples


def mislabel(examples: Examples, share: float, *, seed: int = 0) -> Examples:
    """Return examples of which a share has a label drawn from all classes, which may be the right one.

    Args:
      examples: inputs and labels.
      share: probability of a drawn label, in [0, 1].
      seed: seed of the draws.
    """
    inputs, labels = examples
    rng = np.random.default_rng(seed)
    drawn = rng.integers(labels.max() + 1, size=len(labels))
    return inputs, np.where(rng.random(len(labels)) < share, drawn, labels).astype(labels.dtype)


def thin_out(examples: Examples, ratio: float) -> Examples:
    """Return examples whose classes become rarer: of class k a part of about `ratio`^k is kept, the first ones.

    Args:
      examples: inputs and labels.
      ratio: in (0, 1].
    """
    inputs, labels = examples
    kept = np.zeros(len(labels), bool)
    for label in range(labels.max() + 1):
        places = np.flatnonzero(labels == label)
        kept[places[: max(1, round(len(places) * ratio**label))]] = True
    return inputs[kept], labels[kept]


def by_class(num_classes: int) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Return the measure of `lrx.workloads.supervised` in which each class counts alike, however rare: `class_loss`.

    Args:
      num_classes: number of classes.
    """

    def measure(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        members = jax.nn.one_hot(labels, num_classes)
        means = losses @ members / jnp.maximum(members.sum(axis=0), 1)
        return {"loss": losses.mean(), "class_loss": means.mean()}

    return measure
