"""Duchi et al. (2011): the arms are those of the text, the regret is that of its definition, verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing, published
from scipy.optimize import minimize

from lrx.papers import duchi_2011
from lrx.papers.reproduction import Job

TINY = Tiny(duchi_2011.Size(50, 320), constants={"REGRET_STEPS": 20})


def test_the_rates_of_the_arms_are_those_of_the_text() -> None:
    params, gradient = jnp.zeros(()), jnp.float32(2.0)

    def steps(name: str) -> list[float]:
        tx = duchi_2011.ARMS[name].make(0.5)
        state, found = tx.init(params), []
        for _ in range(4):
            update, state = tx.update(gradient, state, params)
            found.append(float(update))
        return found

    t = np.arange(1, 5)
    np.testing.assert_allclose(steps("SGD"), np.full(4, -1.0), rtol=1e-6)
    np.testing.assert_allclose(steps("SGD, 1 / sqrt t"), -1 / np.sqrt(t), rtol=1e-5)
    np.testing.assert_allclose(steps("AdaGrad"), -0.5 / np.sqrt(t), rtol=1e-5)  # g / sqrt(t g^2)


@pytest.mark.slow
def test_regret_and_bound_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duchi_2011, "REGRET_STEPS", 6)
    monkeypatch.setattr(duchi_2011, "REGRET_RATES", (0.5,))
    small = duchi_2011.make_sparse_workload(num_features=12, num_train=200, num_test=10, active=4)
    monkeypatch.setattr(duchi_2011, "make_sparse_workload", lambda: small)
    (regret, bound), *_ = duchi_2011.regrets(Job((7,)))["0.5"]

    places, labels = (np.asarray(part) for part in small.batches.arrays)
    stream = jax.random.key(7)
    drawn = [
        np.asarray(jax.random.randint(jax.random.fold_in(stream, count), (duchi_2011.BATCH_SIZE,), 0, 200))
        for count in range(6)
    ]

    def loss_and_gradient(weights: Any, bias: float, chosen: Any) -> tuple[float, Any]:
        counts = np.zeros((len(chosen), 12))
        np.add.at(counts, (np.arange(len(chosen))[:, None], places[chosen]), 1)
        scores = counts @ weights + bias
        errors = 1 / (1 + np.exp(-scores)) - labels[chosen]
        losses = np.log1p(np.exp(scores)) - labels[chosen] * scores
        return losses.mean(), np.concatenate([counts.T @ errors, [errors.sum()]]) / len(chosen)

    x, total, squares, visited = np.zeros(13), 0.0, np.zeros(13), []
    for chosen in drawn:
        visited.append(x.copy())
        value, gradient = loss_and_gradient(x[:12], x[12], chosen)
        total, squares = total + value, squares + gradient**2
        x -= 0.5 * gradient / np.sqrt(squares + 1e-8)

    def in_hindsight(other: Any) -> tuple[float, Any]:
        each = [loss_and_gradient(other[:12], other[12], chosen) for chosen in drawn]
        return sum(value for value, _ in each), np.sum([gradient for _, gradient in each], axis=0)

    best = minimize(in_hindsight, np.zeros(13), jac=True, method="L-BFGS-B", bounds=13 * [(-5, 5)])
    assert regret == pytest.approx(total - best.fun, rel=1e-3)
    distance = np.max(np.abs(np.array(visited) - best.x))
    assert bound == pytest.approx((distance**2 / (2 * 0.5) + 0.5) * np.sqrt(squares).sum(), rel=0.02)


def test_every_verdict_can_fail() -> None:
    result = published("duchi_2011")
    assert failing(result) == []

    def slower(curves: dict[str, Any]) -> None:
        reached = curves["arms"]["AdaGrad"]["evaluations"]["loss"]
        curves["arms"]["AdaGrad"]["evaluations"]["loss"] = [[2 * value for value in seed] for seed in reached]

    assert failing(result, slower) == [0, 1]

    def scaled(curves: dict[str, Any]) -> None:
        curves["arms"]["AdaGrad, scaled"]["loss"][0][3] *= 1.1

    assert failing(result, scaled) == [2]

    def beyond(curves: dict[str, Any]) -> None:
        curves["regret"]["1"] = [[1.1 * bound, bound] for _, bound in curves["regret"]["1"]]

    assert failing(result, beyond) == [3]

    def at_the_end_of_its_grid(curves: dict[str, Any]) -> None:
        curves["arms"]["SGD, 1 / sqrt t"]["rates"] = curves["arms"]["SGD, 1 / sqrt t"]["rates"][: 1 + best]

    best = result.curves["arms"]["SGD, 1 / sqrt t"]["best"]
    assert failing(result, at_the_end_of_its_grid) == [4]

    def better_than_the_best(curves: dict[str, Any]) -> None:
        for rate, seeds in curves["regret"].items():
            curves["regret"][rate] = [[-1.0, bound] for _, bound in seeds]

    assert failing(result, better_than_the_best) == [3]
