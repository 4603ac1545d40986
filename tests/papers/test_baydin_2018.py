"""Baydin et al. (2018): the recipe is the authors', and each verdict fails when its numbers are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

import lrx
from lrx.papers import baydin_2018
from lrx.papers.baydin_2018 import METHODS, PUBLISHED
from lrx.records import Result

TINY = Tiny(
    baydin_2018.Size(2, 0),
    "digits",
    {
        "METHODS": {name: baydin_2018.METHODS[name] for name in ("SGD", "SGD-HD")},
        "PAIRS": {"SGD-HD": "SGD"},
        "PUBLISHED": {},
        "BATCH_SIZE": 12,  # so few operations in a step that no strategies of a sweep are compared
    },
)

EPOCHS = {"logistic regression": 10, "perceptron": 3}
STEPS = np.array([2, 6, 14, 30, 100, 469, 4690])  # of the made-up trace of rates


def made_up() -> Result:
    """A result with the published numbers; the losses between them fall geometrically, those with HD a bit lower."""
    curves: dict[str, Any] = {}
    for model, epochs in EPOCHS.items():
        arms = {}
        for name in METHODS:
            arm: dict[str, Any] = {}
            for curve in ("training", "validation"):
                known = {
                    e: values[name]
                    for (m, c, e), values in PUBLISHED.items()
                    if (m, c) == (model, curve) and name in values
                }
                known = known or {1: 0.19}
                losses = np.exp(np.interp(np.arange(1, epochs + 1), list(known), np.log(list(known.values()))))
                arm[curve] = [losses.tolist(), losses.tolist()]
            arm["rate"] = [[0.01, 0.043, 0.0471, 0.0397, 0.0369, 0.0185, 0.0021]] * 2
            arm["epoch_rate"] = [[0.0292] + [0.01] * (epochs - 1)] * 2
            arms[name] = arm
        curves[model] = {"steps_per_epoch": 469, "rate_steps": STEPS.tolist(), "arms": arms}
    return Result("baydin_2018", "cpu", "mnist", [0, 1], {"epochs": EPOCHS}, curves, 1.0)


def change(model: str, name: str, what: str, place: int, value: float) -> Callable[[dict[str, Any]], None]:
    """Write a value into what each seed has of an arm."""

    def changed(curves: dict[str, Any]) -> None:
        for values in curves[model]["arms"][name][what]:
            values[place] = value

    return changed


def test_published_numbers_make_every_claim_hold() -> None:
    result = made_up()
    assert failing(result) == []
    assert len(baydin_2018.claims(result)) == 5 + 6 + 4


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        (change("logistic regression", "SGD", "training", 0, 1.204 * 1.12), [0]),
        (change("logistic regression", "Adam-HD", "training", 9, 0.2583 * 0.88), [1]),
        (change("logistic regression", "SGDN", "validation", 1, 0.332 * 0.88), [2]),
        (change("logistic regression", "Adam", "validation", 9, float("nan")), [3]),
        (change("perceptron", "Adam", "training", 0, 0.197 * 1.12), [4]),
        (change("logistic regression", "SGD-HD", "training", 4, 1.3), [5]),
        (change("logistic regression", "SGDN-HD", "training", 4, 0.6), [6]),
        (change("logistic regression", "Adam-HD", "training", 9, 0.2593), [7]),
        (change("perceptron", "SGD-HD", "training", 2, 2.5), [8]),
        (change("perceptron", "SGDN-HD", "training", 2, 1.1), [9]),
        (change("perceptron", "Adam-HD", "training", 2, 0.25), [10]),
        (change("logistic regression", "SGD-HD", "rate", 2, 0.06), [11]),
        (change("logistic regression", "SGD-HD", "rate", 4, 0.0472), [12]),
        (change("logistic regression", "SGD-HD", "rate", 5, 0.024), [13]),
        (change("logistic regression", "SGD-HD", "epoch_rate", 0, 0.033), [14]),
    ],
)
def test_a_claim_fails_when_its_numbers_do(changed: Callable[[dict[str, Any]], None], places: list[int]) -> None:
    assert failing(made_up(), changed) == places


def test_one_arm_that_is_off_is_named() -> None:
    result = made_up()
    change("logistic regression", "SGDN", "training", 0, 0.568 * 1.2)(result.curves)
    claim = baydin_2018.claims(result)[0]
    assert "SGDN is 20.0% off" in claim.measured
    assert "SGD 1.2, " in claim.measured


def test_shorter_runs_are_not_compared_with_later_epochs() -> None:
    result = made_up()
    del result.curves["perceptron"]
    result.settings["epochs"] = {"logistic regression": 2, "perceptron": 0}
    assert [claim.text.split(",")[0] for claim in baydin_2018.claims(result)][:2] == [
        "logistic regression: training loss of epoch 1",
        "logistic regression: validation loss of epoch 2",
    ]
    assert len(baydin_2018.claims(result)) == 2 + 3 + 4


@pytest.mark.slow
def test_initial_values_are_those_of_pytorch_and_pixels_are_normalized() -> None:
    workload = baydin_2018.workload_of("digits", None, (100,))
    params, _ = workload.init(jax.random.key(0))
    for name, fan_in in (("hidden1", 64), ("output", 100)):
        for values in params[name].values():
            bound = 1 / np.sqrt(fan_in)
            assert np.abs(values).max() <= bound
        np.testing.assert_allclose(params[name]["kernel"].std(), 1 / np.sqrt(3 * fan_in), rtol=0.05)
        assert params[name]["bias"].std() > 0.3 / np.sqrt(fan_in)
    images, _ = workload.batches.transform(workload.batches.arrays, jax.random.key(0))
    np.testing.assert_allclose([images.mean(), images.std()], [0, 1], atol=1e-4)
    assert workload.batches.batch_size == 128


@pytest.mark.parametrize("name", list(METHODS))
def test_weight_decay_is_part_of_the_gradient_and_the_rate_of_hd_moves_along_its_own(name: str) -> None:
    theta = jnp.array([1e4, -2e4])  # so that the decay is as large as the gradients
    tx = baydin_2018.method(name)
    state = tx.init(theta)
    gradients = (jnp.array([3.0, 1.0]), jnp.array([2.0, -1.0]))
    decayed, rates = [], []
    for gradient in gradients:
        decayed.append(np.asarray(gradient + 1e-4 * theta, np.float64))
        updates, state = tx.update(gradient, state, theta)
        theta = theta + updates
        rates.append(float(lrx.learning_rate(state)))
    # The first direction: with momentum g + 0.9 g, with Adam the signs.
    direction = {"SGD": decayed[0], "SGDN": 1.9 * decayed[0], "Adam": np.sign(decayed[0])}[name.removesuffix("-HD")]
    beta = {"SGD-HD": 1e-3, "SGDN-HD": 1e-3, "Adam-HD": 1e-7}.get(name, 0.0)
    np.testing.assert_allclose(rates[0], 1e-3, rtol=1e-6)
    np.testing.assert_allclose(rates[1] - 1e-3, beta * decayed[1] @ direction, rtol=2e-3, atol=1e-9)


def test_epochs_are_means_of_their_points() -> None:
    curve = np.arange(12.0).reshape(2, 6)
    arm = {"loss": curve, "rate": 10 * curve, "evaluations": {"loss": [[1.0, 2.0], [3.0, 4.0]]}}
    kept = baydin_2018.by_epoch(arm, 2, np.array([0, 2, 5]))
    np.testing.assert_array_equal(kept["training"], [[1, 4], [7, 10]])
    np.testing.assert_array_equal(kept["epoch_rate"], [[10, 40], [70, 100]])
    np.testing.assert_array_equal(kept["rate"], [[0, 20, 50], [60, 80, 110]])
    assert kept["validation"] == [[1.0, 2.0], [3.0, 4.0]]
