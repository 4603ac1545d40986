"""Biswas et al. (2025): verdicts can fail, and figures show every start."""

from __future__ import annotations

from typing import Any

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import biswas_2025 as paper
from lrx.papers.small_images import Images
from lrx.records import Result

TINY = Tiny(paper.Size(Images("perceptron", 64, 32, 2, (8,)), 20, (0.01, 0.1), 32), "digits")


def made_up(*, apart: float = 1.0, constant: float = 60.0, worse: float = 0.0, last: float = 2.0) -> Result:
    """A result whose errors are apart by these points, and whose last rates by this factor."""
    seeds = np.array([-0.1, 0.0, 0.1])

    def arm(errors: list[float], factor: float) -> dict[str, Any]:
        by_seed = np.array(errors)[:, None] + seeds
        best = int(np.argmin(errors))
        return {
            "rates": [1e-4, 1e-2, 1.0],
            "best": best,
            "error": by_seed.tolist(),
            "evaluations": {"error": [[value] for value in by_seed[best]]},
            "steps": [10, 20],
            "applied": [[1e-3, 0.1], [0.01, 0.1], [0.1, 0.1 * factor]],
        }

    arms = {
        "relative adaptation": arm([5 + worse, 5 + worse, 5 + worse + apart], last),
        "constant": arm([5 + constant, 5.0, 8.0], 1.0),
    }
    return Result("biswas_2025", "cpu", "digits", [0, 1, 2], {}, {"arms": arms}, 1.0)


def test_a_start_that_does_not_matter_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(apart=5.0)) == [0, 2]
    assert failing(made_up(constant=4.0)) == [1]
    assert failing(made_up(worse=3.0)) == [2]
    assert failing(made_up(last=20.0)) == [3]


def test_figures_show_the_rates_of_every_start() -> None:
    figure = paper.PAPER.draw(made_up())["starts"]
    assert len(figure.axes[0].get_lines()) == 2 * 3
    assert [line.get_label() for line in figure.axes[1].get_lines()] == ["relative adaptation", "constant"]
