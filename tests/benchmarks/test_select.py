"""The benchmark of `select`: what strategies choose and lose, its tables, and the page in the gallery."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import pytest
from benchmarks.made_up_curves import curves_of

from lrx.benchmarks import available, select
from lrx.benchmarks.selection import report
from lrx.benchmarks.selection.curves import TaskCurves
from lrx.benchmarks.selection.measure import by_policy, measure, sources
from lrx.benchmarks.selection.replay import Pick
from lrx.benchmarks.selection.strategies import BUDGETS, at_default
from lrx.records import Result
from lrx.tuning.selection.policy import Ask, Certainty, Choice, Observed, Rival

GALLERY = pathlib.Path(__file__).parents[2] / "examples/gallery/select"
LINEAR, ONE_CYCLE, SGD = "adamw, linear decay", "adamw, one-cycle", "sgd, linear decay"
CURVES = curves_of(
    {
        LINEAR: {1e-3: (0.4, 0.4), 1e-2: (0.2, 0.2)},
        ONE_CYCLE: {1e-3: (0.3, 0.3), 1e-2: (0.1, 0.1)},
        SGD: {0.05: (0.05, 0.05), 0.5: (math.inf, math.inf)},
    }
)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Choose without any run; nothing with a budget below 2."""

    def decide(self, observed: Observed) -> Ask | Choice:
        """Choose."""
        if observed.budget < 2:
            raise ValueError("nothing was learnt")
        return Choice(LINEAR, 1.1e-2, certainty=Certainty(0.3, (Rival(SGD, 0.05, 10, 0.2), Rival(SGD, 0.5, 10, 0.1))))


def test_each_choice_is_judged_against_the_oracle() -> None:
    found = measure(CURVES, {"select": by_policy(Fixed(), {}), "default: adamw": at_default(LINEAR)})
    assert found["oracle"] == {"method": SGD, "rate": pytest.approx(0.05), "value": pytest.approx(0.05)}
    rows = found["strategies"]["select"]
    assert len(rows) == 3
    assert [len(row) for row in rows] == [len(BUDGETS)] * 3
    assert rows[0][-1]["rate"] == pytest.approx(1e-2)
    assert rows[0][-1]["regret"] == pytest.approx(0.15 / 0.95, abs=1e-6)
    assert not rows[0][-1]["near"]
    assert (rows[0][-1]["doubt"], rows[0][-1]["missed"]) == (0.3, True)  # the first of the rivals is better
    # Where nothing was learnt, the worst run of all stands for the choice.
    assert (rows[0][0]["method"], rows[0][0]["regret"]) == (SGD, None)
    # A strategy whose choice is the same with each budget has one.
    assert [len(row) for row in found["strategies"]["default: adamw"]] == [1] * 3


def test_what_was_not_judged_is_trained_first() -> None:
    curves = curves_of({LINEAR: {1e-3: (0.4, 0.4), 1e-2: (0.2, 0.2)}})
    curves.methods[LINEAR].judged[:] = False
    asked: list[tuple[str, float]] = []

    def judging(pairs: list[tuple[str, float]]) -> TaskCurves:
        asked.extend(pairs)
        curves.methods[LINEAR].judged[:] = True
        return curves

    measure(curves, {"default: adamw": at_default(LINEAR)}, judging)
    assert sorted(asked) == [(LINEAR, pytest.approx(1e-3)), (LINEAR, pytest.approx(1e-2))]
    curves.methods[LINEAR].judged[:] = False
    with pytest.raises(KeyError, match="was not trained with the held-out seeds"):
        measure(curves, {"default: adamw": at_default(LINEAR)})


def test_regret_is_cut_into_optimizer_schedule_and_rate() -> None:
    rate = float(CURVES.methods[LINEAR].rates[0])
    found = sources(CURVES, Pick(LINEAR, rate, 1.0))
    span = 0.95
    assert found["total"] == pytest.approx(0.35 / span, abs=1e-6)
    assert found["optimizer"] == pytest.approx(0.05 / span, abs=1e-6)  # AdamW with one-cycle at its best rate
    assert found["schedule"] == pytest.approx(0.1 / span, abs=1e-6)
    assert found["rate"] == pytest.approx(0.2 / span, abs=1e-6)
    assert found["total"] == pytest.approx(found["optimizer"] + found["schedule"] + found["rate"], abs=3e-6)
    assert found["oracle's method"] == 0


