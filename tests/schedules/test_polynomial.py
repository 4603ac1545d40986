"""Linear decay against alpha_end + (alpha_0 - alpha_end) (1 - t/T)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from units import (
    NAN,
    Case,
    fractions,
    reference,
    refuse,
    refuse_rates,
    refuse_steps,
)

import lrx

INT32_MAX = 2**31 - 1
durations = st.integers(1, INT32_MAX)
rates = st.floats(1e-6, 10.0)
traced = jax.jit(lambda init, steps, end, counts: lrx.linear_decay(init, steps, end_value=end)(counts))


powers = st.sampled_from([0.5, 0.9, 2.0, 3.0])


def near(length: int, others: list[int]) -> np.ndarray:
    """Return steps around the ends and anywhere."""
    counts = [0, 1, length // 2, length - 1, length, length + 1, *others]
    return np.clip(counts, 0, INT32_MAX)


@given(rates, durations, rates, st.lists(durations, min_size=3, max_size=3))
def test_linear_decay_is_exact_for_any_duration(init, steps, end, others):
    counts = near(steps, others)
    schedule = lrx.linear_decay(init, steps, end_value=end)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6)
    init, end = np.float32(init), np.float32(end)
    rounded = lrx.linear_decay(float(init), steps, end_value=float(end))
    by_argument = traced(init, np.int32(steps), end, counts.astype(np.int32))
    np.testing.assert_allclose(by_argument, reference(rounded, counts), rtol=1e-6)


def test_linear_decay_is_the_seeds_line():
    alpha_0, total = 0.1, 10
    expected = [alpha_0 * (1 - t / total) for t in range(total + 1)]
    np.testing.assert_allclose(lrx.linear_decay(alpha_0, total)(np.arange(total + 1)), expected, rtol=1e-6, atol=1e-9)


def test_linear_decay_reaches_its_end_exactly_and_stays():
    schedule = lrx.linear_decay(0.3, 7, end_value=0.123)
    np.testing.assert_array_equal(schedule(np.asarray([7, 8, 10**6, INT32_MAX])), np.float32([0.123] * 4))
    assert schedule(6) > np.float32(0.123)


def test_last_step_before_the_end_does_not_cancel():
    # 1 - t/T in float32 would be 0 here, or off by half.
    total = 50_000_017
    np.testing.assert_allclose(lrx.linear_decay(1.0, total)(total - 1), 1 / total, rtol=1e-6)


def test_linear_decay_rises_to_a_higher_end():
    np.testing.assert_allclose(lrx.linear_decay(0.0, 4, end_value=1.0)(np.arange(6)), [0, 0.25, 0.5, 0.75, 1, 1])


@given(rates, durations, powers, rates, st.lists(durations, min_size=3, max_size=3))
def test_polynomial_decay_is_exact_for_any_duration(init, steps, power, end, others):
    counts = near(steps, others)
    schedule = lrx.polynomial_decay(init, steps, power=power, end_value=end)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=5e-6)


def test_the_first_power_is_linear_decay():
    counts = np.arange(100)
    polynomial = lrx.polynomial_decay(0.3, 77, power=1.0, end_value=0.01)(counts)
    np.testing.assert_allclose(polynomial, lrx.linear_decay(0.3, 77, end_value=0.01)(counts), rtol=1e-6)


def test_a_rise_to_a_much_higher_end_does_not_cancel_at_its_beginning():
    # end + (init - end) (1 - u)^p loses all of init here.
    schedule = lrx.polynomial_decay(1e-8, 10**9, power=2.0, end_value=1.0)
    np.testing.assert_allclose(schedule(np.asarray([0, 1, 2])), [1e-8, 1.2e-8, 1.4e-8], rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def linear_decay_formula(t: np.ndarray, *, init_value: Any, decay_steps: Any, end_value: Any) -> np.ndarray:
    passed, left = fractions(t, decay_steps)
    return float(init_value) * left + float(end_value) * passed


def polynomial_decay_formula(
    t: np.ndarray, *, init_value: Any, decay_steps: Any, power: Any, end_value: Any
) -> np.ndarray:
    _, left = fractions(t, decay_steps)
    return float(end_value) + (float(init_value) - float(end_value)) * left ** float(power)


CASES = {
    "linear_decay": Case(
        lrx.linear_decay,
        {"init_value": 0.3, "decay_steps": 4, "end_value": 0.01},
        {"init_value": (0.0, 0.1, 2.0), "decay_steps": (1, 3, 10_000), "end_value": (0.0, 0.2, 1.0)},
        end=4,
    ),
    "polynomial_decay": Case(
        lrx.polynomial_decay,
        {"init_value": 0.3, "decay_steps": 4, "power": 2.0, "end_value": 0.01},
        {
            "init_value": (0.0, 0.1, 2.0),
            "decay_steps": (1, 3, 10_000),
            "power": (0.5, 0.9, 3.0),
            "end_value": (0.0, 0.2, 1.0),
        },
        tolerance=5e-6,
        end=4,
    ),
}


REFUSED = [
    *refuse_rates(lrx.linear_decay, "init_value"),
    *refuse_rates(lrx.linear_decay, "end_value"),
    *refuse_steps(lrx.linear_decay, "decay_steps"),
    *refuse_rates(lrx.polynomial_decay, "init_value"),
    *refuse_steps(lrx.polynomial_decay, "decay_steps"),
    *refuse_rates(lrx.polynomial_decay, "end_value"),
    *refuse(lrx.polynomial_decay, "power", (0.0, -1.0, NAN), ValueError, "must be a finite number > 0, got {0}="),
]


REFERENCE = {
    "linear_decay": linear_decay_formula,
    "polynomial_decay": polynomial_decay_formula,
}
