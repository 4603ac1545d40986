"""Hinton (2012): the rule against plain loops, and every verdict fails once its numbers are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing, published

from lrx.papers import hinton_2012
from lrx.papers.descent import descend
from lrx.papers.steps import cycle_drifts, steps_of_constant_gradient
from lrx.records import Result

TINY = Tiny(hinton_2012.Size(4000))


def plain_rmsprop(gradients: np.ndarray, rho: float, eta: float) -> np.ndarray:
    """The lecture's rule in float64: the positions after each gradient, from 0."""
    mean_square, theta, path = np.zeros(gradients.shape[1:]), np.zeros(gradients.shape[1:]), []
    for gradient in gradients:
        mean_square = rho * mean_square + (1 - rho) * gradient**2
        theta = theta - eta * gradient / np.sqrt(mean_square)
        path.append(theta)
    return np.array(path)


@pytest.fixture(scope="module")
def result() -> Result:
    return published("hinton_2012")


def test_the_drift_under_the_lectures_gradients_is_that_of_a_plain_loop() -> None:
    gradients = np.tile([*[0.1] * 9, -0.9], 201)
    paths = [plain_rmsprop(gradients, rho, 1.0) for rho in (0.0, 0.9, 0.99)]
    np.testing.assert_allclose(
        cycle_drifts(hinton_2012.rmsprop_of, (0.0, 0.9, 0.99), hinton_2012.CYCLE),
        [path[-1] - path[-11] for path in paths],
        atol=2e-3,
    )


def test_steps_under_a_constant_gradient_begin_long() -> None:
    lengths = steps_of_constant_gradient(hinton_2012.rmsprop_of, 0.01, (0.9, 0.99), np.geomspace(0.1, 1000, 9), 300)
    for rho, of_scales in zip((0.9, 0.99), lengths, strict=True):
        path = plain_rmsprop(np.full(300, 3.0), rho, 1.0)
        expected = np.broadcast_to(np.abs(np.diff(path, prepend=0.0)), of_scales.shape)
        np.testing.assert_allclose(of_scales, expected, rtol=1e-3)


def test_a_timed_gradient_and_record_see_the_number_of_updates() -> None:
    import lrx

    def gradient(x: jax.Array, key: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x, -(count + 1.0)

    found = descend(
        gradient, lrx.sgd(1.0), jnp.float32(0), np.array([0, 1, 4]), lambda x, count: (x, count), timed=True
    )
    assert found[0].tolist() == [0, 1, 10]
    assert found[1].tolist() == [0, 1, 4]


@pytest.mark.slow
def test_the_early_error_is_that_of_the_first_steps_at_the_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hinton_2012, "SHORT", 200)
    arm = hinton_2012.follow(1000, hinton_2012.ARMS["SGD"], (0, 1))
    assert arm["early"]["best"] == int(np.argmin(arm["early"]["errors"]))
    parts = np.asarray(arm["early"]["parts"])  # of 50 steps each
    np.testing.assert_allclose(arm["early"]["chosen_by"], parts[:, :4].mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(arm["whole"]["errors"][arm["whole"]["best"]], np.mean(arm["whole"]["parts"]), rtol=1e-4)


def grown(name: str, factor: float) -> Callable[[dict[str, Any]], None]:
    def change(curves: dict[str, Any]) -> None:
        early = curves["arms"][name]["early"]
        for error, parts in zip(early["chosen_by"], early["parts"], strict=True):
            parts[:] = [factor * error] * len(parts)

    return change


def other_rate(name: str, places: int) -> Callable[[dict[str, Any]], None]:
    def change(curves: dict[str, Any]) -> None:
        curves["arms"][name]["whole"]["best"] = curves["arms"][name]["early"]["best"] + places

    return change


def as_good(name: str, choice: str, factor: float) -> Callable[[dict[str, Any]], None]:
    def change(curves: dict[str, Any]) -> None:
        best = np.asarray(curves["arms"]["RMSProp"][choice]["parts"])
        curves["arms"][name][choice]["parts"] = (factor * best).tolist()

    return change


def scaled(kind: str, decay: str, factor: float) -> Callable[[dict[str, Any]], None]:
    def change(curves: dict[str, Any]) -> None:
        curves[kind][decay] = (factor * np.asarray(curves[kind][decay])).tolist()

    return change


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, grown("SGD", 1.3)),
        (1, grown("AdaGrad", 1.9)),
        (2, grown("RMSProp", 1.3)),
        (3, other_rate("SGD", 3)),
        (4, other_rate("AdaGrad", 0)),
        (5, other_rate("RMSProp", -2)),
        (6, as_good("AdaGrad", "whole", 0.95)),
        (7, as_good("AdaGrad", "shrinking", 1.9)),
        (8, as_good("SGD", "shrinking", 1.9)),
        (9, scaled("first", "0.9", 1.01)),
        (10, scaled("lengths", "0.9", 1.01)),
        (11, scaled("first", "0.99", 0.99)),
        (12, scaled("lengths", "0.99", 0.99)),
        (13, lambda curves: curves["adam"].update({"0.9": [1e-3] * 5})),
        (14, lambda curves: curves["adam"].update({"0.99": [1e-3] * 5})),
        (15, lambda curves: curves["drift"].update({"0": -7.0})),
        (16, lambda curves: curves["drift"].update({"0.9": 1.5})),
    ],
)
def test_every_verdict_can_fail(result: Result, place: int, change: Callable[[dict[str, Any]], None]) -> None:
    assert set(failing(result, change)) - set(failing(result)) == {place}
    assert place not in failing(result)
