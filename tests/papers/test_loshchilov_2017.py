"""Loshchilov and Hutter (2017): rates are those of equation 5, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from reproductions import Tiny, failing

from lrx.papers import loshchilov_2017
from lrx.records import Result

TINY = Tiny(loshchilov_2017.Size("perceptron", 16, 16, 1, 1, 16, (4,)), "digits")
UNIT = 2  # epochs


def made_up() -> Result:
    """A result as the paper tells it."""
    epochs = np.arange(1, 31)
    jitter = np.array([[-0.05], [0.0], [0.05]])
    step = np.where(epochs <= 9, 20.0, np.where(epochs <= 18, 10.0, np.where(epochs <= 24, 6.0, 5.0)))
    sgdr = np.full(30, 15.0)
    for end, error in ((1, 12.0), (3, 5.9), (7, 5.8), (15, 5.0)):
        sgdr[end * UNIT - 1] = error
    cosine = np.linspace(20, 5, 30)
    arms: dict[str, Any] = {}
    for name, error in (("step", step), ("cosine", cosine), ("SGDR", sgdr)):
        rate = np.broadcast_to(np.linspace(0.05, 0.001, 30), (3, 30)).tolist()
        arms[name] = {
            "evaluation_steps": (10 * epochs).tolist(),
            "steps": (10 * epochs).tolist(),
            "rate": rate,
            "evaluations": {"error": (error + jitter).tolist()},
        }
    ensembles = {"single": [[12.0, 5.9, 5.8, 5.0]] * 3, "together": [4.6, 4.7, 4.8]}
    settings = {"unit": UNIT, "epoch": 10}
    return Result("loshchilov_2017", "cpu", "cifar10", [0, 1, 2], settings, {"arms": arms, "ensembles": ensembles}, 1.0)


def changed(name: str, epoch: int, error: float) -> Any:
    def change(curves: dict[str, Any]) -> None:
        for errors in curves["arms"][name]["evaluations"]["error"]:
            errors[epoch - 1] = error

    return change


def test_the_papers_story_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(), changed("SGDR", 2, 19.0)) == [0, 5]  # nor does the restart raise it
    assert failing(made_up(), changed("SGDR", 6, 19.0)) == [1, 2, 5]  # nor is it early, or below the period before
    assert failing(made_up(), changed("step", 3, 5.0)) == [2]
    assert failing(made_up(), changed("step", 30, 4.0)) == [3]
    assert failing(made_up(), changed("cosine", 30, 4.0)) == [4]
    assert failing(made_up(), changed("SGDR", 7, 1.0)) == [5]

    def worse(curves: dict[str, Any]) -> None:
        curves["ensembles"]["together"] = [5.1, 5.2, 5.3]

    assert failing(made_up(), worse) == [6]


def test_rates_are_those_of_equation_5_and_of_the_baseline() -> None:
    made = loshchilov_2017.schedules(100)
    counts = jnp.array([0, 50, 99, 100, 200, 299, 300, 700])
    period = np.array([100, 100, 100, 200, 200, 200, 400, 800])
    since = np.array([0, 50, 99, 0, 100, 199, 0, 0])
    np.testing.assert_allclose(made["SGDR"](counts), 0.025 * (1 + np.cos(np.pi * since / period)), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
        made["step"](jnp.array([449, 450, 900, 1200, 1499])), 0.05 * 0.2 ** np.array([0, 1, 2, 3, 3]), rtol=1e-6
    )


def test_the_first_epoch_at_a_target_is_counted_from_one() -> None:
    assert loshchilov_2017.epochs_to(np.array([3.0, 2.0, 1.0]), 2.0) == 2
    assert loshchilov_2017.epochs_to(np.array([3.0, 2.0, 1.0]), 0.5) == 4


def test_the_figure_marks_the_ends_of_the_periods() -> None:
    figure = loshchilov_2017.PAPER.draw(made_up())["restarts"]
    ends = [line.get_xdata()[0] for line in figure.axes[1].get_lines() if len(set(line.get_xdata())) == 1]
    assert ends == [2, 6, 14, 30]
