"""Smith and Topin (2019): schedules are those of the text, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from reproductions import Tiny, failing

from lrx.papers import smith_2019 as paper
from lrx.papers.small_images import Images
from lrx.records import Result

TINY = Tiny(paper.Size(Images("perceptron", 64, 32, 4, (8,)), 32, 4, (0.1,), 16), "digits", {"LONGER": 2})


def arm(error: float, best: int = 1) -> dict[str, Any]:
    """An arm whose error at the end is `error` at its best rate, and 2 more at the others."""
    seeds = np.array([-0.01, 0.0, 0.01])
    final = [(error + seeds + 2.0 * (place != best)).tolist() for place in range(5)]
    return {
        "rates": [0.01, 0.03, 0.1, 0.3, 1.0],
        "final_loss": final,
        "best": best,
        "evaluation_steps": [50, 100],
        "evaluations": {"error": [[20.0, value] for value in final[best]]},
    }


def made_up(*, lead: float = 1.0, long: float = 5.0, few: float = 3.0, peak: int = 3, step: int = 1) -> Result:
    """A result whose cycle ends at an error of 5 %, and leads by these points."""
    most = {"100": {"arms": {"1cycle": arm(5.0, peak), "step": arm(5 + lead, step)}}}
    most["400"] = {"arms": {"1cycle": arm(4.9), "step": arm(long)}}
    fewer = {"100": {"arms": {"1cycle": arm(9.0), "step": arm(9 + few)}}}
    fewer["400"] = {"arms": {"1cycle": arm(9.0), "step": arm(9.0)}}
    return Result("smith_2019", "cpu", "mnist", [0, 1, 2], {}, {"sets": {"500": fewer, "4000": most}}, 1.0)


def test_a_cycle_that_leads_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(lead=0.1)) == [0]
    assert failing(made_up(long=4.0)) == [1]
    assert failing(made_up(few=0.5)) == [2]
    assert failing(made_up(peak=1)) == [3]
    assert failing(made_up(step=0)) == [4]


def test_the_cycle_climbs_to_its_peak_and_the_step_schedule_drops_twice() -> None:
    both = {name: each(jnp.arange(101)) for name, each in paper.schedules(100).items()}
    assert 25 <= int(jnp.argmax(both["1cycle"])) <= 31
    assert both["1cycle"][100] < 1e-4
    np.testing.assert_allclose(both["step"][jnp.array([49, 51, 76])], [1.0, 0.1, 0.01], rtol=1e-5)


def test_figures_show_both_lengths() -> None:
    figure = paper.PAPER.draw(made_up())["super_convergence"]
    assert len(figure.axes[0].get_lines()) == 4
    assert len(figure.axes[1].get_lines()) == 2
