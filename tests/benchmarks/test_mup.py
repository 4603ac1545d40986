"""The benchmark of muP reads the best rate from its losses, says whether it is flat, and measures nothing twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lrx.benchmarks import mup
from lrx.records import Result
from lrx.workloads import make_workload

EXPONENTS = [-4, -3, -2, -1]


def example(best):
    """Return a result in which the best places of the rates are those given, by kind and width."""
    widths = [8, 16, 32]
    curves = {
        kind: {
            str(width): [[abs(place - best[kind][i]) + 0.5, abs(place - best[kind][i]) + 0.7] for place in range(4)]
            for i, width in enumerate(widths)
        }
        for kind in mup.KINDS
    }
    settings = {"digits": {"widths": widths, "exponents": EXPONENTS, "steps": 10, "seeds": [0, 1]}}
    return Result("mup", "cpu", "digits", [0, 1], settings, {"digits": curves}, 1.0)


def test_the_best_rate_is_that_of_the_lowest_loss_and_its_span_decides():
    result = example({"standard": [3, 2, 0], "muP": [2, 2, 3]})
    assert mup.best_exponents(result, "digits", "standard") == pytest.approx([-1, -2, -4])
    assert mup.span(result, "digits", "standard") == pytest.approx(3)
    assert mup.span(result, "digits", "muP") == pytest.approx(1)
    assert mup.loss_at_base_rate(result, "digits", "standard") == pytest.approx([0.6, 1.6, 3.6])
    told = mup.verdict(result, "digits")
    assert "a factor of at least 2 with muP, to an end of the grid, and of at least 8 without." in told
    inside = example({"standard": [2, 1, 1], "muP": [1, 2, 1]})
    assert "a factor of 2 with muP, within a factor of 2, and of 2 without." in mup.verdict(inside, "digits")


def test_the_best_rate_lies_between_those_of_the_grid_where_a_parabola_is_lowest():
    losses = np.exp(0.3 * (np.array(EXPONENTS) + 2.7) ** 2)[:, None]
    assert mup.vertex(EXPONENTS, losses) == pytest.approx(-2.7)
    losses[2] = np.inf
    assert mup.vertex(EXPONENTS, losses) == -3


def test_a_run_that_diverged_is_not_the_best():
    losses = np.array([[1.0, 1.0], [0.1, np.nan], [0.5, np.inf], [0.9, 1.0]])
    assert mup.best_place(losses) == 3


def test_the_page_has_every_width_and_the_picture_is_drawn(tmp_path):
    result = example({"standard": [3, 2, 0], "muP": [2, 2, 3]})
    paths = mup.write(result, tmp_path)
    assert [path.name for path in paths] == ["mup.json", "mup.png", "README.md"]
    text = paths[2].read_text()
    assert "| width | 8 | 16 | 32 |" in text
    assert "| standard: best rate | 2^-1.00 | 2^-2.00 | 2^-4.00 |" in text


@pytest.mark.slow
def test_what_is_measured_already_is_not_measured_again(tmp_path, monkeypatch, capsys):
    tiny = mup.Network(
        "perceptron on digits",
        lambda width: make_workload("digits", "mlp", widths=(width,), batch_size=64),
        (4, 8),
        (-6, -4),
        2,
        (0,),
    )
    monkeypatch.setitem(mup.NETWORKS, "digits", tiny)
    first = mup.run(["digits"], folder=tmp_path)
    assert np.shape(first.curves["digits"]["muP"]["8"]) == (2, 1)
    assert first.curves["digits"]["muP"]["4"] == first.curves["digits"]["standard"]["4"]
    assert first.curves["digits"]["muP"]["8"] != first.curves["digits"]["standard"]["8"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    again = mup.run(["digits"], folder=tmp_path)
    assert capsys.readouterr().out == ""
    assert again.curves == first.curves
    assert again.seconds == first.seconds > 0
    monkeypatch.setitem(mup.NETWORKS, "digits", dataclasses.replace(tiny, seeds=(0, 1)))
    monkeypatch.setitem(mup.NETWORKS, "more", dataclasses.replace(tiny, seeds=(1,)))
    both = mup.run(["digits", "more"], folder=tmp_path)
    assert np.shape(both.curves["digits"]["muP"]["8"]) == (2, 2)
    assert np.array_equal(both.array("digits", "muP", "8")[:, :1], first.array("digits", "muP", "8"))
    assert np.array_equal(both.array("digits", "muP", "8")[:, 1:], both.array("more", "muP", "8"))
    capsys.readouterr()
    one = mup.run(["more"], folder=tmp_path)
    assert capsys.readouterr().out == ""
    assert one.curves == both.curves
    assert (one.data, one.seeds) == ("digits, more", [0, 1])
    monkeypatch.setitem(mup.NETWORKS, "digits", dataclasses.replace(tiny, num_steps=3))
    assert np.shape(mup.run(["digits"], folder=tmp_path).curves["digits"]["muP"]["8"]) == (2, 1)
