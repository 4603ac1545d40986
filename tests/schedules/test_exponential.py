"""Exponential decay against alpha_0 r^(t / s), with a floor."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from units import (
    Case,
    reference,
    refuse_flags,
    refuse_fractions,
    refuse_rates,
    refuse_steps,
)

import lrx

INT32_MAX = 2**31 - 1
traced = jax.jit(lambda rate, steps, counts: lrx.exponential_decay(1.0, rate, transition_steps=steps)(counts))


@given(st.floats(0.01, 1.0), st.integers(1, INT32_MAX), st.booleans(), st.lists(st.integers(0, INT32_MAX), min_size=4))
def test_exponential_decay_is_exact_for_any_factor_and_duration(rate, steps, staircase, others):
    counts = np.clip([0, 1, steps - 1, steps, steps + 1, *others], 0, INT32_MAX)
    schedule = lrx.exponential_decay(0.7, rate, transition_steps=steps, staircase=staircase)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=5e-6, atol=7e-13)


@given(st.floats(2**-6, 1.0, width=32), st.integers(1, INT32_MAX), st.integers(0, INT32_MAX))
def test_exponential_decay_is_exact_for_traced_factors(rate, steps, other):
    counts = np.clip([0, 1, steps - 1, steps, steps + 1, other], 0, INT32_MAX)
    expected = reference(lrx.exponential_decay(1.0, rate, transition_steps=steps), counts)
    rates = traced(np.float32(rate), np.int32(steps), counts.astype(np.int32))
    np.testing.assert_allclose(rates, expected, rtol=5e-6, atol=1e-12)


def test_the_textbooks_exponential_is_a_decay_rate_of_its_own():
    k, counts = 0.01, np.arange(1000)
    rates = lrx.exponential_decay(0.1, math.exp(-k))(counts)
    np.testing.assert_allclose(rates, 0.1 * np.exp(-k * counts), rtol=5e-6)


def test_staircase_without_a_floor_is_step_decay():
    counts = np.arange(500)
    stairs = lrx.exponential_decay(0.1, 0.5, transition_steps=30, staircase=True)(counts)
    np.testing.assert_array_equal(stairs, lrx.step_decay(0.1, 30, factor=0.5)(counts))


def test_the_floor_holds():
    rates = lrx.exponential_decay(0.1, 0.5, end_value=0.02)(np.arange(6))
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.025, 0.02, 0.02, 0.02], rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def exponential_decay_formula(
    t: np.ndarray, *, init_value: Any, decay_rate: Any, transition_steps: Any, staircase: bool, end_value: Any
) -> np.ndarray:
    exponent = t // int(transition_steps) if staircase else t / int(transition_steps)
    return np.maximum(float(init_value) * float(decay_rate) ** exponent.astype(np.float64), float(end_value))


CASES = {
    "exponential_decay": Case(
        lrx.exponential_decay,
        {"init_value": 0.3, "decay_rate": 0.9, "transition_steps": 2},
        {"init_value": (0.0, 0.1, 2.0), "decay_rate": (0.5, 0.9999, 1.0), "transition_steps": (1, 3, 10_000)},
        tolerance=5e-6,
        endless=True,
    ),
    "exponential_decay in steps to a floor": Case(
        lrx.exponential_decay,
        {"init_value": 0.3, "decay_rate": 0.5, "transition_steps": 2, "staircase": True, "end_value": 0.1},
        {"end_value": (0.0, 0.1, 0.2), "transition_steps": (1, 3, 10_000)},
        tolerance=5e-6,
        end=4,
    ),
}


REFUSED = [
    *refuse_rates(lrx.exponential_decay, "init_value"),
    *refuse_fractions(lrx.exponential_decay, "decay_rate", "(0, 1]", (0.0, -0.5, 1.1)),
    *refuse_steps(lrx.exponential_decay, "transition_steps"),
    *refuse_flags(lrx.exponential_decay, "staircase"),
    *refuse_rates(lrx.exponential_decay, "end_value"),
    (
        lrx.exponential_decay,
        {"end_value": 0.4},
        ValueError,
        "^end_value must be <= init_value, got end_value=0.4, init",
    ),
]


REFERENCE = {
    "exponential_decay": exponential_decay_formula,
}
