"""Defazio et al. (2023): norms, schedules and scores are those of the text, and every verdict can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reproductions import Tiny, failing

import lrx
from lrx.papers import defazio_2023
from lrx.papers.arms import with_each_schedule
from lrx.papers.defazio_2023 import synthetic, training
from lrx.papers.reproduction import Job
from lrx.records import Result
from lrx.workloads.datasets import load

TINY = Tiny((defazio_2023.DIGITS._replace(options={"widths": ()}, rates=(0.03, 0.1), epochs=1),), "digits")

TASK = "mnist, a model"


def smoothed_profile(knots: tuple[float, ...]) -> np.ndarray:
    """The profile of the authors' figure in float64: lines between knots, under a Gaussian with the edges held."""
    at = np.arange(2000) / 1999
    norms = np.interp(at, [0, 0.003, 0.02, 0.03, 0.1, 1], knots)
    kernel = np.exp(-0.5 * (np.arange(-160, 161) / 40.0) ** 2)
    return np.convolve(np.pad(norms, 160, mode="edge"), kernel / kernel.sum(), mode="valid")


def refined_in_float64(norms: np.ndarray) -> np.ndarray:
    """eta_t ~ G_t^-2 sum over s > t of G_s^-2, by its definition."""
    weights = norms**-2.0
    rates = np.array([weights[t] * weights[t + 1 :].sum() for t in range(len(weights))])
    return rates / rates.max()


@pytest.mark.parametrize(
    ("name", "knots"),
    [
        ("constant", (1, 1, 1, 1, 1, 1)),
        ("falls early", (15, 6, 4, 2, 1, 1)),
        ("falls early, then rises", (15, 6, 4, 2, 1, 2)),
        ("falls early and late", (15, 6, 4, 2, 1, 0.7)),
    ],
)
def test_the_synthetic_figure_is_an_independent_computation_in_float64(name: str, knots: tuple[float, ...]) -> None:
    norms = smoothed_profile(knots)
    np.testing.assert_allclose(synthetic.profile(name), norms, rtol=1e-9)
    _, curves = defazio_2023.measure((), Job((0,)))
    drawn = curves["grid"][name]
    np.testing.assert_allclose(drawn["norms"], norms[curves["counts"]], atol=1e-6)
    np.testing.assert_allclose(drawn["refined"], refined_in_float64(norms)[curves["counts"]], atol=2e-7)
    assert (curves["counts"][0], curves["counts"][-1]) == (0, 1999)


def test_schedules_are_those_of_the_text_and_so_are_their_tables() -> None:
    t = np.arange(1000)
    expected = {
        "linear": 1 - t / 1000,
        "cosine": 0.5 * (1 + np.cos(np.pi * t / 1000)),
        "step": np.select([t < 300, t < 600, t < 900], [1, 0.1, 0.01], 0.001),
        "constant": np.ones(1000),
        "1 / t": 1 / (1 + t / 10),
        "1 / sqrt t": 1 / np.sqrt(1 + t / 10),
    }
    made = training.schedules(1000)
    look_up = with_each_schedule({name: make(1.0) for name, make in made.items()}, lambda rate: rate, 1000)
    assert tuple(made) == tuple(expected) == training.FIXED
    for number, (name, rates) in enumerate(expected.items()):
        np.testing.assert_allclose(made[name](0.3)(t), 0.3 * rates, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(look_up(jnp.float32(number), 0.3)(t), made[name](0.3)(t), rtol=1e-6)


@pytest.mark.parametrize(("method", "norm"), [("SGD", 5.0), ("Adam", 7.0)])
def test_the_norm_of_the_gradient_alone_is_recorded(method: str, norm: float) -> None:
    task = defazio_2023.PERCEPTRON._replace(method=method, weight_decay=0.5)
    tx = training.optimizer(task, lrx.constant(0.1))
    params, gradient = {"a": jnp.array([2.0]), "b": jnp.array([0.0])}, {"a": jnp.array([3.0]), "b": jnp.array([-4.0])}
    state = tx.init(params)
    first, state = tx.update(gradient, state, params)
    assert float(lrx.monitor(state)["gradient_norm"]) == pytest.approx(norm)
    if method == "SGD":  # the decayed gradient is (4, -4), and momentum 0.9
        np.testing.assert_allclose(first["a"], -0.4, rtol=1e-6)
        second, _ = tx.update(gradient, state, params)
        np.testing.assert_allclose(second["a"], -0.1 * (0.9 * 4 + 4), rtol=1e-6)
    else:
        np.testing.assert_allclose(optax.tree.norm(first, ord=jnp.inf), 0.1, rtol=1e-5)


@pytest.mark.slow
def test_error_is_of_the_test_images_and_loss_of_all_training_images() -> None:
    task = defazio_2023.DIGITS._replace(options={"widths": ()})
    workload = training.workload_of(task, Job((0,), "digits"))
    params, state = workload.init(jax.random.key(3))
    found = workload.evaluate(params, state)
    data = load("digits")
    kernel, bias = (np.asarray(params["output"][part], np.float64) for part in ("kernel", "bias"))

    def scores(images: np.ndarray) -> np.ndarray:
        x = (images / 255.0 - data.mean) / data.std
        return x.reshape(len(x), -1) @ kernel + bias

    wrong = np.argmax(scores(data.test_images), axis=1) != data.test_labels
    np.testing.assert_allclose(found["error"], 100 * wrong.mean(), rtol=1e-5)
    logits = scores(data.train_images)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), data.train_labels]
    np.testing.assert_allclose(found["training_loss"], losses.mean(), rtol=1e-4)


