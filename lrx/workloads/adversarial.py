"""Classification of inputs that are moved against the network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples, cross_entropy


def make_adversarial_workload(
    name: str, train: Examples, test: Examples, *, size: float = 0.2, hidden: int = 32, batch_size: int = 32
) -> Workload:
    """Build the classification of inputs that are moved against the network, by the sign of the loss's gradient.

    Args:
      name: name of the workload.
      train: inputs, (n, features), and labels.
      test: those that are evaluated, moved too.
      size: how far each feature is moved.
      hidden: units of the hidden layer.
      batch_size: examples in a minibatch.

    Source: I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", 2015,
      arXiv:1412.6572, section 4, with moved inputs only.
    """
    network = perceptron((train[0].shape[1], hidden, int(train[1].max()) + 1))

    def measure(params: Any, examples: Any) -> dict[str, jax.Array]:
        inputs, labels = examples
        slopes = jax.grad(lambda x: cross_entropy(network.apply(params, x), labels)["loss"])(inputs)
        moved = jax.lax.stop_gradient(inputs + size * jnp.sign(slopes))
        return cross_entropy(network.apply(params, moved), labels)

    return Workload.from_functions(
        lambda params, batch, key: measure(params, batch)["loss"],  # noqa: ARG005
        network.init,
        Batches(train, batch_size),
        name=name,
        evaluate=Evaluation(measure, test),
    )
