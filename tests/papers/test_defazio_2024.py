"""Defazio et al. (2024): the variants are those of the text, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

import lrx
from lrx.papers import defazio_2024 as paper
from lrx.records import Result

TINY = Tiny(paper.Size("n-gram", (10,), (0.02, 0.04), 10))


def arm(at_length: dict[int, float], best: int = 1) -> dict[str, Any]:
    """An arm with a loss after each length, the last of them its final one."""
    seeds = np.array([-1e-3, 0.0, 1e-3])
    curve = (np.array(list(at_length.values())) + seeds[:, None]).tolist()
    final = [[values[-1] + 0.1 * (place != best) for values in curve] for place in range(3)]
    return {
        "rates": [0.02, 0.04, 0.08],
        "final_loss": final,
        "best": best,
        "evaluation_steps": list(at_length),
        "evaluations": {"loss": curve},
    }


def made_up(*, short: float = 2.5, long: float = 2.0, other: float = 2.1, best: int = 1) -> Result:
    """A result whose schedules end at 2.5 after 100 steps and at 2 after 400."""
    scheduled = {
        "100": {label: arm({100: 2.5}) for label in ("linear", "cosine")},
        "400": {label: arm({100: 2.7, 400: 2.0}) for label in ("linear", "cosine")},
    }
    arms = {label: arm({100: 2.6, 400: other}, best) for label in ("Polyak averaging", "primal averaging", "constant")}
    arms["Schedule-Free"] = arm({100: short, 400: long})
    settings = {"rates": [0.02, 0.04, 0.08]}
    return Result("defazio_2024", "cpu", "", [0, 1, 2], settings, {"scheduled": scheduled, "arms": arms}, 1.0)


def test_a_run_that_is_good_at_every_length_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(short=2.6)) == [0]
    assert failing(made_up(long=2.05)) == [1]
    assert failing(made_up(other=1.9)) == [2, 3, 4]
    assert failing(made_up(best=0)) == [5]


@pytest.mark.slow
@pytest.mark.parametrize(("label", "same"), [(paper.POLYAK, "newest"), (paper.PRIMAL, "average")])
def test_gradients_are_taken_at_the_newest_iterate_or_at_the_average(label: str, same: str) -> None:
    tx = paper.optimizer(label, 1, 0.1)
    y = jnp.array([1.0, -2.0])
    state = tx.init(y)
    for _ in range(5):
        updates, state = tx.update(y, state, y)
        y = y + updates
    average = lrx.eval_params(state, y)
    if same == "average":
        np.testing.assert_allclose(y, average, rtol=1e-5)
    else:
        assert float(jnp.abs(y - average).min()) > 0.05


def test_figures_show_every_arm_and_every_length() -> None:
    figure = paper.PAPER.draw(made_up())["schedule_free"]
    assert sum(len(np.atleast_1d(line.get_xdata())) > 1 for line in figure.axes[0].get_lines()) == 4 + 2
    assert len(figure.axes[1].get_lines()) == 6