def arm(error: float, loss: float) -> dict[str, Any]:
    """An arm of two seeds, as `compare` leaves it."""
    return {
        "rates": [0.1, 0.3, 1.0],
        "best": 1,
        "final_loss": [[9.0, 9.0], [loss, loss], [9.0, 9.0]],
        "steps": [1.0, 99.0],
        "loss": [[2.0, loss], [2.0, loss]],
        "evaluation_steps": [99],
        "evaluations": {"error": [[error - 0.01], [error + 0.01]], "training_loss": [[loss], [loss]]},
    }


@pytest.fixture
def result() -> Result:
    """What would make every claim hold."""
    counts = np.linspace(0, 1999, 200).round().astype(int)
    grid = {
        name: {
            "norms": smoothed_profile(knots)[counts].tolist(),
            "refined": refined_in_float64(smoothed_profile(knots))[counts].tolist(),
        }
        for name, knots in synthetic.PROFILES.items()
    }
    arms = {
        "linear": arm(2.0, 0.010),
        "cosine": arm(2.1, 0.0095),
        "step": arm(2.2, 0.012),
        "constant": arm(2.5, 0.02),
        "1 / t": arm(9.0, 0.3),
        "1 / sqrt t": arm(3.0, 0.05),
        "refined": arm(1.95, 0.0099),
    }
    task = {
        "steps": 101,
        "norms": [3.0, 2.0, 1.0],
        "counts": [0, 5, 90, 100],
        "refined": [0.5, 1.0, 0.05, 0.0],
        "arms": arms,
    }
    settings = {"grid_steps": 2000, "tasks": {TASK: {"margin": 0.2}}}
    curves = {"counts": counts.tolist(), "grid": grid, "tasks": {TASK: task}}
    return Result("defazio_2023", "cpu", "mnist", [0, 1], settings, curves, 1.0)


def grid_of(name: str, rates: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    """Put other rates in the place of a synthetic schedule."""

    def change(curves: dict[str, Any]) -> None:
        curves["grid"][name]["refined"] = np.asarray(rates(np.asarray(curves["counts"]) / 1999)).tolist()

    return change


def arm_of_task(name: str, error: float, loss: float) -> Callable[[dict[str, Any]], None]:
    """Put another arm in the place of one."""

    def change(curves: dict[str, Any]) -> None:
        curves["tasks"][TASK]["arms"][name] = arm(error, loss)

    return change


def best_of_task(place: int) -> Callable[[dict[str, Any]], None]:
    """Put the best rate of an arm elsewhere."""

    def change(curves: dict[str, Any]) -> None:
        curves["tasks"][TASK]["arms"]["1 / t"] |= {"best": place}

    return change


def shape_of_task(rates: list[float]) -> Callable[[dict[str, Any]], None]:
    """Put another refined schedule in the place of the task's."""

    def change(curves: dict[str, Any]) -> None:
        curves["tasks"][TASK]["refined"] = rates

    return change


def test_what_the_paper_says_would_make_every_claim_hold(result: Result) -> None:
    assert failing(result) == []


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, grid_of("constant", lambda u: 1 - u + 2e-6 * (u == 1))),
        (1, grid_of("falls early", lambda u: 1 - u)),
        (1, grid_of("falls early", lambda u: np.minimum(u / 0.2, 1 - (u - 0.2)))),
        (2, grid_of("falls early, then rises", lambda u: 1.01 - u)),
        (3, grid_of("falls early and late", lambda u: 0.99 - u)),
        (4, arm_of_task("cosine", 1.79, 0.0095)),
        (5, arm_of_task("refined", 2.21, 0.0099)),
        (6, arm_of_task("constant", 2.3, 0.02)),
        (7, arm_of_task("step", 2.2, 0.009)),
        (8, arm_of_task("refined", 1.95, 0.0101)),
        (9, shape_of_task([1.0, 0.99, 0.05, 0.0])),
        (9, shape_of_task([0.1, 0.2, 0.05, 0.3])),
        (10, shape_of_task([0.5, 1.0, 0.11, 0.0])),
        (11, best_of_task(0)),
    ],
)
def test_a_claim_fails_when_its_numbers_do(
    result: Result, place: int, change: Callable[[dict[str, Any]], None]
) -> None:
    assert failing(result, change) == [place]


def test_tasks_of_a_scale_have_names_of_their_own() -> None:
    names = {defazio_2023.DIGITS.name, defazio_2023.SOFTMAX.name, defazio_2023.PERCEPTRON.name}
    assert names == {"perceptron 128-128, SGD", "softmax regression, Adam", "perceptron 64-64, SGD"}
    assert defazio_2023.RESNET.name == "resnet20, SGD"
