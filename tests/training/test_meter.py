"""What a run shows while it goes."""

from __future__ import annotations

import io
import re
import sys

import pytest
from training.linear import SGD, linear

from lrx.training import (
    progress,
    train,
)


def test_progress_prints_a_line_for_each_evaluation_where_there_is_no_terminal(capsys):
    train(linear(), SGD, epochs=3, progress=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "| evaluation" in line]
    assert [line.split("  ")[0] for line in lines] == [f"linear: step {step} of 21" for step in (7, 14, 21)]
    wanted = r"linear: step 21 of 21  train loss \S+  rate 0\.1  [\d,]+ examples/s  0:00 left  \| evaluation norm \S+"
    assert re.fullmatch(wanted, lines[-1]), lines[-1]


def test_progress_under_another_title_and_only_on_a_terminal(capsys, monkeypatch):
    train(linear(), SGD, steps=2, progress="arm 3, seed 1")
    assert "arm 3, seed 1: step 2 of 2" in capsys.readouterr().out
    arguments = {"step": 0, "total": 1, "batch_size": 1, "unit": "steps"}
    assert type(progress.reporter(None, "w", **arguments)) is progress.ProgressMeter
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert type(progress.reporter(None, "w", **arguments)) is progress.Bar
    assert type(progress.reporter(False, "w", **arguments)) is progress.ProgressMeter


def test_evaluations_of_one_among_many_runs_share_a_line_in_quick_succession(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVALUATION_EVERY", 3600.0)
    train(linear(), SGD, epochs=3, evaluate_every=1, progress="an arm, seed 0")
    lines = [line for line in capsys.readouterr().out.splitlines() if "| evaluation" in line]
    assert [line.split("  ")[0] for line in lines] == ["an arm, seed 0: step 21 of 21"]


def test_no_progress_prints_nothing(capsys):
    train(linear(), SGD, epochs=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("width", [20, 40, 120])
def test_progress_bar_fits_terminals_of_any_width(width):
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    bar = progress.Bar(console, "cifar10-resnet20", step=0, total=39_000, batch_size=128, unit="images")
    with bar:
        bar.start()
        bar.update(3_900, loss=1.25, rate=0.05)
        bar.evaluations = {"accuracy": 0.5}
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]|\r", "", file.getvalue()).replace("\N{NO-BREAK SPACE}", " ")
    for number in ("loss 1.25", "rate 0.05", "images/s", " left", "accuracy 0.5", "3,900/39,000"):
        assert number in text
    assert max(map(len, text.splitlines())) <= width


def test_images_are_called_images_and_a_bar_is_for_terminals(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    arguments = {"step": 0, "total": 1, "batch_size": 1, "unit": "images"}
    assert type(progress.reporter(True, "w", **arguments)) is progress.Bar
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert type(progress.reporter(True, "w", **arguments)) is progress.Lines


def test_speed_and_time_left_are_of_the_steps_made_since_compilation(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    status = progress.ProgressMeter("resumed", step=1_000, total=4_000, batch_size=10, unit="images")
    assert status.parts() == ["compiling"]
    now = 200.0
    status.start()
    now = 202.0
    status.update(2_000, loss=0.5, rate=float("nan"))
    assert status.parts() == ["loss 0.5", "5,000 images/s", "0:04 left"]


def test_time_left_is_written_as_a_clock():
    assert [progress._clock(seconds) for seconds in (0.4, 59.6, 3599, 36_000)] == ["0:00", "1:00", "59:59", "10:00:00"]


def test_what_takes_seconds_a_step_is_shown_in_parts_of_a_step(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    status = progress.ProgressMeter("plane", step=0, total=100, batch_size=1, unit="points")
    status.start()
    now = 120.0
    status.update(9, loss=1.0, rate=float("nan"))
    assert "0.45 points/s" in status.parts()
