"""The fit of what is known from other tasks: the order, the predictions and the plans."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from benchmarks.made_up_curves import curves_of

from lrx.benchmarks.selection import fit as fits
from lrx.benchmarks.selection.curves import TaskCurves, load_all
from lrx.benchmarks.selection.fit import KNOWN, PLANS, Table, choose_plans, configuration, cost, fit
from lrx.tuning.selection.experience import Configuration, Plan, phi, shipped
from lrx.tuning.selection.portfolio import PORTFOLIO
from lrx.workloads.suite import FOLDS
from lrx.workloads.suite import TASKS as SUITE

GALLERY = pathlib.Path(__file__).parents[2] / "examples/gallery/select"
LINEAR, MUON = "adamw, linear decay", "muon, linear decay"


def task(name: str, kind: str, losses: dict[str, dict[float, float]]) -> TaskCurves:
    finals = {method: {rate: (loss, loss) for rate, loss in by_rate.items()} for method, by_rate in losses.items()}
    return dataclasses.replace(curves_of(finals), name=name, kind=kind)


# Muon is good on average, AdamW is best on the one task on which muon is bad.
TASKS = [
    task("one", "tables", {LINEAR: {1e-3: 0.3, 1e-2: 0.9}, MUON: {3e-3: 0.1}}),
    task("two", "text", {LINEAR: {1e-3: 0.2, 1e-2: 0.8}, MUON: {3e-3: 0.1}}),
    task("three", "convex", {LINEAR: {1e-3: 0.3, 1e-2: 0.1}, MUON: {3e-3: 0.9}}),
]


def test_a_configuration_is_its_distance_from_the_default_in_half_decades() -> None:
    assert configuration(LINEAR, 1e-2) == Configuration(LINEAR, 2)
    assert configuration(MUON, 3e-3) == Configuration(MUON, 0)


def test_the_order_adds_what_the_configurations_before_lack() -> None:
    table = Table(TASKS, [LINEAR, MUON])
    assert table.order()[:2] == [Configuration(MUON, 0), Configuration(LINEAR, 2)]
    assert Table(TASKS, [LINEAR]).configurations == [Configuration(LINEAR, 0), Configuration(LINEAR, 2)]


def test_kinds_count_alike_however_many_tasks_they_have() -> None:
    several = [*TASKS, *(dataclasses.replace(TASKS[0], name=f"more {number}") for number in range(6))]
    table = Table(several, [LINEAR, MUON])
    np.testing.assert_allclose([table.weights[1], table.weights[2]], 1 / 3)
    assert table.weights.sum() == pytest.approx(1)


def test_means_are_those_of_phi_over_the_tasks() -> None:
    found = fits.fit_without_plans(TASKS, [LINEAR, MUON], {})
    expected = np.mean([phi(0.0), phi(0.0), phi(0.8 / 0.9)])
    assert found.means[Configuration(MUON, 0)] == pytest.approx(expected, abs=1e-6)
    assert all(len(usual) == 4 for usual in found.usual.values())
    # The made-up curves go straight to their ends, so the beginning tells as much as the end.
    assert found.slopes[-1] == pytest.approx(1, abs=1e-6)
    assert found.slopes[0] == pytest.approx(1, abs=0.05)


def test_plans_are_judged_on_kinds_that_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Plan(0, 0, 0, 0, 1), Plan(0, 0, 0, 0, 2)
    monkeypatch.setattr(fits, "PLANS", {2.0: (one, two)})
    portfolio = {name: PORTFOLIO[name] for name in (LINEAR, MUON)}
    seen: list[list[str]] = []
    original = fits.fit_without_plans

    def watch(tasks: list[TaskCurves], *rest: object) -> object:
        seen.append([each.kind for each in tasks])
        return original(tasks, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fits, "fit_without_plans", watch)
    found = choose_plans(TASKS, [["tables"], ["text", "convex"]], portfolio)
    assert found == {2.0: two}  # the second run saves the task on which muon is bad
    assert seen == [["text", "convex"], ["tables"]]


def test_every_plan_is_paid_for_by_its_budget() -> None:
    assert cost(Plan(9, 3, 2, 0, 1)) == pytest.approx(3)
    assert cost(Plan(0, 3, 0, 0, 0)) == pytest.approx(1)
    assert cost(Plan(9, 4, 0, 2, 1)) == pytest.approx(1 + 8 / 9 + 2 * (3**-0.5 - 1 / 3) + 1 - 3**-0.5)
    for budget, plans in PLANS.items():
        assert all(cost(plan) <= budget + 1e-9 for plan in plans)


def test_the_fit_has_a_plan_for_each_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "PLANS", {budget: (Plan(0, 0, 0, 0, 1),) for budget in fits.BUDGETS})
    portfolio = {name: PORTFOLIO[name] for name in (LINEAR, MUON)}
    found = fit(TASKS, [["tables"], ["text"], ["convex"]], portfolio)
    assert [budget for budget, _ in found.plans] == list(fits.BUDGETS)


@pytest.mark.slow
def test_what_lrx_ships_is_fitted_to_the_recorded_curves() -> None:
    tasks = [curves for name, curves in load_all(GALLERY / "curves").items() if name in SUITE]
    found, known = fit(tasks, FOLDS, KNOWN), shipped()
    assert (found.order, found.plans) == (known.order, known.plans)
    # Some configurations were trained with the held-out seeds since.
    assert {each: pytest.approx(mean, abs=0.02) for each, mean in found.means.items()} == dict(known.means)
