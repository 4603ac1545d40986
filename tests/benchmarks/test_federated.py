"""The benchmark of rates of the server: its runs, what it counts, and how it continues."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

import lrx
from lrx.benchmarks import federated
from lrx.benchmarks import federated_report as report
from lrx.federated import simulate
from lrx.records import Result, load

TINY = federated.Settings(target=0.3, client_rate=0.05, num_train=300, num_test=100, width=4, local_steps=2)


def made_up(rounds: dict[str, list[float]], rates: list[float] | None = None) -> Result:
    """A result with one data set, two seeds and 20 rounds."""
    starts, num_rounds = [1e-3, 0.1, 1.0, 10.0], 20
    curves: dict[str, Any] = {}
    for method, means in rounds.items():
        curves[method] = {
            "rates": [0.5, 2.0, 8.0] if method == "constant" else [2 * start for start in starts][: len(means)],
            "rounds": [[mean, mean] for mean in means],
            "rate": [[rates or [2.0] * num_rounds] * 2] * len(means),
        }
    settings = {
        "workloads": {"digits": dataclasses.asdict(TINY)},
        "rounds": num_rounds,
        "clients": 10,
        "concentration": 0.1,
        "smoothed": 3,
        "starts": starts,
        "methods": {method: "sgd(1.0)" for method in rounds},
    }
    return Result("federated", "cpu", "digits", [0, 1], settings, {"digits": curves}, 1.0)


@pytest.mark.slow
def test_runs_are_those_of_simulate() -> None:
    workload, labels = federated.load_workload("digits", TINY, None)
    measured = federated.measure(workload, labels, TINY, "cumulative_path", [0.5, 2.0], [3, 4], 5)
    [part] = federated.partitions(labels, [4])
    server = lrx.sgd(lrx.constant(2.0) * lrx.cumulative_path())
    options: dict[str, Any] = {"num_rounds": 5, "evaluate_every": 1, "seed": 4, "local_steps": TINY.local_steps}
    history = simulate(workload, part, client=lrx.sgd(TINY.client_rate), server=server, **options)
    np.testing.assert_allclose(measured["accuracy"][1][1], history.evaluations["accuracy"][1:], atol=0.011)
    np.testing.assert_allclose(measured["rate"][1][1], history.server_rate, rtol=1e-3)
    assert measured["rate"][0][1] != measured["rate"][1][1]


def test_rounds_are_counted_until_a_mean_of_three_reaches_the_target() -> None:
    accuracy = np.array([[0.1, 0.9, 0.2, 0.4, 0.5, 0.6, 0.7], [0.1] * 7])
    assert federated.rounds_to(accuracy, 0.5).tolist() == [4, 8]
    assert federated.rounds_to(accuracy, 0.6).tolist() == [7, 8]


def test_a_finished_part_is_not_measured_again_unless_something_else_is_asked_for(tmp_path: pathlib.Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, Any]:
        calls.append(1)
        return {"rounds": (1, 2)}

    for asked in ({"rates": (1.0,)}, {"rates": [1.0]}, {"rates": [2.0]}):
        assert federated.kept(tmp_path / "part.json", asked, work) == {"rounds": [1, 2]}
    assert len(calls) == 2


def test_ratios_are_to_the_best_constant_rate_and_the_climb_is_taken_off() -> None:
    rates = [0.002] * 6 + [1.0] * 14
    result = made_up({"constant": [15, 10, 20], "pid": [20, 12, 10, 14], "fed_adam": [12]}, rates)
    assert report.best_constant(result, "digits") == (2.0, 10.0)
    assert report.worst_ratio(result, "digits", "pid") == pytest.approx(1.4)
    assert report.climb(result, "digits", "pid") == 6
    assert report.far_ratio(result, "digits", "pid") == pytest.approx(1.4)
    assert "| `pid` | 1.40 | 1.40 after 6 * |" in report.summary(result)
    slow = made_up({"constant": [15, 10, 20], "pid": [20, 12, 10, 11], "fed_adam": [12]}, [0.01] * 20)
    assert "| `pid` | 1.20 * | does not climb |" in report.summary(slow)


def test_runs_that_miss_the_target_are_shown() -> None:
    assert report._cell(np.array([21.0, 21.0]), 20) == "-"
    assert report._cell(np.array([11.0, 21.0]), 20) == "16.0 ± 7.1 (1 missed)"


def test_pixels_are_averaged_over_squares() -> None:
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    assert federated.pooled(images, 2)[0, :, :, 0].tolist() == [[2, 4], [10, 12]]


def test_the_page_in_the_gallery_is_what_the_result_says() -> None:
    folder = pathlib.Path(__file__).parents[2] / "examples/gallery/federated"
    found = load(folder / "federated.json")
    assert (folder / "README.md").read_text() == report.page(found, federated.__doc__.splitlines()[0])
