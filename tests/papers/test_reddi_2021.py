"""Reddi et al. (2021): verdicts can fail, and figures show every rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import reddi_2021
from lrx.records import Result

TINY = Tiny(
    reddi_2021.Size("digits", 200, 4, 100, 100, 4, 2, 2, 1, (0.1,), (1.0,)),
    constants={"RULES": {name: (server, rates[:1]) for name, (server, rates) in reddi_2021.RULES.items()}},
)


def made_up(*, lead: float = 10.0, images: float = 1.0, narrow: str = "FedAvg", place: int = 1) -> Result:
    """A result in which adaptive rules win by `lead` on documents, and all but FedAvg by `images` on images."""
    tasks: dict[str, Any] = {}
    for task in ("images", "documents"):
        tasks[task] = {}
        for rule, (_, rates) in reddi_2021.RULES.items():
            gain = lead if task == "documents" and rule in reddi_2021.ADAPTIVE else 0.0
            gain += images if task == "images" and rule != "FedAvg" else 0.0
            best = 60 + gain
            final = np.full((5, 2, 3), best - (20 if rule == narrow else 2))
            final[place, 0] = best
            tasks[task][rule] = {
                "server_rates": list(rates),
                "client_rates": [0.1, 1.0],
                "final": final.tolist(),
                "best": [place, 0],
                "accuracy": [[20.0, 40.0, best]] * 3,
            }
    curves = {"rounds": [10, 20, 30], "tasks": tasks}
    return Result("reddi_2021", "cpu", "", [0, 1, 2], {}, curves, 1.0)


def test_adaptive_rules_that_win_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(lead=-1.0)) == [0, 1, 2]
    assert failing(made_up(images=-2.0)) == [3, 4, 5]
    assert failing(made_up(narrow="FedYogi")) == [6, 7]
    assert failing(made_up(place=0)) == [8]


def test_figures_show_every_rule_on_both_tasks() -> None:
    figure = reddi_2021.PAPER.draw(made_up())["adaptive_servers"]
    assert len(figure.axes) == 4
    for axes in figure.axes:
        labels = {line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")}
        assert labels == set(reddi_2021.RULES)
