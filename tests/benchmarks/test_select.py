"""The benchmark of `select`: the oracle, the regret on seeds of their own, and what is left behind."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tuning.line import line

import lrx
from lrx.benchmarks import available, select
from lrx.records import Result, load
from lrx.tuning import Method
from lrx.workloads.suite import Task

GALLERY = pathlib.Path(__file__).parents[2] / "examples/gallery/select"
LEADER, FOLLOWER = "adamw, warmup-stable-decay", "adamw, linear decay"
PORTFOLIO = {
    LEADER: Method(lambda rate, num_steps: lrx.sgd(rate), default=0.1, range_test_of=lrx.sgd, trials=2),
    FOLLOWER: Method(
        lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)),
        default=0.1,
        reusable_fraction=0.0,
        variant_of=LEADER,
    ),
    "cocob": Method(lambda rate, num_steps: lrx.cocob(), has_rate=False),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Task:
    """One task and three methods."""
    task = Task(lambda data_dir: line(lambda slope: {"error": 0.01 + jnp.abs(slope - 3.0)}), 200, "error", "min")
    monkeypatch.setitem(select.EARLIER, "line", task)
    monkeypatch.setattr(select, "PORTFOLIO", PORTFOLIO)
    monkeypatch.setattr(select, "CYCLES", (FOLLOWER,))
    return task


def test_the_grid_has_every_method_and_the_rates_around_its_default(small: Task) -> None:
    pairs = select.grid()
    rates = [rate for method, rate in pairs if method == LEADER]
    np.testing.assert_allclose(rates, 0.1 * np.logspace(-1.5, 2.5, 9), rtol=1e-6)
    assert [rate for method, rate in pairs if method == FOLLOWER] == rates
    assert [rate for method, rate in pairs if method == "cocob"] == [1.0]


def test_the_oracle_is_the_best_of_what_was_run_with_all_seeds(
    small: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    runs = select.Runs("line", small, None, tmp_path / "runs.json")
    # With the first seed the fourth is best; with the others it is far worse.
    lucky = select.grid()[3]
    table = {(pair, seed): 0.1 + index / 100 for index, pair in enumerate(select.grid()) for seed in (0, 1, 2)}
    table |= {(lucky, 0): 0.01, (lucky, 1): 1.0, (lucky, 2): 1.0}
    monkeypatch.setattr(runs, "value", lambda method, rate, seed: table[(method, rate), seed])
    assert select.oracle(runs) == (LEADER, select.grid()[0][1])


@pytest.mark.slow
def test_runs_are_made_once_and_kept(small: Task, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "folder" / "runs.json"
    runs = select.Runs("line", small, None, path)
    value = runs.value(LEADER, 0.1, 3)
    history = lrx.train(runs.workload, lrx.sgd(0.1), steps=200, seed=3)
    assert value == pytest.approx(float(history.evaluations["error"][-1]), rel=1e-3, abs=1e-6)
    assert runs.value(LEADER, 1e9, 3) == math.inf
    runs.save()
    again = select.Runs("line", small, None, path)
    again.runner.run_once = None  # type: ignore[assignment]
    assert again.value(LEADER, 0.1, 3) == value
    assert again.value(LEADER, 1e9, 3) == math.inf


@pytest.mark.slow
def test_optuna_spends_no_more_than_it_may(small: Task, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("optuna")
    runs = select.Runs("line", small, None, tmp_path / "runs.json")
    made: list[tuple[int, int]] = []
    plan = runs.runner.plan()
    original = plan.advance

    def advance(run: Any, hyper: Any, seeds: Any, start: int, stop: int) -> Any:
        made.append((start, stop))
        return original(run, hyper, seeds, start, stop)

    plan.advance = advance  # type: ignore[method-assign]
    method, rate, cost = select.with_optuna(runs, list(PORTFOLIO), seed=0)
    assert sum(stop - start for start, stop in made) == pytest.approx(200 * cost)
    assert 2 < cost <= 3
    assert method in PORTFOLIO
    factor = rate / PORTFOLIO[method].default
    assert select.TUNED_FACTORS[0] * 0.999 <= factor <= select.TUNED_FACTORS[-1] * 1.001
    assert runs.value(method, rate, 0) < 1.0


@pytest.mark.slow
def test_one_task_leaves_tables_a_result_and_a_picture(
    small: Task, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(select, "with_optuna", lambda runs, methods, seed: (LEADER, 1e9, 3.0))
    select.main(["line"], seeds=2, folder=tmp_path)
    out = capsys.readouterr().out
    result = load(tmp_path / "select.json")
    measured = result.curves["line"]
    kept = json.loads((tmp_path / "runs.json").read_text())["line"]
    strategies = measured["strategies"]
    best = measured["oracle"]
    held_out = [kept[f"{best['method']} | {best['rate']:.9g} | {seed}"] for seed in select.HELD_OUT]
    assert best["value"] == pytest.approx(np.mean(held_out))
    assert [len(strategies[name]) for name in ("select", f"range test, {FOLLOWER}", "default: cocob")] == [2, 2, 1]
    for rows in strategies.values():
        for each in rows:
            if each["rate"] < 1e9:
                assert each["regret"] == pytest.approx(each["value"] / best["value"] - 1, abs=1e-9)
    assert select.summary(result) in out
    assert "| optuna, portfolio | 0 of 1 | 0 of 2 | diverged | diverged | 3.00 |" in out
    assert (tmp_path / "select.png").stat().st_size > 10_000


def made_up(regrets: dict[str, list[list[float | None]]]) -> Result:
    """A result with two tasks and these regrets of strategies."""
    curves = {}
    for place, task in enumerate(("first", "second")):
        rows = {
            strategy: [
                {"method": "sgd", "rate": 0.1, "cost": 2.5, "value": 0.9, "regret": regret, "seconds": 1.0}
                for regret in tasks[place]
            ]
            for strategy, tasks in regrets.items()
        }
        curves[task] = {"oracle": {"method": "adamw", "rate": 0.01, "value": 0.95}, "strategies": rows}
    return Result("select", "cpu", "first, second", [0, 1], {}, curves, 1.0)


def test_the_summary_counts_what_is_near_the_oracle() -> None:
    result = made_up({"select": [[0.005, 0.03], [-0.01, 0.0]], "default: sgd": [[0.01], [None]]})
    first, second = select.summary(result).splitlines()[2:]
    assert first == "| select | 1 of 2 | 3 of 4 | 0.2 % | 3.0 % | 2.50 |"
    assert second == "| default: sgd | 1 of 2 | 1 of 2 | diverged | diverged | 2.50 |"
    assert select.task_table(result).splitlines()[2] == (
        "| first | adamw at 0.01 | 0.95 | sgd at 0.1; sgd at 0.1 | 0.5 %, 3.0 % |"
    )


def test_the_page_in_the_gallery_is_what_its_results_say() -> None:
    results = select.measured_in(GALLERY)
    assert list(results) == ["select", "unseen"]
    page = (GALLERY / "README.md").read_text()
    assert page == select.page(results)
    for stem, result in results.items():
        assert f"![Regret of every strategy on every task]({stem}.png)" in page
        assert (GALLERY / f"{stem}.png").exists()
        assert select.summary(result) in page
        assert select.task_table(result) in page
        assert f"Measured on {result.date[:10]} by `{result.command}`: seeds 200, 201, 202, " in page


def test_results_of_both_kinds_of_tasks_share_a_page(tmp_path: pathlib.Path) -> None:
    result = made_up({"select": [[0.005, 0.03], [-0.01, 0.0]]})
    result.settings |= {"budget": 3.0, "steps": {"first": 10}, "held_out_seeds": [1, 2]}
    assert [path.name for path in select.write(result, tmp_path)] == ["select.json", "select.png", "README.md"]
    result.curves = {"sparse-small": result.curves["first"]}
    result.settings["steps"] = {"sparse-small": 500}
    assert [path.name for path in select.write(result, tmp_path)] == ["unseen.json", "unseen.png", "README.md"]
    page = (tmp_path / "README.md").read_text()
    assert "first (10 steps). Judged with the seeds 1 to 2." in page
    assert page.index(f"## {select.STEMS['select']}") < page.index("sparse-small (500 steps)")


def test_every_benchmark_says_what_it_asks() -> None:
    questions = available()
    assert {"select", "robustness", "optimizer_step"} <= questions.keys()
    assert not {"torch_resnet", "timing"} & questions.keys()
    assert all(question.endswith("?") for question in questions.values())
