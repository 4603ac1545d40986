"""Models that are linear in their inputs: logistic regression, least squares and absolute deviations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.supervised import (
    Examples,
    absolute_error,
    binary_cross_entropy,
    make_supervised_workload,
    squared_error,
)
from lrx.workloads.tables import load_table, standardize


def make_breast_cancer_workload(*, batch_size: int = 32) -> Workload:
    """Build logistic regression on scikit-learn's bundled breast cancer table: 569 examples of 30 features.

    Features have zero mean and unit variance on the training examples; every fifth example is a test example.

    Raises:
      ImportError: if scikit-learn is not installed.
    """
    table = standardize(load_table("breast_cancer"))
    return make_supervised_workload(
        "breast_cancer-logistic", _dense(30), table.train, table.test, binary_cross_entropy, batch_size=batch_size
    )


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
    network = _linear(num_features, lambda w, x: w[x].sum(axis=-1))
    return make_supervised_workload("sparse-logistic", network, *parts, binary_cross_entropy, batch_size=batch_size)


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
    features, targets = _ill_conditioned(rng, num_train + num_test, num_features, power)
    targets = targets + noise * rng.normal(size=len(targets))
    parts = _split(features, targets, num_train)
    return make_supervised_workload("least_squares", _dense(num_features), *parts, squared_error, batch_size=batch_size)


def make_least_absolute_workload(
    *,
    num_features: int = 20,
    power: float = 1.0,
    noise: float = 0.2,
    num_train: int = 4000,
    num_test: int = 2000,
    batch_size: int = 4,
    seed: int = 0,
) -> Workload:
    """Build least absolute deviations, f(w) = mean |x.w - y|, whose gradient does not get smaller near the minimum.

    Features and true weights are those of `make_least_squares_workload`; the noise has Student's t distribution with
    two degrees of freedom, whose variance is infinite.

    Args:
      num_features: d.
      power: exponent of the power law of eigenvalues.
      noise: scale of the noise.
      num_train: number of training examples.
      num_test: number of test examples.
      batch_size: examples in a minibatch.
      seed: seed of the data.
    """
    rng = np.random.default_rng(seed)
    features, targets = _ill_conditioned(rng, num_train + num_test, num_features, power)
    targets = targets + noise * rng.standard_t(2, size=len(targets))
    parts = _split(features, targets, num_train)
    return make_supervised_workload(
        "least_absolute", _dense(num_features), *parts, absolute_error, batch_size=batch_size
    )


def make_factored_workload(
    *,
    num_features: int = 20,
    order: int = 2,
    initial: float = 1e-3,
    scale: float = 0.3,
    noise: float = 0.1,
    num_train: int = 4000,
    num_test: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build least squares in weights that are products, w = u_1 * u_2 * ... * u_order, each begun near 0.

    There the gradient nearly vanishes: for two factors, gradient descent makes those of a true weight w* grow by a
    factor 1 + rate scale^2 |w*| a step, so that the loss stays where it is for about
    log(1 / initial) / (rate scale^2 |w*|) steps, and then falls. Five of the true weights are 1 or -1, the others 0.

    Args:
      num_features: d, at least 5.
      order: number of factors.
      initial: standard deviation of the factors at the start, > 0.
      scale: standard deviation of the features.
      noise: standard deviation of the noise of the targets, so that no weights have a loss below noise^2 / 2.
      num_train: number of training examples.
      num_test: number of test examples.
      batch_size: examples in a minibatch.
      seed: seed of the data.
    """
    rng = np.random.default_rng(seed)
    features = scale * rng.normal(size=(num_train + num_test, num_features))
    truth = np.zeros(num_features)
    truth[:5] = rng.choice([-1.0, 1.0], 5)
    targets = features @ truth + noise * rng.normal(size=len(features))
    parts = _split(features, targets, num_train)
    network = Network(
        lambda key: {"factors": initial * jax.random.normal(key, (order, num_features))},
        lambda params, x: x @ jnp.prod(params["factors"], axis=0),
    )
    return make_supervised_workload("factored", network, *parts, squared_error, batch_size=batch_size)


def draw_unique_features(examples: int, positive: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw features, (n, 3 + 5 n), and labels of 1 and -1, (n,), that adaptive methods fit without learning from them.

    The first feature is the label, the next two are 1, and each example has features of its own: one if its label is 1,
    and five if it is -1.

    Args:
      examples: n.
      positive: the probability of a label of 1.
      key: of the labels.

    Source: A. C. Wilson et al., "The Marginal Value of Adaptive Gradient Methods in Machine Learning", NeurIPS 2017,
    arXiv:1705.08292, section 3.3.
    """
    labels = jnp.where(jax.random.uniform(key, (examples,)) < positive, 1.0, -1.0)
    own = jnp.where((jnp.arange(5)[None, :] == 0) | (labels[:, None] < 0), 1.0, 0.0)  # one, or five
    unique = (jnp.eye(examples)[:, :, None] * own[:, None, :]).reshape(examples, -1)
    return jnp.concatenate([labels[:, None], jnp.ones((examples, 2)), unique], axis=1), labels


def _ill_conditioned(
    rng: np.random.Generator, number: int, num_features: int, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw features with a power law of eigenvalues, and targets without noise."""
    directions = np.linalg.qr(rng.normal(size=(num_features, num_features)))[0]
    scales = np.arange(1, num_features + 1.0) ** (-power / 2)
    features = (rng.normal(size=(number, num_features)) * scales) @ directions
    return features, features @ rng.normal(size=num_features)


def _split(features: np.ndarray, targets: np.ndarray, num_train: int) -> tuple[Examples, Examples]:
    features, targets = features.astype(np.float32), targets.astype(np.float32)
    return (features[:num_train], targets[:num_train]), (features[num_train:], targets[num_train:])


def _dense(num_features: int) -> Network:
    return _linear(num_features, lambda w, x: x @ w)


def _linear(num_features: int, scores: Callable[[jax.Array, jax.Array], jax.Array]) -> Network:
    """Build a model with one weight for each feature and a bias, all 0 at the start."""
    return Network(
        lambda key: {"weights": jnp.zeros(num_features), "bias": jnp.zeros([])},  # noqa: ARG005
        lambda params, x: scores(params["weights"], x) + params["bias"],
    )
