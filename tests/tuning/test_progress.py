"""Long tools show a bar on a terminal unless it is turned off, and say what they are doing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from tuning.line import LINE, VMAP, sgd
from tuning.selection.methods import SMALL

import lrx

TOOLS: dict[str, tuple[Callable[..., Any], str]] = {
    "sweep": (
        lambda **how: lrx.sweep(LINE, sgd, {"lr": [0.05, 0.1]}, num_steps=6, execution=VMAP, **how),
        "sweep, line",
    ),
    "range_test": (lambda **how: lrx.range_test(LINE, lrx.sgd, num_steps=20, **how), "range test, line"),
    "successive_halving": (
        lambda **how: lrx.successive_halving(LINE, sgd, {"lr": [0.05, 0.1, 0.2]}, num_steps=9, execution=VMAP, **how),
        "search, line",
    ),
    "halve_until_trains": (
        lambda **how: lrx.halve_until_trains(LINE, lrx.sgd, start_rate=0.1, num_steps=20, **how),
        "trial at 0.1, line",
    ),
    "select": (
        lambda **how: lrx.select(LINE, num_steps=80, portfolio={"adam": SMALL["constant"]}, **how),
        "round 3 of 4, adam at 0.03",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_shows_a_bar_on_a_terminal_and_nothing_elsewhere(
    tool: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, title = TOOLS[tool]
    run()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    run()
    assert title in capsys.readouterr().out
    run(progress=False)
    assert capsys.readouterr().out == ""
