"""Cyclical rates against the code that Smith prints in section 3 of the paper."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    NAN,
    WHOLE_STEPS,
    Case,
    reference,
    refuse,
    refuse_fractions,
    refuse_rates,
    refuse_steps,
    refuse_words,
)

import lrx

INT32_MAX = 2**31 - 1
STEPS = np.arange(400)
traced = jax.jit(lambda low, high, up, down, counts: lrx.cyclical(low, high, up, down_steps=down)(counts))


def paper(low: float, high: float, stepsize: int, mode: str = "triangular", gamma: float = 1.0) -> np.ndarray:
    cycle = np.floor(1 + STEPS / (2 * stepsize))
    x = np.abs(STEPS / stepsize - 2 * cycle + 1)
    scale = {"triangular": 1.0, "triangular2": 1 / 2 ** (cycle - 1), "exp_range": gamma**STEPS}[mode]
    return low + (high - low) * np.maximum(0, 1 - x) * scale


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("stepsize", [1, 7, 50])
def test_cyclical_is_the_papers_code(mode, stepsize):
    gamma = 0.99 if mode == "exp_range" else 1.0
    rates = lrx.cyclical(0.001, 0.006, stepsize, mode=mode, decay_rate=gamma)(STEPS)
    np.testing.assert_allclose(rates, paper(0.001, 0.006, stepsize, mode, gamma), rtol=5e-6)


@given(
    st.integers(1, INT32_MAX),
    st.integers(1, INT32_MAX),
    st.lists(st.integers(0, INT32_MAX), min_size=4, max_size=4),
)
def test_triangles_are_exact_for_any_durations(up, down, others):
    counts = np.clip([0, up - 1, up, up + 1, up + down - 1, up + down, 5 * (up + down), *others], 0, INT32_MAX)
    schedule = lrx.cyclical(0.1, 0.7, up, down_steps=down)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6)
    low, high = np.float32(0.1), np.float32(0.7)
    rounded = lrx.cyclical(float(low), float(high), up, down_steps=down)
    by_argument = traced(low, high, np.int32(up), np.int32(down), counts.astype(np.int32))
    np.testing.assert_allclose(by_argument, reference(rounded, counts), rtol=1e-6)


@given(st.integers(1, 2**30), st.lists(st.integers(0, INT32_MAX), min_size=4, max_size=4))
def test_triangular2_halves_the_amplitude_with_each_cycle(half, others):
    counts = np.clip([0, half, 2 * half - 1, 2 * half, 3 * half, *others], 0, INT32_MAX)
    schedule = lrx.cyclical(0.1, 0.7, half, mode="triangular2")
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=5e-6)


def test_bounds_are_reached_exactly():
    schedule = lrx.cyclical(0.1, 0.7, 10, down_steps=5)
    np.testing.assert_array_equal(schedule(np.asarray([0, 10, 15, 25, 30])), np.float32([0.1, 0.7, 0.1, 0.7, 0.1]))


def test_cyclical_is_built_inside_jit_from_known_and_traced_arguments():
    # A comparison of known arrays is traced inside jit, which must not be taken for a traced argument.
    low, high = np.float32(0.1), jax.numpy.asarray(0.7)
    rate = jax.jit(lambda half: lrx.cyclical(low, high, half)(3))(6)
    np.testing.assert_allclose(rate, 0.4, rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def cyclical_formula(
    t: np.ndarray,
    *,
    min_value: Any,
    max_value: Any,
    half_period_steps: Any,
    down_steps: Any,
    mode: str,
    decay_rate: Any,
) -> np.ndarray:
    up = int(half_period_steps)
    down = up if down_steps is None else int(down_steps)
    cycle, position = np.divmod(t, up + down)
    wave = np.where(position < up, position / up, (up + down - position) / down)
    shrink = {
        "triangular": np.ones(t.shape),
        "triangular2": 0.5 ** cycle.astype(np.float64),
        "exp_range": float(decay_rate) ** t.astype(np.float64),
    }[mode]
    return float(min_value) + (float(max_value) - float(min_value)) * wave * shrink


CASES = {
    "triangular": Case(
        lrx.cyclical,
        {"min_value": 0.1, "max_value": 0.7, "half_period_steps": 3, "down_steps": 2},
        {
            "min_value": (0.0, 0.1, 0.7),
            "max_value": (0.1, 0.2, 1.0),
            "half_period_steps": (1, 3, 10_000),
            "down_steps": (1, 3, 10_000),
        },
        endless=True,
    ),
    "triangular2": Case(
        lrx.cyclical,
        {"min_value": 0.1, "max_value": 0.7, "half_period_steps": 2, "mode": "triangular2"},
        {"half_period_steps": (1, 3, 10_000)},
        tolerance=5e-6,
        endless=True,
    ),
    "exp_range": Case(
        lrx.cyclical,
        {"min_value": 0.1, "max_value": 0.7, "half_period_steps": 2, "mode": "exp_range", "decay_rate": 0.999},
        {"decay_rate": (0.5, 0.9999, 1.0)},
        tolerance=5e-6,
        endless=True,
    ),
}


REFUSED = [
    *refuse_rates(lrx.cyclical, "min_value"),
    *refuse_rates(lrx.cyclical, "max_value"),
    (
        lrx.cyclical,
        {"max_value": 0.05},
        ValueError,
        "^min_value must be <= max_value, got min_value=0.1, max_value=0.05: swap",
    ),
    *refuse_steps(lrx.cyclical, "half_period_steps"),
    *refuse(lrx.cyclical, "down_steps", (0, -5, 2.5, 2**31, NAN), ValueError, WHOLE_STEPS),
    *refuse_words(lrx.cyclical, "mode"),
    *refuse_fractions(lrx.cyclical, "decay_rate", "(0, 1]", (0.0, -0.5, 1.1)),
    (lrx.cyclical, {"decay_rate": 0.9}, ValueError, "^decay_rate must be 1 in mode='triangular', got decay_rate=0.9"),
]


REFERENCE = {
    "cyclical": cyclical_formula,
}
