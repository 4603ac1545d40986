"""Henheik et al. (2025): gaps and ranks follow their definition, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import henheik_2025 as paper
from lrx.records import Result

TINY = Tiny(paper.Size(("wine-unscaled",), 1, 0.0, 100))
TASKS = {task: group for group, tasks in paper.GROUPS.items() for task in tasks}


def made_up(**changed: dict[str, float]) -> Result:
    """A result of gaps in percent, by group; the fifth method is the best on tables, Prodigy on images."""
    usual = {
        paper.TABLES: [20.0, 5.0, 12.0, 8.0, 0.0, 20.0, 30.0, 50.0],
        paper.IMAGES: [1.0, 0.5, 2.0, 1.5, 3.0, 1.2, 0.0, 2.5],
    }
    curves: dict[str, Any] = {}
    for task, group in TASKS.items():
        by_method = dict(zip(paper.METHODS, usual[group], strict=True)) | changed.get(group, {})
        arms = {label: {"value": [1.0 + gap / 100] * 3, "rate": None} for label, gap in by_method.items()}
        curves[task] = {"kind": group, "mode": "min", "initial": [2.0] * 3, "arms": arms}
    return Result("henheik_2025", "demo", "", [0, 1, 2], {}, curves, 1.0)


def test_a_best_method_that_differs_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(tables={paper.PRODIGY: -1.0})) == [0, 2]
    assert failing(made_up(images={paper.PRODIGY: 2.8})) == [1]
    assert failing(made_up(tables={paper.TUNED: 25.0})) == [3]
    assert failing(made_up(tables={paper.COCOB: 25.0})) == [4]
    assert failing(made_up(tables={paper.TUNED: 60.0, paper.DEFAULT: 70.0})) == [5]
    assert failing(made_up(images={paper.COCOB: 60.0})) == [6]


def test_gaps_are_parts_of_the_way_and_a_run_that_diverges_has_made_none_of_it() -> None:
    result = made_up()
    task = next(iter(TASKS))
    arms = result.curves[task]["arms"]
    arms[paper.DEFAULT]["value"] = [None, 1.5, 3.0]
    assert paper.gaps(result, task)[paper.DEFAULT] == pytest.approx([100.0, 50.0, 100.0])
    flipped = {
        label: {"value": [-value for value in arm["value"]]} for label, arm in made_up().curves[task]["arms"].items()
    }
    result.curves[task] |= {"mode": "max", "initial": [-2.0] * 3, "arms": flipped}
    assert paper.gaps(result, task)[paper.DOWG] == pytest.approx([50.0] * 3)


def test_equal_methods_share_a_rank() -> None:
    found = paper.ranks(made_up(), next(iter(TASKS)))
    assert found[paper.COCOB] == 1
    assert found[paper.DEFAULT] == found[paper.D_ADAPTATION] == 5.5
    assert sum(found.values()) == np.arange(1, 9).sum()


def test_a_figure_shows_every_method_on_every_task() -> None:
    axes = paper.PAPER.draw(made_up())["gaps"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == sorted(TASKS, key=list(paper.TASKS).index)
    marks = [line for line in axes.get_lines() if line.get_label() in paper.METHODS]
    assert len(marks) == len(paper.METHODS)
