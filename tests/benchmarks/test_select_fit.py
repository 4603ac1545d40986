"""The fit of what is known from other tasks: means, correlations and noise."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from benchmarks.made_up_curves import curves_of

from lrx.benchmarks.selection.curves import TaskCurves, load_all
from lrx.benchmarks.selection.fit import KNOWN, Table, configuration, fit
from lrx.benchmarks.selection.suites import KNOWN_TASKS
from lrx.tuning.selection.experience import REGRET, Configuration, phi, shipped

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


def test_configurations_are_those_of_the_methods_that_half_of_the_tasks_have() -> None:
    assert Table(TASKS, [LINEAR]).configurations == [Configuration(LINEAR, 0), Configuration(LINEAR, 2)]
    more = [*TASKS, *(task(f"more {number}", "text", {MUON: {0.03: 0.2}}) for number in range(4))]
    assert Table(more, [LINEAR, MUON]).configurations == [Configuration(MUON, 2)]


def test_kinds_count_alike_however_many_tasks_they_have() -> None:
    several = [*TASKS, *(dataclasses.replace(TASKS[0], name=f"more {number}") for number in range(6))]
    table = Table(several, [LINEAR, MUON])
    np.testing.assert_allclose([table.weights[1], table.weights[2]], 1 / 3)
    assert table.weights.sum() == pytest.approx(1)


def test_means_are_those_of_phi_over_the_tasks() -> None:
    found = fit(TASKS, [LINEAR, MUON])
    expected = np.mean([phi(0.0), phi(0.0), phi(0.8 / 0.9)])
    assert found.means[REGRET, found.places[Configuration(MUON, 0)]] == pytest.approx(expected, abs=1e-6)
    # The made-up curves go straight to their ends, so the beginning tells as much as the end, with each seed.
    np.testing.assert_allclose(found.between[-1], 1, atol=0.02)
    np.testing.assert_allclose(found.noise, 0, atol=1e-6)


def test_what_does_well_on_different_tasks_is_anticorrelated() -> None:
    found = fit(TASKS, [LINEAR, MUON])
    shown = found.profiles[REGRET].T @ found.profiles[REGRET]
    np.testing.assert_allclose(np.diag(shown), 1)
    muon, high = found.places[Configuration(MUON, 0)], found.places[Configuration(LINEAR, 2)]
    assert shown[muon, high] < -0.9
    by_hand = [phi(0.8 / 0.9), phi(0.7 / 0.9), phi(0.0)]
    regrets = [phi(0.0), phi(0.0), phi(0.8 / 0.9)]
    assert shown[muon, high] == pytest.approx(np.corrcoef(by_hand, regrets)[0, 1], abs=1e-4)
    # A part shows the same as the end here, since the made-up curves go straight there.
    across = found.profiles[1].T @ found.profiles[REGRET]
    np.testing.assert_allclose(across, shown, atol=0.1)


@pytest.mark.slow
def test_what_lrx_ships_is_fitted_to_the_recorded_curves() -> None:
    tasks = [curves for name, curves in load_all(GALLERY / "curves").items() if name in KNOWN_TASKS]
    found, known = fit(tasks, KNOWN), shipped()
    assert found.configurations == known.configurations
    # Some configurations were trained with the held-out seeds since.
    np.testing.assert_allclose(found.means, known.means, atol=0.02)
    np.testing.assert_allclose(found.profiles, known.profiles, atol=0.1)
