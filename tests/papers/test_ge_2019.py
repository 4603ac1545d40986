"""Ge et al. (2019): the schedules and the expectation against plain loops, and every verdict can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing, published

from lrx.papers import ge_2019
from lrx.records import Result
from lrx.workloads.least_squares_stream import expected_risk

TINY = Tiny(ge_2019.Size(640, 1))

WORST = str(ge_2019.CONDITIONS[-1])


@pytest.fixture(scope="module")
def result() -> Result:
    return published("ge_2019")


@pytest.mark.parametrize(("steps", "phases", "length"), [(1024, 10, 103), (30_000, 15, 2000), (10**5, 17, 5883)])
def test_step_decay_halves_the_rate_over_log2_t_equal_phases(steps: int, phases: int, length: int) -> None:
    rates = np.asarray(ge_2019.SCHEDULES["step"][0](0.3, None, steps)(jnp.arange(steps)))
    np.testing.assert_allclose(rates, 0.3 * 0.5 ** (np.arange(steps) // length), rtol=1e-5)
    assert len(np.unique(rates)) == phases


def test_polynomial_rates_are_those_of_the_text() -> None:
    count = np.arange(50)
    found = {name: ge_2019.SCHEDULES[name][0](0.3, 0.2, 50)(count) for name in ge_2019.POLYNOMIAL}
    np.testing.assert_allclose(found["1 / t"], 0.3 / (1 + 0.2 * count), rtol=1e-5)
    np.testing.assert_allclose(found["1 / sqrt t"], 0.3 / np.sqrt(1 + 0.2 * count), rtol=1e-5)


def test_restarts_come_at_horizons_that_double() -> None:
    rates = np.asarray(jax.jit(lambda count: ge_2019.restarted_step_decay(0.3, 3200)(count))(jnp.arange(3200)))
    starts = [0, *(np.flatnonzero(np.diff(rates) > 0) + 1)]
    assert starts == [0, 100, 200, 400, 800, 1600]
    np.testing.assert_allclose(rates[starts], 0.3, rtol=1e-6)
    np.testing.assert_allclose(rates[1600:], ge_2019.step_decay(0.3, 1600)(jnp.arange(1600)), rtol=1e-6)


def test_condition_numbers_are_those_of_the_eigenvalues() -> None:
    for condition in ge_2019.CONDITIONS:
        assert np.ptp(np.log(ge_2019.eigenvalues(condition))) == pytest.approx(np.log(condition))


def test_the_expected_risk_is_the_mean_of_many_plain_runs() -> None:
    diagonal, rates, runs = np.array([1.0, 0.3, 0.05]), 0.2 / (1 + 0.1 * np.arange(60)), 40_000
    generator = np.random.default_rng(0)
    x = np.zeros((runs, 3))
    for rate in rates:
        z = np.sqrt(diagonal) * generator.standard_normal((runs, 3))
        y = z.sum(axis=1) + ge_2019.NOISE * generator.standard_normal(runs)  # x* = (1, 1, 1)
        x += rate * (y - (z * x).sum(axis=1))[:, None] * z
    measured = 0.5 * np.mean((diagonal * (x - 1) ** 2).sum(axis=1))

    expected = expected_risk(jnp.asarray(diagonal), ge_2019.NOISE, jnp.asarray(rates))
    assert float(expected[-1]) == pytest.approx(measured, rel=0.02)


@pytest.mark.slow
def test_measured_risks_have_the_expectation_of_their_own_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ge_2019, "CONDITIONS", (20,))
    monkeypatch.setattr(ge_2019, "FRACTIONS", np.array([0.75, 0.1]))
    monkeypatch.setattr(ge_2019, "SPANS", np.array([1.0, 100.0]))
    size = ge_2019.Size(steps=200, runs=100)
    fractions, spans, found = ge_2019.risks("1 / t", size, (0, 1, 2))
    assert found.shape == (1, len(fractions), 3, len(ge_2019.points(200)))
    diagonal = ge_2019.eigenvalues(20)
    for fraction, span, of_seeds in zip(fractions, spans, found[0], strict=True):
        rates = fraction / diagonal.sum() / (1 + span / 200 * np.arange(200))
        expected = expected_risk(jnp.asarray(diagonal), ge_2019.NOISE, jnp.asarray(rates))[ge_2019.points(200) - 1]
        np.testing.assert_allclose(of_seeds.mean(axis=0), expected, rtol=0.05)


def times(name: str, factor: float, *, conditions: tuple[int, ...], too: tuple[str, ...] = ("risk",)) -> Any:
    """A change of an arm's curves by a factor."""

    def change(curves: dict[str, Any]) -> None:
        for condition in conditions:
            for kind in too:
                arm = curves["conditions"][str(condition)][name]
                arm[kind] = (factor * np.asarray(arm[kind])).tolist()

    return change


def together(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def change(curves: dict[str, Any]) -> None:
        for each in changes:
            each(curves)

    return change


BOTH = ("risk", "expected")


def steady(curves: dict[str, Any]) -> None:
    """Restarts that do not hurt: t f(x_t) stays."""
    steps = np.asarray(curves["steps"])
    arm = curves["conditions"][WORST]["step, restarted"]
    last = np.asarray(arm["risk"])[:, -1:]
    arm["risk"] = (last * steps[-1] / steps[None]).tolist()


@pytest.mark.parametrize(
    ("places", "change"),
    [
        # At kappa = 10 alone: all arms worse, so that the ratio stays.
        ({0}, together(*(times(n, 20.0, conditions=(10,), too=BOTH) for n in ("step", "1 / t", "1 / sqrt t")))),
        ({1}, times("step", 20.0, conditions=(100,), too=BOTH)),
        ({2}, together(*(times(n, 20.0, conditions=(1000,), too=BOTH) for n in ("step", "1 / t", "1 / sqrt t")))),
        ({3}, together(*(times(n, 10.0, conditions=(10,), too=BOTH) for n in ge_2019.POLYNOMIAL))),
        ({3, 4}, together(*(times(n, 0.1, conditions=(1000,), too=BOTH) for n in ge_2019.POLYNOMIAL))),
        ({5}, times("step", 1.4, conditions=ge_2019.CONDITIONS, too=("expected",))),
        ({6}, times("1 / t", 0.6, conditions=ge_2019.CONDITIONS, too=("expected",))),
        ({7}, times("1 / sqrt t", 1.4, conditions=ge_2019.CONDITIONS, too=("expected",))),
        ({8}, times("step, restarted", 0.6, conditions=ge_2019.CONDITIONS, too=("expected",))),
        ({9}, steady),
    ],
)
def test_every_verdict_can_fail(result: Result, places: set[int], change: Callable[[dict[str, Any]], None]) -> None:
    assert set(failing(result, change)) - set(failing(result)) == places
    assert not places & set(failing(result))
