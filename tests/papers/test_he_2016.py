"""He et al. (2016): the warm-up ends where the training error is low, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import he_2016 as paper
from lrx.papers.residual_networks import Network
from lrx.records import Result


def check_warm_up(result: Result) -> None:
    """The warm-up ends at the first evaluation, at which the training error is below a threshold of 101 %."""
    arms = result.curves["arms"]
    assert {name: arms[name]["warm_steps"] for name in (paper.STEP, paper.WARMUP)} == {
        paper.STEP: [0, 0],
        paper.WARMUP: [2, 2],
    }


SIZE = paper.Size(Network(40, 20, 40, 20, 2), (4,), 4, 2)
TINY = Tiny(SIZE, "digits", {"THRESHOLD": 101.0}, check=check_warm_up)
STEPS = 300


def made_up(
    *,
    plain: float = 20.0,
    deeper: float = -0.5,
    loss: float = 0.5,
    fall: float = 0.5,
    constant: float = 2.0,
    warm_steps: int = 20,
    ahead: float = 5.0,
    warm: float = 0.2,
) -> Result:
    """A result with these errors at the end, in points, and training losses that fall by this factor at a drop."""
    seeds = np.array([-0.01, 0.0, 0.01])
    times, steps = [warm_steps, STEPS], np.arange(0, STEPS, 6) + 3.5
    drops = fall ** sum((steps > round(drop * STEPS)).astype(float) for drop in paper.DROPS)

    def arm(error: float, training: float, loss: float = 0.1, early: float = 80.0) -> dict[str, Any]:
        ends = {"error": error, "training_error": training, "training_loss": loss}
        evaluations = {
            name: np.stack([np.full(3, early), value + seeds * loss], axis=1) for name, value in ends.items()
        }
        return {
            "evaluation_steps": times,
            "evaluations": {name: values.tolist() for name, values in evaluations.items()},
            "steps": steps.tolist(),
            "loss": np.stack([drops] * 3).tolist(),
        }

    step = arm(5.0 + deeper, 1.0, 0.1 * loss, 75.0 + ahead)
    arms = {paper.STEP: step, paper.CONSTANT: arm(5.0 + deeper + constant, 1.0)}
    arms[paper.WARMUP] = arm(5.0 + deeper + warm, 1.0, early=75.0) | {"warm_steps": [warm_steps] * 3}
    networks = {
        paper.RESIDUAL: {"8": arm(5.0, 1.0), "32": step},
        paper.PLAIN: {"8": arm(5.0, 1.0), "32": arm(30.0, 1.0 + plain)},
    }
    settings = {"network": [1440, 360, 256, 32, 8, 1], "depths": [8, 32], "steps": STEPS, "every": 10}
    return Result("he_2016", "demo", "digits", [0, 1, 2], settings, {"networks": networks, "arms": arms}, 1.0)


def test_deeper_and_better_with_shortcuts_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(plain=0.0)) == [0, 3]
    assert failing(made_up(deeper=0.5)) == [1]
    assert failing(made_up(loss=1.5)) == [2]
    assert failing(made_up(fall=0.9)) == [4, 5]
    assert failing(made_up(constant=0.3)) == [6]
    assert failing(made_up(warm_steps=100)) == [7]
    assert failing(made_up(ahead=-1.0)) == [8]
    assert failing(made_up(warm=1.5)) == [9]


def test_table_6_is_claimed_of_the_papers_own_scale_only() -> None:
    result = made_up()
    assert not any(claim.published for claim in paper.claims(result))
    depths = Result(**{**vars(result), "scale": "paper", "settings": result.settings | {"depths": [8, 20, 32]}})
    depths.curves["networks"][paper.RESIDUAL]["20"] = depths.curves["networks"][paper.RESIDUAL]["8"]
    assert [claim.expected for claim in paper.claims(depths) if claim.published] == ["8.75", "7.51"]


def test_figures_show_errors_of_every_depth_and_schedule() -> None:
    axes = paper.PAPER.draw(made_up())["residual"].axes
    assert [len(panel.get_lines()) for panel in axes] == [4, 4, 3, 2 + 1]
