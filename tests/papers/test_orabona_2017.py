"""Orabona and Tommasi (2017): the recipe is the authors', and each verdict fails when its numbers are wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import orabona_2017
from lrx.papers.orabona_2017 import METHODS
from lrx.papers.reproduction import Job
from lrx.records import Result
from lrx.workloads.datasets import load

# So few operations in a step that no strategies of a sweep are compared.
TINY = Tiny(orabona_2017.Size(1, {"Adam": (1e-3, 1e-2)}, (2,)), "digits", {"BATCH_SIZE": 25})


def made_up(epochs: int = 39) -> Result:
    """A result with the published log; the others end with a higher cost and as many errors."""
    costs, errors = np.geomspace(0.0322, 5.34e-5, 38), np.linspace(2.27, 1.65, 38)
    cocob = {"cost": [[0.0915, *costs]] * 2, "error": [[4.14, *errors]] * 2, "rate": None}
    cocob |= {"rates": [1.0], "costs": [[0.06]]}
    other = {"cost": [[0.1, *(2 * costs)]], "error": [[5.0, *errors]], "rate": 1e-3}
    other |= {"rates": [1e-4, 1e-3], "costs": [[0.1], [0.05]]}
    arms = {"COCOB": cocob, "Adam": other}
    for arm in arms.values():
        for key in ("cost", "error"):
            arm[key] = [np.asarray(values)[:epochs].tolist() for values in arm[key]]
    settings = {"epochs": epochs, "widths": [1000, 1000]}
    return Result("orabona_2017", "cpu", "mnist", [0, 1], settings, {"arms": arms}, 1.0)


def change(name: str, key: str, epoch: int, factor: float) -> Callable[[dict[str, Any]], None]:
    def changed(curves: dict[str, Any]) -> None:
        for values in curves["arms"][name][key]:
            values[epoch - 1] *= factor

    return changed


def test_published_numbers_make_every_claim_hold() -> None:
    assert failing(made_up()) == []
    assert len(orabona_2017.claims(made_up())) == 8
    assert len(orabona_2017.claims(made_up(12))) == 6


def test_other_data_are_not_compared_with_the_log_nor_a_rate_that_was_not_tuned() -> None:
    result = made_up(12)
    result.data = "digits"
    verdicts = orabona_2017.PAPER.check(result)
    assert [claim.text.split()[0] for claim in verdicts.claims] == ["training", "test"]
    assert len(verdicts.left_out) == 4
    result.curves["arms"]["Adam"] |= {"rates": [1e-3], "costs": [[0.05]]}
    assert orabona_2017.PAPER.check(result).claims == []


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        (change("COCOB", "cost", 1, 0.7), [0]),
        (change("COCOB", "error", 1, 0.7), [1]),
        (change("COCOB", "cost", 2, 1.3), [2]),
        (change("COCOB", "error", 2, 1.3), [3]),
        (change("COCOB", "cost", 39, 1.3), [4]),
        (change("COCOB", "error", 39, 0.7), [5]),
        (change("Adam", "cost", 39, 0.4), [6]),
        (change("Adam", "error", 39, 0.85), [7]),
    ],
)
def test_a_claim_fails_when_its_numbers_do(changed: Callable[[dict[str, Any]], None], places: list[int]) -> None:
    assert failing(made_up(), changed) == places


def test_the_cost_at_the_end_is_drawn_over_the_rates_where_there_are_several() -> None:
    result = made_up(12)
    rates = orabona_2017.plot(result)["mnist"].axes[2]
    assert [line.get_ydata()[0] for line in rates.get_lines()] == [0.06, 0.1]
    result.curves["arms"]["Adam"] |= {"rates": [1e-3], "costs": [[0.05]]}
    assert len(orabona_2017.plot(result)["mnist"].axes) == 2


def test_the_other_methods_have_every_rate_and_the_first_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compare(workload: Any, arms: Any, job: Any, **options: Any) -> dict[str, Any]:
        seen.append(({name: tuple(arm.rates) for name, arm in arms.items()}, job.seeds))
        assert options == {"num_steps": 3 * (1437 // 100), "evaluate_every": 1437 // 100, "metric": "training_loss"}
        rates = [0.1, 0.2] if "Adam" in arms else [1.0]
        found = {
            "rates": rates,
            "best": len(rates) - 1,
            "final_loss": [[2.0], [1.0]],
            "evaluations": {"training_loss": [[1.0]], "error": [[2.0]]},
        }
        return dict.fromkeys(arms, found)

    monkeypatch.setattr(orabona_2017, "compare", compare)
    _, curves = orabona_2017.measure(orabona_2017.Size(3, {"Adam": (0.1, 0.2)}, (4,)), Job((5, 6), "digits"))
    assert seen == [({"COCOB": (1.0,)}, (5, 6)), ({"Adam": (0.1, 0.2)}, (5,))]
    assert {name: arm["rate"] for name, arm in curves["arms"].items()} == {"COCOB": None, "Adam": 0.2}


@pytest.mark.slow
def test_the_model_is_that_of_the_authors() -> None:
    workload = orabona_2017.workload_of("digits", None, (100,))
    params, model_state = workload.init(jax.random.key(0))
    for layer in params.values():
        np.testing.assert_array_equal(layer["bias"], np.float32(0.1))
        assert 0.19 < np.abs(layer["kernel"]).max() <= 0.2
        np.testing.assert_allclose(layer["kernel"].std(), 0.088, rtol=0.05)  # of what the cut leaves
    images, labels = workload.batches.transform(workload.batches.arrays, jax.random.key(0))
    assert images.min() == 0
    assert images.max() == 1
    assert workload.batches.batch_size == 100
    # The cost is that of all training images, the error that of the test images.
    hidden = jnp.maximum(images.reshape(len(images), -1) @ params["hidden1"]["kernel"] + 0.1, 0)
    scores = jax.nn.log_softmax(hidden @ params["output"]["kernel"] + 0.1)
    found = workload.evaluate(params, model_state)
    np.testing.assert_allclose(found["training_loss"], -scores[jnp.arange(len(labels)), labels].mean(), rtol=1e-4)
    assert 50 < found["error"] <= 100


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("LRX_DATA_DIR"), reason="LRX_DATA_DIR names no folder with the real data")
def test_cost_and_error_before_training_are_those_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    # Draws of the network differ by far more than thousands of images do.
    monkeypatch.setattr(orabona_2017, "load", lambda *arguments: load(*arguments).first(4000, 2000))
    workload = orabona_2017.workload_of("mnist", None, (1000, 1000))
    found = [workload.evaluate(*workload.init(jax.random.key(seed))) for seed in range(8)]  # the log is one draw
    for key, published in (("training_loss", 7.383), ("error", 88.5)):
        values = np.array([float(each[key]) for each in found])
        assert abs(values.mean() - published) < 3 * values.std(ddof=1), (key, values)


def test_adagrad_and_rmsprop_take_the_steps_of_tensorflow() -> None:
    gradients = [0.3, -0.2, 0.5]
    steps: dict[str, list[float]] = {}
    for name in ("AdaGrad", "RMSProp", "COCOB"):
        tx, theta = METHODS[name](0.01), jnp.zeros(1)
        state = tx.init(theta)
        steps[name] = []
        for gradient in gradients:
            updates, state = tx.update(jnp.array([gradient]), state, theta)
            theta = theta + updates
            steps[name].append(float(updates[0]))
    squares = 0.1 + np.cumsum(np.square(gradients))
    np.testing.assert_allclose(steps["AdaGrad"], -0.01 * np.array(gradients) / np.sqrt(squares), rtol=1e-5)
    mean, expected = 0.0, []
    for gradient in gradients:
        mean = 0.9 * mean + 0.1 * gradient**2
        expected.append(-0.01 * gradient / np.sqrt(mean))
    np.testing.assert_allclose(steps["RMSProp"], expected, rtol=1e-5)
    np.testing.assert_allclose(steps["COCOB"][0], -1 / 100, rtol=1e-5)  # the first bet is 1 / alpha
