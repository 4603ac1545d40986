"""The table of a selection, what stands below it, and its code."""

from __future__ import annotations

import math
from typing import Any

import pytest

import lrx
from lrx import expressions
from lrx.tuning import PORTFOLIO
from lrx.tuning.selection.code import shortest, write_code
from lrx.tuning.selection.policy import Certainty, Rival, Run, Training
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.result import RunRecord, Selection, show_seconds

RUNS = [  # method, round, steps, value
    ("short", 1, 10, 0.2),
    ("second", 1, 10, 0.3),
    ("first", 1, 10, 0.9),
    ("diverged", 1, 10, 0.1),
    ("second", 2, 40, 0.15),
    ("first", 2, 40, 0.05),
    ("diverged", 2, 40, math.nan),
]


def selection(mode: str = "min", **more: Any) -> Selection:
    records = [RunRecord(name, 0.1, number, steps, value, value, steps, True) for name, number, steps, value in RUNS]
    portfolio = {name: Method(lambda rate, num_steps: lrx.sgd(rate)) for name, *_ in RUNS}
    return Selection("first", 0.1, lrx.sgd(0.1), 100, portfolio, records, {}, 1.0, 2.0, 75.0, "error", mode, **more)


@pytest.mark.parametrize(("mode", "order"), [("min", "first second"), ("max", "second first")])
def test_the_longest_runs_come_first_and_the_best_of_them_and_diverged_ones_last(mode, order):
    rows = str(selection(mode)).splitlines()[1:5]
    assert [row.split()[0] for row in rows] == [*order.split(), "short", "diverged"]


def test_several_seeds_share_a_line_with_their_mean() -> None:
    found = selection()
    found.records.append(RunRecord("first", 0.1, 3, 40, 0.15, 0.15, 40, True, 1))
    assert str(found).splitlines()[1].split() == ["first", "0.1", "0.9", "0.1", "(2)"]
    assert "table: numbers in parentheses count the seeds that were averaged." in str(found)
    found.records.append(RunRecord("first", 0.1, 4, 10, math.inf, math.inf, 10, False, 2))
    assert str(found).splitlines()[1].split()[0] != "first"  # diverged with a seed, so last
    assert "2 seeds" in str(found)


def test_it_says_how_sure_it_is_what_it_cost_and_what_comes_next() -> None:
    rivals = (Rival("short", 0.1, 10, 0.25), Rival("second", 0.1, 40, 0.001))
    found = selection(
        evaluations=9,
        run_seconds=40.0,
        certainty=Certainty(0.254, rivals, 0.1),
        doubts=("this is not known.",),
        reasons=("it is the best.",),
        next_run=Training(Run("short", 0.1, 0, 100), 100),
    )
    said = " ".join(str(found).split())
    assert "another method of the table is better by 1 % with a probability of 25 %, most likely short at 0.1" in said
    assert "doubt: this is not known." in said
    assert "why: it is the best." in said
    assert "cost: 1.00 full runs of 2 allowed; 1 min 15 s, of which the steps took 40 s (40 s a full run)" in said
    assert "the rest is compilation and 9 evaluations" in said
    assert "next: one more full run would tell most with short at 0.1." in said
    assert str(found).splitlines()[-1] == "tx = lrx.sgd(0.1)"
    assert max(map(len, str(found).splitlines())) <= 88
    unsure = selection(certainty=Certainty(math.nan, rivals, math.nan))
    assert "sure: not known, since no run was made with two lengths." in str(unsure)


def test_a_notebook_shows_the_same() -> None:
    found = selection(doubts=("a < b.",))
    shown = found._repr_html_()
    assert shown.count("<tr") == 1 + 4
    assert shown.count("font-weight: bold") == 1
    assert "<td>diverged</td>" in shown
    assert "<b>doubt</b>: a &lt; b." in shown
    assert "<pre>tx = lrx.sgd(0.1)</pre>" in shown


@pytest.mark.parametrize("method", PORTFOLIO)
def test_the_code_evaluates_to_an_equal_transformation(method: str) -> None:
    rate = 0.0031000000890  # a float32
    tx = PORTFOLIO[method].make(shortest(rate), 2000)
    code = write_code(tx, method, shortest(rate), 2000)
    assert code.startswith("tx = lrx.")
    assert "0.0031000" not in code
    scope: dict[str, Any] = {"lrx": lrx}
    exec(code, scope)
    assert scope["tx"] == tx


def test_a_transformation_that_lrx_did_not_build_is_rebuilt_from_the_portfolio() -> None:
    import optax

    assert write_code(optax.sgd(0.1), "mine", 0.1, 20) == "tx = portfolio['mine'].make(0.1, 20)"


def test_durations_are_readable() -> None:
    assert [show_seconds(x) for x in (0.0123, 4.26, 59.2, 74.6)] == ["0.012 s", "4.3 s", "59 s", "1 min 15 s"]


@pytest.mark.parametrize("method", PORTFOLIO)
def test_the_expression_of_a_method_is_what_lrx_train_takes(method: str) -> None:
    tx = PORTFOLIO[method].make(0.03, 60)
    assert expressions.parse_optimizer(repr(tx)) == tx
