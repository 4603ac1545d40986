"""Inverse decays: Robbins and Monro's gains, and the transformer's square root."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from units import (
    NAN,
    Case,
    reference,
    refuse,
    refuse_rates,
    refuse_steps,
)

import lrx

INT32_MAX = 2**31 - 1
counts = st.lists(st.integers(0, INT32_MAX), min_size=5)


@given(st.floats(0.0, 10.0), st.sampled_from([0.5, 0.6, 0.75, 1.0]), counts)
def test_inverse_time_decay_is_exact_at_any_step(rate, power, steps):
    schedule = lrx.inverse_time_decay(0.3, rate, power=power)
    expected = reference(schedule, steps)
    tolerance = 1e-6 if power in (0.5, 1.0) else 5e-6
    np.testing.assert_allclose(schedule(np.asarray(steps)), expected, rtol=tolerance, atol=3e-13)


@given(st.integers(1, INT32_MAX), counts)
def test_inverse_sqrt_decay_is_exact_at_any_step(warmup, steps):
    steps = np.clip([0, 1, warmup - 1, warmup, warmup + 1, *steps], 0, INT32_MAX)
    schedule = lrx.inverse_sqrt_decay(0.3, warmup)
    np.testing.assert_allclose(schedule(steps), reference(schedule, steps), rtol=1e-6)


def test_gains_sum_to_infinity_and_their_squares_do_not():
    gains = np.asarray(lrx.inverse_time_decay(1.0, 1.0)(np.arange(1_000_000)), np.float64)
    sums = np.cumsum(gains)
    np.testing.assert_allclose(sums[999_999] - sums[99_999], np.log(10), rtol=1e-4)  # as far again for each tenfold
    np.testing.assert_allclose(np.sum(gains**2), np.pi**2 / 6, rtol=1e-5)


def test_inverse_sqrt_decay_peaks_where_the_warmup_ends_and_halves_in_four_times_the_time():
    rates = np.asarray(lrx.inverse_sqrt_decay(0.2, 100)(np.arange(1000)))
    assert np.argmax(rates) == 100
    np.testing.assert_allclose(rates[[100, 400, 900]], [0.2, 0.1, 0.2 / 3], rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def inverse_sqrt_decay_formula(t: np.ndarray, *, peak_value: Any, warmup_steps: Any) -> np.ndarray:
    length = int(warmup_steps)
    return float(peak_value) * np.where(t < length, t / length, np.sqrt(length / np.maximum(t, 1)))


def inverse_time_decay_formula(t: np.ndarray, *, init_value: Any, decay_rate: Any, power: Any) -> np.ndarray:
    return float(init_value) / (1 + float(decay_rate) * t) ** float(power)


CASES = {
    "inverse_time_decay": Case(
        lrx.inverse_time_decay,
        {"init_value": 0.3, "decay_rate": 0.1},
        {"init_value": (0.0, 0.1, 2.0), "decay_rate": (0.0, 1e-3, 1.0), "power": (0.5, 0.75, 1.0)},
        tolerance=5e-6,
        endless=True,
    ),
    "inverse_sqrt_decay": Case(
        lrx.inverse_sqrt_decay,
        {"peak_value": 0.3, "warmup_steps": 3},
        {"peak_value": (0.0, 0.1, 2.0), "warmup_steps": (1, 3, 10_000)},
        endless=True,
    ),
}


REFUSED = [
    *refuse_rates(lrx.inverse_time_decay, "init_value"),
    *refuse_rates(lrx.inverse_time_decay, "decay_rate"),
    *refuse(lrx.inverse_time_decay, "power", (0.0, -1.0, NAN), ValueError, "must be a finite number > 0, got {0}="),
    *refuse_rates(lrx.inverse_sqrt_decay, "peak_value"),
    *refuse_steps(lrx.inverse_sqrt_decay, "warmup_steps"),
]


REFERENCE = {
    "inverse_sqrt_decay": inverse_sqrt_decay_formula,
    "inverse_time_decay": inverse_time_decay_formula,
}