def _pick(regret: float | None, *, doubts: bool) -> dict[str, Any]:
    near = regret is not None and regret <= 0.01
    found = {"method": "sgd", "rate": 0.1, "cost": 2.5, "regret": regret, "error": 0.001, "near": near}
    return found | ({"doubt": 0.15 if near else 0.3, "missed": not near} if doubts else {})


def made_up(regrets: dict[str, list[list[float | None]]], names: tuple[str, ...] = ("first", "second")) -> Result:
    """A result with two tasks, these regrets of strategies, and the same with each of two budgets."""
    curves: dict[str, Any] = {}
    for place, task in enumerate(names):
        strategies = {
            name: [[_pick(each, doubts=name == "select")] for each in tasks[place]] for name, tasks in regrets.items()
        }
        curves[task] = {
            "kind": ("text", "tables")[place],
            "steps": 10,
            "metric": "loss",
            "initial": 1.0,
            "oracle": {"method": "adamw", "rate": 0.01, "value": 0.95},
            "strategies": strategies,
            "sources": [dict.fromkeys(("total", "optimizer", "schedule", "rate", "oracle's method"), 0.01 * place)],
        }
    return Result("select", "cpu", ", ".join(names), [0, 1], {"budgets": [1.0, 3.0]}, curves, 1.0)


REGRETS: dict[str, list[list[float | None]]] = {
    "select": [[0.005, 0.03], [-0.01, 0.0]],
    "default: sgd": [[0.01, 0.01], [None, None]],
    "default: adamw": [[0.2, 0.2], [0.2, 0.2]],
}


def test_statistics_count_choices_and_tasks() -> None:
    found = report.statistics(made_up(REGRETS))
    assert found["select"][0] == report.Statistics(pytest.approx(0.0025), pytest.approx(0.00625), 0.03, 0.03, 0.75, 0.5)
    assert found["default: sgd"][1].worst == math.inf
    assert found["default: sgd"][1].mean == pytest.approx(0.505)  # a divergence counts as no training
    assert found[report.BEST_DEFAULT] == found["default: adamw"]


def test_tables_name_every_strategy_task_and_kind() -> None:
    result = made_up(REGRETS)
    assert "| select | 50 % | 75 % | 0.25 % | 0.62 % | 3.00 % | 3.00 % |" in report.summary(result, 3.0)
    assert "| default: sgd | 50 % | 50 % |" in report.summary(result, 3.0)
    tasks = report.task_table(result, "select", 3.0).splitlines()
    assert tasks[2].startswith("| tables | second | adamw at 0.01 | 0.95 | sgd at 0.1; sgd at 0.1 | -1.00 %, 0.00 % |")
    assert "0.50 %, 3.00 % *" in tasks[3]
    assert [report.percent(value) for value in (math.nan, math.inf, 0.0123)] == ["-", "diverged", "1.23 %"]
    assert "| tables | 1 | -0.50 % | 100 % |" in report.kind_table(result, ["select", "default: sgd"], 3.0)
    assert "| mean of the kinds | 0.50 % |" in report.source_table(result)
    doubts = report.doubt_table(result, "select").splitlines()
    assert doubts[2:] == ["| 10 to 20 % | 3 | 15 % | 0 % |", "| 20 to 40 % | 1 | 30 % | 100 % |"]


def test_a_result_leaves_its_tables_and_a_picture(tmp_path: pathlib.Path) -> None:
    paths = select.write(made_up(REGRETS), "known", tmp_path)
    assert [path.name for path in paths] == ["known.json", "known.png", "README.md"]
    page = (tmp_path / "README.md").read_text()
    assert report.summary(made_up(REGRETS), 3.0) in page
    assert (tmp_path / "known.png").stat().st_size > 10_000


def test_the_page_in_the_gallery_is_what_its_results_say() -> None:
    results = select.measured_in(GALLERY)
    assert "known" in results
    page = (GALLERY / "README.md").read_text()
    assert page == report.page(results, select.INTRODUCTION)
    for suite, result in results.items():
        assert (GALLERY / f"{suite}.png").exists()
        assert report.task_table(result, "select", 3.0) in page


def test_a_task_without_curves_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="--curves must hold the curves of wine-unscaled, got --curves"):
        select.main(["wine-unscaled"], curves=tmp_path, folder=tmp_path)


def test_every_benchmark_says_what_it_asks() -> None:
    questions = available()
    assert {"select", "select_curves", "select_prior", "robustness", "optimizer_step"} <= questions.keys()
    assert not {"torch_resnet", "timing"} & questions.keys()
    assert all(question.endswith("?") for question in questions.values())
