"""The robustness benchmark: what it measures, what it counts, and what it leaves behind."""

import pathlib

import numpy as np
import pytest
from matplotlib.legend import Legend

import lrx
from lrx.benchmarks import robustness
from lrx.benchmarks import robustness_report as report
from lrx.records import Result, load

GALLERY = pathlib.Path(__file__).parents[2] / "examples/gallery/robustness"


def tiny_workload():
    return robustness.load_workload("digits", robustness.Settings(widths=(4,), batch_size=64, epochs=1), None)


@pytest.mark.slow
def test_runs_are_those_of_train():
    """The benchmark trains by the library's own loop: the same seed gives the same run."""
    workload, rates, seeds = tiny_workload(), np.array([0.01, 0.1]), [3, 5]
    measured = robustness.measure(workload, 5, "adam", rates, seeds)
    tx = lrx.adam(0.1)
    for row, seed in enumerate(seeds):
        history = lrx.train(workload, tx, steps=5, seed=seed)
        for name, evaluated in (("accuracy", "accuracy"), ("test_loss", "loss"), ("train_loss", "train_loss")):
            np.testing.assert_allclose(measured[name][row][1], history.evaluations[evaluated][-1], rtol=1e-3)


@pytest.mark.slow
def test_digits_with_two_methods_leave_a_table_a_result_and_a_picture(tmp_path, capsys):
    robustness.main(["digits"], ["sgd", "adam"], epochs=1, seeds=2, folder=tmp_path)
    out = capsys.readouterr().out
    result = load(tmp_path / "robustness.json")
    page = (tmp_path / "README.md").read_text()
    assert page == report.page(result, robustness.__doc__.splitlines()[0])
    assert "| method | 1e-06 | 1e-05 | 0.0001 | 0.001 | 0.01 | 0.1 | 1 | 10 | decades within 2 points |" in page
    assert page.count("\n| `sgd` | ") == 3
    assert report.summary(result) in out
    assert result.seeds == [0, 1]
    assert {"jax", "lrx"} <= set(result.versions)
    assert list(result.curves["digits"]) == ["sgd", "adam"]
    accuracies, losses = (np.asarray(result.curves["digits"]["sgd"][name]) for name in ("accuracy", "train_loss"))
    assert accuracies.shape == losses.shape == (2, 8)
    assert losses[0, 0] != losses[1, 0]  # seeds differ
    assert np.all(accuracies[:, 5] > accuracies[:, 0] + 0.3)  # 0.1 trains within an epoch, 1e-6 does not
    assert np.all(losses[:, 5] < losses[:, 0])
    assert (tmp_path / "robustness.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_run_that_ends_not_finite_counts_as_guessing(monkeypatch):
    monkeypatch.setitem(robustness.METHODS, "sgd", lambda rate: lrx.sgd(rate * 1e30))
    measured = robustness.measure(tiny_workload(), 4, "sgd", np.array([1e-32, 1.0]), [0])
    assert measured["finite"] == [[True, False]]
    assert measured["accuracy"][0][1] == report.CHANCE


def test_decades_count_the_rates_within_two_points_of_the_best():
    rates = np.logspace(-6, 1, 8)
    accuracies = np.array([0.1, 0.97, 0.5, 0.96, 0.98, 0.95, 0.9599, 0.1])
    assert report.decades_near_best(accuracies, rates) == 3
    assert report.decades_near_best(np.full(15, 0.3), np.logspace(-6, 1, 15)) == 7.5


def test_table_marks_what_was_not_finite_and_averages_seeds():
    measured = {
        "accuracy": [[0.9, 0.1], [0.8, 0.1]],
        "train_loss": [[0.25, None], [0.75, 3.0]],
        "finite": [[True, False], [True, True]],
    }
    curves = {"digits": {"sgd": measured}}
    result = Result("robustness", "cpu", "digits", [0, 1], {"rates": [0.1, 1.0]}, curves, 1.0)
    assert report.accuracy_table(result, "digits").splitlines()[-1] == "| `sgd` | 85.0 | 10.0† | 1 |"
    assert report.loss_table(result, "digits").splitlines()[-1] == "| `sgd` | 0.5 | † |"
    assert report.summary(result).splitlines()[-1] == "| `sgd` | 85.0 (1) |"


def test_the_page_in_the_gallery_is_what_the_result_says():
    result = load(GALLERY / "robustness.json")
    page = (GALLERY / "README.md").read_text()
    assert page == report.page(result, robustness.__doc__.splitlines()[0])
    assert f"{len(result.curves['digits'])} methods, each started from 8 rates" in page
    assert f"Measured on {result.date[:10]} by `{result.command}`: seed 0, 11 minutes on {result.device}" in page
    for data in result.curves:
        assert report.accuracy_table(result, data) in page
        assert report.loss_table(result, data) in page


def test_a_method_that_is_no_longer_known_is_still_drawn_and_listed():
    result = load(GALLERY / "robustness.json")
    for curves in result.curves.values():
        curves["gone"] = curves.pop("sgd")
    assert "| `gone` | 98.3 (2) |" in report.page(result, robustness.__doc__.splitlines()[0])
    figure = report.plot(result, robustness.GROUPS)
    texts = [text.get_text() for each in figure.findobj(Legend) for text in each.get_texts()]
    assert "gone (2, 1, 2)" in texts
    assert not any(text.startswith("sgd (") for text in texts)


def test_methods_of_a_group_are_told_apart_without_color():
    assert max(len(methods) for methods in robustness.GROUPS.values()) <= len(report.LOOKS)
    for look in ("marker", "linestyle", "color"):
        assert len({each[look] for each in report.LOOKS}) == len(report.LOOKS)


@pytest.mark.parametrize("method", robustness.METHODS)
def test_every_method_can_be_made_from_a_rate(method):
    assert callable(robustness.METHODS[method](0.1).update)


@pytest.mark.slow
def test_a_method_without_a_rate_is_run_once_and_holds_for_every_rate():
    measured = robustness.measure(tiny_workload(), 4, "cocob", np.array([1e-3, 1.0, 10.0]), [0])
    assert len(set(measured["train_loss"][0])) == 1
    assert np.shape(measured["accuracy"]) == (1, 3)
