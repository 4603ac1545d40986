"""Regression with other losses than squares: ordered grades, times until an event, quantiles, densities and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples, make_supervised_workload
from lrx.workloads.tables import Table


def make_ordinal_workload(table: Table, num_grades: int = 5, *, hidden: int = 16, batch_size: int = 16) -> Workload:
    """Build the regression of a grade on the features of a table, with cumulative logits.

    Grades are equally frequent parts of the range of the target. The probability of a grade above k is
    sigmoid(f(x) - t_k), with thresholds t_1 < t_2 < ... that are trained too.

    Args:
      table: the table, of a real target.
      num_grades: number of grades, at least 2.
      hidden: units of the hidden layer.
      batch_size: rows in a minibatch.

    Source: P. McCullagh, "Regression models for ordinal data", Journal of the Royal Statistical Society B 42, 1980.
    """
    limits = np.quantile(table.train[1], np.arange(1, num_grades) / num_grades)
    train, test = ((x, np.searchsorted(limits, y).astype(np.int32)) for x, y in (table.train, table.test))
    score = perceptron((train[0].shape[1], hidden, 1), scalar=True)

    def init(key: jax.Array) -> dict[str, Any]:
        return {"score": score.init(key), "first": -jnp.ones([]), "log_gaps": jnp.zeros(num_grades - 2)}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        thresholds = params["first"] + jnp.append(0.0, jnp.cumsum(jnp.exp(params["log_gaps"])))
        return score.apply(params["score"], x)[:, None] - thresholds[None]

    def measure(logits: jax.Array, grades: jax.Array) -> dict[str, jax.Array]:
        above = jnp.pad(jax.nn.sigmoid(logits), ((0, 0), (1, 0)), constant_values=1.0)
        above = jnp.pad(above, ((0, 0), (0, 1)))
        chances = jnp.take_along_axis(above[:, :-1] - above[:, 1:], grades[:, None], axis=1)
        return {"loss": -jnp.log(jnp.maximum(chances, 1e-6)).mean()}

    network = Network(init, apply)
    return make_supervised_workload(f"{table.name}-ordinal", network, train, test, measure, batch_size=batch_size)


def make_survival_workload(
    *, num_features: int = 10, num_train: int = 2000, num_test: int = 1000, batch_size: int = 32, seed: int = 0
) -> Workload:
    """Build the regression of survival times that are partly censored, by Cox's partial likelihood.

    Times are exponential with the rate exp(x.w + x_1 x_2), and are censored at others that are exponential with rate 1.
    The loss is the mean over the events of a minibatch of -(f(x) - log of the sum of exp(f) over those still at risk).

    Args:
      num_features: number of features, standard normal.
      num_train: number of training examples.
      num_test: number of test examples, which are evaluated in groups of `batch_size`.
      batch_size: examples in a minibatch.
      seed: seed of the examples.

    Source: D. Cox, "Regression models and life-tables", Journal of the Royal Statistical Society B 34, 1972, section 5.
    """
    rng = np.random.default_rng(seed)
    number = num_train + num_test
    x = rng.normal(size=(number, num_features))
    rates = np.exp(x @ (rng.normal(size=num_features) / np.sqrt(num_features)) + x[:, 0] * x[:, 1])
    times, limits = rng.exponential(size=number) / rates, rng.exponential(size=number)
    outcomes = np.stack([np.minimum(times, limits), times <= limits], axis=1).astype(np.float32)
    x = x.astype(np.float32)
    groups = num_test // batch_size
    held_out = (
        x[num_train:][: groups * batch_size].reshape(groups, batch_size, -1),
        outcomes[num_train:][: groups * batch_size].reshape(groups, batch_size, 2),
    )
    network = perceptron((num_features, 16, 1), scalar=True)

    def partial_loss(risks: jax.Array, outcomes: jax.Array) -> jax.Array:
        times, events = outcomes[:, 0], outcomes[:, 1]
        at_risk = jnp.where(times[None] >= times[:, None], risks[None], -jnp.inf)
        return jnp.sum(events * (jax.nn.logsumexp(at_risk, axis=1) - risks)) / jnp.maximum(events.sum(), 1)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return network.apply(params, x.reshape(-1, num_features)).reshape(x.shape[:-1])

    def measure(risks: jax.Array, outcomes: jax.Array) -> dict[str, jax.Array]:
        if risks.ndim == 1:  # a minibatch; evaluated examples come in groups
            return {"loss": partial_loss(risks, outcomes)}
        return {"loss": jax.vmap(partial_loss)(risks, outcomes).mean()}

    parts = (x[:num_train], outcomes[:num_train]), held_out
    return make_supervised_workload("survival", Network(network.init, apply), *parts, measure, batch_size=batch_size)


def pinball(levels: Sequence[float]) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Return the measure of `lrx.workloads.supervised` whose loss is least at the quantiles of the targets.

    For the level q, an error e = y - output costs max(q e, (q - 1) e); the loss is the mean over levels and examples.

    Args:
      levels: levels in (0, 1), one for each output.

    Source: R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 1978.
    """
    q = np.asarray(levels, np.float32)[None]

    def measure(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        errors = targets[:, None] - outputs
        return {"loss": jnp.maximum(q * errors, (q - 1) * errors).mean()}

    return measure


def mixture_density(components: int) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Return the measure whose loss is the negative log-likelihood of targets under mixtures of normal distributions.

    Args:
      components: number of components; an output is their logits, means and logarithms of standard deviations.

    Source: C. Bishop, "Mixture density networks", Aston University NCRG/94/004, 1994.
    """

    def measure(outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        logits, means, log_deviations = jnp.split(outputs, [components, 2 * components], axis=1)
        scaled = (targets[:, None] - means) * jnp.exp(-log_deviations)
        log_densities = -(scaled**2) / 2 - log_deviations - 0.5 * jnp.log(2 * jnp.pi)
        return {"loss": -jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_densities, axis=1).mean()}

    return measure


def make_folded_curve(number: int, rng: np.random.Generator) -> Examples:
    """Draw points of a curve that has up to three y for one x: x = y + 0.3 sin(2 pi y) + noise, y ~ U(0, 1).

    Args:
      number: number of points.
      rng: generator of the numbers.

    Source: Bishop's example (NCRG/94/004, section 5), with noise in [-0.1, 0.1].
    """
    y = rng.random(number)
    x = y + 0.3 * np.sin(2 * np.pi * y) + rng.uniform(-0.1, 0.1, number)
    return (4 * (x - 0.5)).astype(np.float32)[:, None], (4 * (y - 0.5)).astype(np.float32)


def poisson(logs: jax.Array, counts: jax.Array) -> dict[str, jax.Array]:
    """Return the mean of exp(f) - k f: the negative log-likelihood of counts k at rates exp(f), up to a constant."""
    return {"loss": jnp.mean(jnp.exp(logs) - counts * logs)}


def draw_counts(number: int, rng: np.random.Generator, *, features: int = 8) -> Examples:
    """Draw points and counts with the rate exp(1 + x_1 / 2 + sin(2 x_2) + x_3 x_4 / 2)."""
    x = rng.normal(size=(number, features))
    logs = 1 + x[:, 0] / 2 + np.sin(2 * x[:, 1]) + x[:, 2] * x[:, 3] / 2
    return x.astype(np.float32), rng.poisson(np.exp(np.minimum(logs, 4))).astype(np.float32)
