"""The papers on theory: verdicts follow from the saved numbers, and wrong numbers fail them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import failing, published

import lrx
from lrx import papers
from lrx.papers import nesterov_1983, polyak_1964, robbins_1951
from lrx.papers.descent import descend, log_spaced, slope
from lrx.papers.reproduction import Claim


def test_trajectories_are_those_of_a_plain_loop() -> None:
    key = jax.random.key(3)

    def gradient(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(x**2), 2 * x + 0.1 * jax.random.normal(key, x.shape)

    tx = lrx.nesterov(0.1, momentum=0.8)
    counts = np.array([0, 1, 2, 7])
    found = descend(gradient, tx, jnp.ones(2), counts, lambda x: x, key)
    params, state, expected = jnp.ones(2), tx.init(jnp.ones(2)), []
    for count in range(8):
        if count in counts:
            expected.append(lrx.eval_params(state, params))
        updates, state = tx.update(gradient(params, jax.random.fold_in(key, count))[1], state, params)
        params = params + updates
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-5)


def test_log_spaced_counts_and_slopes() -> None:
    counts = log_spaced(10**5, 60)
    assert counts[0] == 1
    assert counts[-1] == 10**5
    assert np.all(np.diff(counts) > 0)
    assert slope(counts, 3.0 * counts**-1.5) == pytest.approx(-1.5)


def test_a_claim_of_values_holds_where_the_mean_lies_between_the_bounds() -> None:
    assert Claim.of_values("x", "1", [0.9, 1.2], 1.0, 1.1) == Claim("x", "1", "1.05 ± 0.21", True)
    assert not Claim.of_values("x", "1", [0.9, 1.0], 1.0).holds
    assert not Claim.of_values("x", "1", 1.2, high=1.1).holds
    assert not Claim.of_values("x", "1", float("nan")).holds


def test_gains_are_those_of_the_text() -> None:
    n = np.arange(1, 50)
    expected = {"1 / n": 1 / n, "0.2 / n": 0.2 / n, "0.1": np.full(49, 0.1), "0.5 / n^2": 0.5 / n**2}
    for name, gain in robbins_1951.GAINS.items():
        np.testing.assert_allclose(gain(n - 1), expected[name], rtol=1e-5)


def test_every_verdict_on_gains_can_fail() -> None:
    result = published("robbins_1951")
    steps = np.asarray(result.curves["steps"], np.float64)
    for place, (name, wrong) in enumerate(
        {"1 / n": steps**-0.8, "0.2 / n": steps**-0.55, "0.1": steps**-0.2, "0.5 / n^2": 0.5 + 0 * steps}.items()
    ):

        def change(curves: dict[str, Any], name: str = name, wrong: Any = wrong) -> None:
            curves["errors"][name] = [wrong.tolist(), wrong.tolist()]

        assert failing(result, change) == [place]


def test_every_verdict_on_fixed_steps_can_fail() -> None:
    result = published("cauchy_1847")
    steps = np.asarray(result.curves["steps"], np.float64)

    def wrong(curves: dict[str, Any]) -> None:
        curves["gaps"]["1 / L"] = [(0.6 * steps**-0.8).tolist()]
        curves["growth"] = {"1.9 / L": [1.01], "2.1 / L": [9.0]}
        curves["mean_gap"] = [[1.6 * np.sqrt(2) * horizon**-0.5] for horizon in curves["horizons"]]
        curves["escape"] = {"0.01": [100.0], "0.03": [110.0], "0.1": [120.0]}
        curves["without_noise"] = 1e-3

    assert failing(result, wrong) == [0, 1, 2, 3, 4, 6, 7, 8]

    def steeper(curves: dict[str, Any]) -> None:
        curves["mean_gap"] = [[horizon**-0.7] for horizon in curves["horizons"]]

    assert 5 in failing(result, steeper)


def test_every_verdict_on_heavy_ball_can_fail() -> None:
    result = published("polyak_1964")

    def slower(curves: dict[str, Any]) -> None:
        arms = curves["conditions"]["100"]
        arms["gradient descent"]["factor"] = 3 * [0.965]  # theory: 0.9802
        arms["heavy ball"]["factor"] = 3 * [0.83]  # theory: 0.8182
        arms["heavy ball"]["steps_to_target"] = 3 * [10_000]

    assert failing(result, slower) == [3, 4, 5]

    def other_way_round(curves: dict[str, Any]) -> None:
        example = curves["counter_example"]
        example["heavy ball"], example["gradient descent"] = example["gradient descent"], example["heavy ball"]

    assert failing(result, other_way_round) == [12, 13]


def test_every_verdict_on_the_bounds_can_fail(tmp_path: Path) -> None:
    run = nesterov_1983.PAPER.run("demo", seeds=(0, 1))  # the only scale at which a transcription is compared
    result = papers.load(run.save(tmp_path / "result.json"))
    k = np.asarray(result.curves["steps"], np.float64)
    distance = result.settings["distance"]

    def above(curves: dict[str, Any]) -> None:
        curves["worst"]["Nesterov"] = (2.1 * distance / (k + 1) ** 2).tolist()

    assert {0, 4, 6} <= set(failing(result, above))

    def below(curves: dict[str, Any]) -> None:
        for name in curves["worst"]:
            curves["worst"][name] = (0.09 * distance / (k + 1) ** 2).tolist()

    assert {1, 2, 3, 5, 6} <= set(failing(result, below))

    def flat(curves: dict[str, Any]) -> None:
        long = np.asarray(curves["quadratic_steps"], np.float64)
        curves["quadratic"] = {"Nesterov": [(long**-1.7).tolist()], "gradient descent": [(long**-1.4).tolist()]}

    assert failing(result, flat) == [7, 8]


def test_the_worst_function_is_that_of_the_text() -> None:
    def f(x: jax.Array) -> jax.Array:
        springs = 0.5 * x[0] ** 2 + 0.5 * jnp.sum((x[:-1] - x[1:]) ** 2) + 0.5 * x[-1] ** 2
        return 0.25 * (springs - x[0])

    x = jax.random.normal(jax.random.key(0), (7,))
    np.testing.assert_allclose(nesterov_1983.worst_gradient(x), jax.grad(f)(x), rtol=1e-5, atol=1e-6)
    solution = 1 - jnp.arange(1, 8.0) / 8
    np.testing.assert_allclose(nesterov_1983.worst_gradient(solution), 0, atol=1e-7)


def test_the_counter_example_is_continuous_and_between_its_quadratics() -> None:
    x = jnp.linspace(-3, 4, 7001)
    slopes = np.diff(polyak_1964.counter_example(x)) / np.diff(x)
    assert slopes.min() > 0.9
    assert slopes.max() < 25.1


@pytest.mark.parametrize("name", ["cauchy_1847", "robbins_1951", "polyak_1964", "nesterov_1983"])
def test_a_wrong_scale_and_a_data_set_are_refused(name: str) -> None:
    paper = papers.paper(name)
    with pytest.raises(ValueError, match="scale must be one of demo, cpu, paper, got scale='big'"):
        paper.run("big")
    with pytest.raises(
        ValueError, match="data must be left out, since this paper trains on no data set, got data='mnist'"
    ):
        paper.run("demo", data="mnist")
