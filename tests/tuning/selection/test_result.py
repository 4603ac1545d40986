"""The table of a selection."""

from __future__ import annotations

import math

import pytest

import lrx
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.result import RunRecord, Selection

RUNS = [  # method, round, steps, value
    ("short", 1, 10, 0.2),
    ("second", 1, 10, 0.3),
    ("first", 1, 10, 0.9),
    ("diverged", 1, 10, 0.1),
    ("second", 2, 40, 0.15),
    ("first", 2, 40, 0.05),
    ("diverged", 2, 40, math.nan),
]


@pytest.mark.parametrize(("mode", "order"), [("min", "first second"), ("max", "second first")])
def test_the_longest_runs_come_first_and_the_best_of_them_and_diverged_ones_last(mode, order):
    records = [RunRecord(name, 0.1, number, steps, value, value, steps, True) for name, number, steps, value in RUNS]
    portfolio = {name: Method(lrx.sgd) for name, *_ in RUNS}
    found = Selection("first", 0.1, lrx.sgd(0.1), 100, portfolio, records, {}, 1.0, 2.0, 3.0, "error", mode)
    rows = str(found).splitlines()[1:5]
    assert [row.split()[0] for row in rows] == [*order.split(), "short", "diverged"]
