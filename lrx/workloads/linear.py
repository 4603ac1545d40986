"""Models that are linear in their parameters: logistic regression on tables and on sparse features, least squares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training import Batches, Evaluation, Workload

Examples = tuple[np.ndarray, np.ndarray]  # inputs, targets


def make_breast_cancer_workload(*, batch_size: int = 32) -> Workload:
    """Build logistic regression on scikit-learn's bundled breast cancer table: 569 examples of 30 features.

    Features have zero mean and unit variance on the training examples; every fifth example is a test example.

    Raises:
      ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError as error:
        raise ImportError('the table comes with scikit-learn: pip install "lrx[papers]".') from error
    bundle = load_breast_cancer()
    is_test = np.arange(len(bundle.data)) % 5 == 0
    train = bundle.data[~is_test]
    features = ((bundle.data - train.mean(axis=0)) / train.std(axis=0)).astype(np.float32)
    labels = bundle.target.astype(np.int32)
    parts = (features[~is_test], labels[~is_test]), (features[is_test], labels[is_test])
    return _workload("breast_cancer-logistic", *parts, 30, batch_size, lambda w, x: x @ w, _logistic)


def make_sparse_workload(
    *,
    num_features: int = 2000,
    active: int = 20,
    num_train: int = 8000,
    num_test: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build logistic regression on sparse binary features whose frequencies follow Zipf's law.

    Each example has `active` features, drawn with probabilities proportional to 1 / (rank + 10). The true weights of
    all of them come from one distribution, w_i ~ N(0, 1), and one label in twenty is wrong. So the features that
    separate the classes are mostly rare ones: the case for which AdaGrad was designed.

    Args:
      num_features: number of features.
      active: features of an example; one that is drawn twice counts twice.
      num_train: number of training examples.
      num_test: number of test examples.
      batch_size: examples in a minibatch.
      seed: seed of the data.
    """
    rng = np.random.default_rng(seed)
    frequencies = 1 / (np.arange(num_features) + 10.0)
    number = num_train + num_test
    places = rng.choice(num_features, (number, active), p=frequencies / frequencies.sum()).astype(np.int32)
    labels = rng.normal(size=num_features)[places].sum(axis=1) > 0
    labels = (labels ^ (rng.random(number) < 0.05)).astype(np.int32)
    parts = (places[:num_train], labels[:num_train]), (places[num_train:], labels[num_train:])
    return _workload("sparse-logistic", *parts, num_features, batch_size, lambda w, x: w[x].sum(axis=-1), _logistic)


def make_least_squares_workload(
    *,
    num_features: int = 100,
    power: float = 2.0,
    noise: float = 0.1,
    num_train: int = 4000,
    num_test: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build least squares, f(w) = mean((x.w - y)^2) / 2, with a power law of eigenvalues.

    The features are normal with a covariance of eigenvalues i^-power, i = 1 ... d, in random directions, so that the
    condition number is d^power; y = x.w* + noise, w* ~ N(0, I).

    Args:
      num_features: d.
      power: exponent of the power law.
      noise: standard deviation of the noise of y, so that no w has a loss below noise^2 / 2.
      num_train: number of training examples.
      num_test: number of test examples.
      batch_size: examples in a minibatch.
      seed: seed of the data.
    """
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(num_features, num_features)))[0]
    scales = np.arange(1, num_features + 1.0) ** (-power / 2)
    number = num_train + num_test
    features = (rng.normal(size=(number, num_features)) * scales) @ directions
    targets = features @ rng.normal(size=num_features) + noise * rng.normal(size=number)
    features, targets = features.astype(np.float32), targets.astype(np.float32)
    parts = (features[:num_train], targets[:num_train]), (features[num_train:], targets[num_train:])
    return _workload("least_squares", *parts, num_features, batch_size, lambda w, x: x @ w, _squared)


def _logistic(scores: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    losses = optax.sigmoid_binary_cross_entropy(scores, labels.astype(jnp.float32))
    return {"loss": losses.mean(), "accuracy": ((scores > 0) == (labels > 0)).mean()}


def _squared(scores: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    return {"loss": 0.5 * jnp.mean((scores - targets) ** 2)}


def _workload(
    name: str,
    train: Examples,
    test: Examples,
    num_features: int,
    batch_size: int,
    scores: Callable[[jax.Array, jax.Array], jax.Array],
    measures: Callable[[jax.Array, jax.Array], dict[str, jax.Array]],
) -> Workload:
    """Build the workload of a model with one weight for each feature and a bias, all 0 at the start."""

    def measure(params: Any, batch: Any) -> dict[str, jax.Array]:
        return measures(scores(params["weights"], batch[0]) + params["bias"], batch[1])

    return Workload.from_functions(
        lambda params, batch, key: measure(params, batch)["loss"],  # noqa: ARG005
        lambda key: {"weights": jnp.zeros(num_features), "bias": jnp.zeros([])},  # noqa: ARG005
        Batches(train, batch_size),
        name=name,
        evaluate=Evaluation(measure, test),
    )
