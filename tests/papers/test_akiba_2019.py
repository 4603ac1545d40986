"""Akiba et al. (2019): studies read their table, and verdicts can fail."""

from __future__ import annotations

import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import akiba_2019 as paper
from lrx.papers.small_images import Images
from lrx.records import Result

TINY = Tiny(paper.Size(Images("perceptron", 64, 32, 2, (8,)), 4, 1, 4, 1, 32), "digits", kept=True)


def made_up(*, tpe: float = -0.2, spent: float = 0.4, cost: float = 0.0, grid: float = 4.0) -> Result:
    """A result in which random search ends at 4 %, and TPE and pruning this far from it."""

    def study(best: float, steps: float) -> dict[str, list[list[float]]]:
        return {"best": [[20.0, best]] * 6, "steps": [[steps, 2 * steps]] * 6}

    studies = {
        "random search": study(4.0, 1.0),
        "TPE": study(4 + tpe, 1.0),
        "TPE with pruning": study(4 + tpe + cost, spent),
    }
    table = {"rates": [1e-5, 1e-2, 10.0], "error": [[90.0] * 3, [3.5] * 3, [90.0] * 3]}
    curves = {"studies": studies, "table": table, "grid": [grid] * 3}
    return Result("akiba_2019", "cpu", "digits", [0, 1, 2], {}, curves, 1.0)


def test_better_samplers_and_cheap_pruning_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(tpe=0.1)) == [0, 1]
    assert failing(made_up(spent=0.8)) == [2]
    assert failing(made_up(cost=1.0)) == [3]
    assert failing(made_up(grid=3.0)) == [4]


@pytest.mark.slow
def test_studies_find_the_valley_of_their_table_and_pruning_makes_fewer_evaluations() -> None:
    log_rates = np.linspace(-5, 1, 13)
    ends = 3 + 10 * np.abs(log_rates + 1)
    curves = np.linspace(90, ends, 5, axis=1)
    for name in (paper.RANDOM, paper.TPE, paper.PRUNED):
        best, spent = paper.search(name, log_rates, curves, 20, 0)
        assert (np.diff(best) <= 0).all()
        assert 3 <= best[-1] < 10
        assert spent[-1] == 20 if name != paper.PRUNED else 5 < spent[-1] < 20


def test_figures_show_every_search() -> None:
    figure = paper.plot(made_up())["studies"]
    assert len(figure.axes[1].get_lines()) == len(figure.axes[2].get_lines()) == 3 + 1
