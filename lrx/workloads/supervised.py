"""Small networks on examples with targets, combined into `Workload` objects with one of a few losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads._network import Network

Examples = tuple[np.ndarray, np.ndarray]  # inputs, targets
Measure = Callable[[jax.Array, jax.Array], dict[str, jax.Array]]  # (outputs, targets) -> results, one of them "loss"


def make_supervised_workload(
    name: str, network: Network, train: Examples, test: Examples, measure: Measure, *, batch_size: int
) -> Workload:
    """Build the workload of fitting a network to targets.

    Args:
      name: name of the workload.
      network: the network.
      train: training inputs and targets.
      test: those that `evaluate` measures.
      measure: `(outputs, targets) -> {name: scalar}`; its "loss" is minimized.
      batch_size: examples in a minibatch.
    """

    def measure_on(params: Any, examples: Any) -> dict[str, jax.Array]:
        inputs, targets = examples
        return measure(network.apply(params, inputs), targets)

    return Workload.from_functions(
        lambda params, batch, key: measure_on(params, batch)["loss"],  # noqa: ARG005
        network.init,
        Batches(train, batch_size),
        name=name,
        evaluate=Evaluation(measure_on, test),
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Return the mean cross-entropy of (n, classes) logits, in nats, and the accuracy."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"loss": losses.mean(), "accuracy": (logits.argmax(axis=-1) == labels).mean()}


def error_in_percent(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Return the mean cross-entropy of (n, classes) logits, in nats, and the `error`, in percent."""
    found = cross_entropy(logits, labels)
    return {"loss": found["loss"], "error": 100 * (1 - found["accuracy"])}


def binary_cross_entropy(scores: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Return the mean logistic loss of (n,) scores and labels 0 or 1, in nats, and the accuracy."""
    losses = optax.sigmoid_binary_cross_entropy(scores, labels.astype(jnp.float32))
    return {"loss": losses.mean(), "accuracy": ((scores > 0) == (labels > 0)).mean()}


def squared_error(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Return half the mean squared difference of outputs and targets of the same shape."""
    return {"loss": 0.5 * jnp.mean((outputs - targets) ** 2)}


def absolute_error(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Return the mean absolute difference of outputs and targets of the same shape."""
    return {"loss": jnp.mean(jnp.abs(outputs - targets))}
