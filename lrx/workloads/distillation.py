"""A small network that learns the softened outputs of a larger model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples, make_supervised_workload


def make_distillation_workload(
    name: str,
    train: Examples,
    test: Examples,
    *,
    hidden: int = 16,
    temperature: float = 0.2,
    batch_size: int = 32,
) -> Workload:
    """Build a perceptron that learns the probabilities that a teacher gives, without the labels.

    The teacher is the regression of `ridge_scores`, fitted to the training labels; its probabilities are the softmax of
    its scores divided by the temperature.

    Args:
      name: name of the workload.
      train: training inputs, (n, features) float32, and their labels.
      test: those that `evaluate` measures.
      hidden: units of the perceptron's hidden layer.
      temperature: > 0; scores are of the order of 1.
      batch_size: examples in a minibatch.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531,
      equation 1, with soft targets only.
    """
    scores = ridge_scores(train, (train[0], test[0]))
    taught = [np.asarray(jax.nn.softmax(part / temperature)) for part in scores]
    network = perceptron((train[0].shape[1], hidden, taught[0].shape[1]))
    parts = (train[0], taught[0]), (test[0], taught[1])
    return make_supervised_workload(name, network, *parts, relative_entropy, batch_size=batch_size)


def ridge_scores(
    train: Examples, inputs: tuple[np.ndarray, ...], *, num_units: int = 256, penalty: float = 1.0, seed: int = 0
) -> list[np.ndarray]:
    """Return (n, classes) scores for each of `inputs`, by a ridge regression of one-hot labels on random ReLU units.

    Args:
      train: inputs, (n, features), and labels that are fitted.
      inputs: inputs of which scores are returned.
      num_units: number of units, whose weights have the variance 2 / features.
      penalty: of the sum of the squares of the coefficients.
      seed: seed of the weights.
    """
    features = train[0].shape[1]
    weights = np.random.default_rng(seed).normal(size=(features, num_units)) * np.sqrt(2 / features)

    def units(x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ weights, 0)

    seen, labels = units(train[0]), np.eye(int(train[1].max()) + 1)[train[1]]
    coefficients = np.linalg.solve(seen.T @ seen + penalty * np.eye(num_units), seen.T @ labels)
    return [(units(x) @ coefficients).astype(np.float32) for x in inputs]


def relative_entropy(logits: jax.Array, probabilities: jax.Array) -> dict[str, jax.Array]:
    """Return the mean of KL(p || q) in nats, of given probabilities p and q = softmax(logits), both (n, classes)."""
    logs = jnp.log(jnp.maximum(probabilities, 1e-30))
    return {"loss": jnp.mean(jnp.sum(probabilities * (logs - jax.nn.log_softmax(logits)), axis=1))}
