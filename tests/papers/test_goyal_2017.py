"""Goyal et al. (2017): rates are those of the text, momentum corrected is momentum, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import goyal_2017 as paper
from lrx.papers.small_images import Images
from lrx.records import Result

TINY = Tiny(paper.Size(Images("perceptron", 64, 32, 4, (8,)), 8, (2,), 2, 9, 2, (0.1,)), "digits")
SIZE = paper.Size(Images("perceptron", 400, 20, 4, (8,)), 10, (4, 8), 4, 9, 2, (0.1,))


def arm(error: float, loss: float = 1.0, best: int = 1) -> dict[str, Any]:
    """An arm that ends at these values; the last of the evaluations is an outlier, which a median does not see."""
    seeds = np.array([-0.01, 0.0, 0.01])[:, None]
    errors = error + seeds + np.array([[20.0, 0.0, 0.0, 0.0, 0.0, 30.0]])
    losses = (loss * (1 + 0.01 * seeds) * np.linspace(2, 1, 18)[None]).tolist()
    evaluations = {"error": errors.tolist()}
    return {"rates": [0.01, 0.1, 1.0], "best": best, "steps": [], "loss": losses, "evaluations": evaluations}


def made_up(
    *,
    second: float = 5.1,
    compared: float = 5.2,
    largest: float = 9.0,
    loss: float = 1.02,
    others: tuple[float, ...] = (6.0, 7.0, 8.0, 9.0),
    corrected: float = 1.0,
    best: int = 1,
) -> Result:
    """A result whose smallest batch has an error of 5 %."""
    names = (paper.NONE, paper.CONSTANT, paper.ROOT, paper.UNSCALED)
    batches = {
        "10": {paper.GRADUAL: arm(5.0, best=best)},
        "20": {paper.GRADUAL: arm(second)},
        "40": {paper.GRADUAL: arm(compared, loss)} | dict(zip(names, map(arm, others), strict=True)),
        "80": {paper.GRADUAL: arm(largest)},
    }
    for batch, arms in batches.items():
        for each in arms.values():
            each["steps"] = (np.arange(1, 19) * 200 // int(batch)).tolist()
    momentum = {name: arm(5.0, value) for name, value in zip(paper.MOMENTA, (1.0, corrected, 1.3), strict=True)}
    curves = {"batches": {batch: {"arms": arms} for batch, arms in batches.items()}, "momentum": momentum}
    settings = SIZE._asdict() | {"images": list(SIZE.images)}
    return Result("goyal_2017", "demo", "mnist", [0, 1, 2], settings, curves, 1.0)


def test_verdicts_can_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(second=5.6)) == [0]
    assert failing(made_up(compared=4.4)) == [1]
    assert failing(made_up(largest=5.4)) == [2]
    assert failing(made_up(loss=1.06)) == [3]
    for place in range(4):
        others = [6.0, 7.0, 8.0, 9.0]
        others[place] = 5.1
        assert failing(made_up(others=tuple(others))) == [4 + place]
    assert failing(made_up(corrected=1.002)) == [8]
    assert failing(made_up(best=0)) == [9]


def test_rates_climb_to_k_times_the_rate_and_drop_three_times() -> None:
    found = paper.schedules(0.1, 4, SIZE, 10)
    times = jnp.array([0, 10, 19, 20, 29, 30, 60, 80])
    np.testing.assert_allclose(
        found[paper.GRADUAL](times), [0.1, 0.25, 0.385, 0.4, 0.4, 0.04, 0.004, 0.0004], rtol=1e-5
    )
    np.testing.assert_allclose(found[paper.NONE](times[:5]), 0.4, rtol=1e-5)
    np.testing.assert_allclose(found[paper.CONSTANT](times[:5]), [0.1, 0.1, 0.1, 0.4, 0.4], rtol=1e-5)
    assert found[paper.ROOT](jnp.array(20)) == pytest.approx(0.2)
    assert found[paper.UNSCALED](jnp.array(0)) == found[paper.UNSCALED](jnp.array(29)) == pytest.approx(0.1)
    assert list(paper.schedules(0.1, 8, SIZE, 5)) == [paper.GRADUAL]


def test_the_figure_shows_every_batch_and_every_comparison() -> None:
    figure = paper.PAPER.draw(made_up())["large_batches"]
    assert [line.get_label() for line in figure.axes[0].get_lines()[:4]] == [f"{n} images" for n in (10, 20, 40, 80)]
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()][:2] == [paper.GRADUAL, paper.NONE]
