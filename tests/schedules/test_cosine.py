"""Cosine annealing against alpha_min + (alpha_max - alpha_min) (1 + cos(pi t / T)) / 2."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    INF,
    NAN,
    Case,
    fractions,
    reference,
    refuse,
    refuse_fractions,
    refuse_rates,
    refuse_steps,
)

import lrx

INT32_MAX = 2**31 - 1
durations = st.integers(1, INT32_MAX)
rates = st.floats(1e-6, 10.0)
traced = jax.jit(lambda init, steps, end, counts: lrx.cosine_decay(init, steps, end_value=end)(counts))


def test_cosine_decay_is_the_papers_formula():
    low, high, total = 1e-3, 0.1, 37
    expected = [low + (high - low) * (1 + np.cos(np.pi * t / total)) / 2 for t in range(total + 1)]
    np.testing.assert_allclose(lrx.cosine_decay(high, total, end_value=low)(np.arange(total + 1)), expected, rtol=1e-6)


@given(rates, durations, rates, st.lists(durations, min_size=3, max_size=3))
def test_cosine_decay_is_exact_for_any_duration(init, steps, end, others):
    counts = np.clip([0, 1, steps // 3, steps // 2, steps - 1, steps, steps + 1, *others], 0, INT32_MAX)
    schedule = lrx.cosine_decay(init, steps, end_value=end)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6)
    init, end = np.float32(init), np.float32(end)
    rounded = lrx.cosine_decay(float(init), steps, end_value=float(end))
    by_argument = traced(init, np.int32(steps), end, counts.astype(np.int32))
    np.testing.assert_allclose(by_argument, reference(rounded, counts), rtol=1e-6)


def test_cosine_decay_does_not_rise_again():
    rates = np.asarray(lrx.cosine_decay(0.3, 10, end_value=0.01)(np.arange(40)))
    assert np.all(np.diff(rates) <= 0)
    np.testing.assert_array_equal(rates[10:], np.float32(0.01))


def test_last_steps_of_a_long_cosine_do_not_cancel():
    # Here 1 + cos(pi t / T) is 0 in float32 from a thousand steps before the end on.
    total, before = 1_000_000, np.asarray([1, 10, 100, 1000])
    expected = np.sin(np.pi * before / total / 2) ** 2
    rates = lrx.cosine_decay(1.0, total)(total - before)
    # From 2.5e-12 of the initial rate on: law 5 counts what lies below 1e-12 absolutely.
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


# --- restarts

mults = st.sampled_from([1, 1.0001, 1.1, 1.25, 1.5, 2, 2.5, 3, 1000.0])
restarted = jax.jit(lambda period, mult, counts: lrx.cosine_restarts(1.0, period, period_mult=mult)(counts))


def restarts(period: int, mult: float, last: int = INT32_MAX) -> list[int]:
    """Return the first steps of all periods, added up in whole numbers."""
    begins, index = [0], 0
    while begins[-1] + round(period * mult**index) <= last and index < 50_000:
        begins.append(begins[-1] + round(period * mult**index))
        index += 1
    return begins


def near_restarts(period: int, mult: float, places: list[int]) -> np.ndarray:
    begins = restarts(period, mult)
    chosen = [begins[place % len(begins)] for place in [0, 1, -1, *places]]
    return np.clip([begin + shift for begin in chosen for shift in (-1, 0, 1)], 0, INT32_MAX)


@pytest.mark.parametrize(
    ("period", "mult", "step"), [(10, 2, 81_910), (10, 2, 327_670), (1, 3, 121), (1, 3, 29_524), (1, 3, 1_743_392_200)]
)
def test_restarts_fall_on_the_exact_step(period, mult, step):
    # Where libraries that take a logarithm in floating point are one period off.
    assert step in restarts(period, mult)
    schedule = lrx.cosine_restarts(1.0, period, period_mult=mult)
    before, at, after = np.asarray(schedule(np.asarray([step - 1, step, step + 1])))
    assert before < 1e-2
    assert at == 1.0
    assert after > 0.99
    by_argument = restarted(np.int32(period), np.float32(mult), np.asarray([step - 1, step, step + 1], np.int32))
    np.testing.assert_allclose(by_argument, [before, at, after], rtol=1e-6)


@pytest.mark.slow
@given(st.integers(1, 10**6), mults, st.lists(st.integers(0, 10**6), min_size=3, max_size=3))
def test_cosine_restarts_is_exact_at_any_restart(period, mult, places):
    counts = near_restarts(period, mult, places)
    schedule = lrx.cosine_restarts(0.3, period, period_mult=mult, end_value=1e-3, restart_mult=0.97)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=5e-6)


@given(
    st.integers(1, 10**6), st.floats(1.0625, 50.0, width=32), st.lists(st.integers(0, 10**6), min_size=3, max_size=3)
)
def test_cosine_restarts_is_exact_for_traced_periods_and_growth(period, mult, places):
    counts = near_restarts(period, mult, places)
    expected = reference(lrx.cosine_restarts(1.0, period, period_mult=mult), counts)
    rates = restarted(np.int32(period), np.float32(mult), counts.astype(np.int32))
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


def test_growth_just_above_one_costs_no_table_of_periods():
    # Two hundred million periods, in few different lengths.
    schedule = lrx.cosine_restarts(1.0, 10, period_mult=1 + 1e-9)
    counts = np.asarray([0, 9, 10, 10**9, INT32_MAX])
    assert np.all(np.isfinite(np.asarray(schedule(counts))))
    np.testing.assert_allclose(schedule(10**8 + 5), schedule(5), rtol=1e-6)


def test_growth_beyond_all_time_makes_the_second_period_the_last():
    known = lrx.cosine_restarts(1.0, 10, period_mult=1e12)(np.asarray([0, 9, 10, INT32_MAX]))
    traced_period = jax.jit(lambda period, counts: lrx.cosine_restarts(1.0, period, period_mult=1e12)(counts))
    np.testing.assert_allclose(traced_period(10, np.asarray([0, 9, 10, INT32_MAX], np.int32)), known, rtol=1e-4)
    np.testing.assert_allclose(known[2:], 1.0, rtol=1e-4)


def test_equal_periods_repeat_the_decay():
    counts = np.arange(100)
    once = lrx.cosine_decay(0.1, 20, end_value=0.01)
    np.testing.assert_allclose(lrx.cosine_restarts(0.1, 20, end_value=0.01)(counts), once(counts % 20), rtol=1e-6)


def test_peaks_fall_with_each_restart_but_not_below_the_end():
    schedule = lrx.cosine_restarts(0.8, 2, end_value=0.1, restart_mult=0.5)
    np.testing.assert_allclose(schedule(np.arange(0, 12, 2)), [0.8, 0.4, 0.2, 0.1, 0.1, 0.1], rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def cosine_decay_formula(t: np.ndarray, *, init_value: Any, decay_steps: Any, end_value: Any) -> np.ndarray:
    # 1 + cos(pi u) = 2 sin^2(pi (1 - u) / 2): near the end the left-hand side cancels even in float64.
    _, left = fractions(t, decay_steps)
    return float(end_value) + (float(init_value) - float(end_value)) * np.sin(np.pi * left / 2) ** 2


def cosine_restarts_formula(
    t: np.ndarray, *, init_value: Any, period_steps: Any, period_mult: Any, end_value: Any, restart_mult: Any
) -> np.ndarray:
    first, growth, end = int(period_steps), float(period_mult), float(end_value)
    if growth == 1:
        index, passed = np.divmod(t, first)
        length = np.full(t.shape, first)
    else:
        index, passed, length = np.zeros_like(t), t.copy(), np.full(t.shape, first)
        number, begin, steps = 0, 0, first
        while begin + steps <= t.max():
            number, begin, steps = number + 1, begin + steps, round(first * growth ** (number + 1))
            here = t >= begin
            index, passed = np.where(here, number, index), np.where(here, t - begin, passed)
            length = np.where(here, steps, length)
    peak = float(init_value) * float(restart_mult) ** index.astype(np.float64)
    peak = np.maximum(peak, min(end, float(init_value)))
    return end + (peak - end) * np.sin(np.pi * ((length - passed) / length) / 2) ** 2


CASES = {
    "cosine_decay": Case(
        lrx.cosine_decay,
        {"init_value": 0.3, "decay_steps": 4, "end_value": 0.01},
        {"init_value": (0.0, 0.1, 2.0), "decay_steps": (1, 3, 10_000), "end_value": (0.0, 0.2, 1.0)},
        end=4,
    ),
    "cosine_restarts": Case(
        lrx.cosine_restarts,
        {"init_value": 0.3, "period_steps": 2, "period_mult": 1.5, "end_value": 0.01, "restart_mult": 0.9},
        {
            "init_value": (0.0, 0.1, 2.0),
            "period_steps": (1, 3, 10_000),
            "period_mult": (1.0, 1.5, 3.0),
            "end_value": (0.0, 0.2, 1.0),
            "restart_mult": (0.5, 0.9, 1.0),
        },
        tolerance=5e-6,
        endless=True,
    ),
}


REFUSED = [
    *refuse_rates(lrx.cosine_decay, "init_value"),
    *refuse_rates(lrx.cosine_decay, "end_value"),
    *refuse_steps(lrx.cosine_decay, "decay_steps"),
    *refuse_rates(lrx.cosine_restarts, "init_value"),
    *refuse_steps(lrx.cosine_restarts, "period_steps"),
    *refuse(lrx.cosine_restarts, "period_mult", (0.5, 0, NAN, INF), ValueError, "must be a finite number >= 1, got"),
    *refuse_rates(lrx.cosine_restarts, "end_value"),
    *refuse_fractions(lrx.cosine_restarts, "restart_mult", "(0, 1]", (0.0, -0.5, 1.1)),
]


REFERENCE = {
    "cosine_decay": cosine_decay_formula,
    "cosine_restarts": cosine_restarts_formula,
}
