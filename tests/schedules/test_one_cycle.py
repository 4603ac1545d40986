"""The 1cycle policy and its momentum: PyTorch's phases, served for every length."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    INF,
    NAN,
    Case,
    reference,
    refuse,
    refuse_flags,
    refuse_fractions,
    refuse_rates,
    refuse_steps,
    refuse_words,
)

import lrx

INT32_MAX = 2**31 - 1
traced = jax.jit(
    lambda total, share, counts: lrx.one_cycle(0.3, total, pct_start=share, anneal="linear", three_phase=True)(counts)
)


def near(total: int, share: float, others: list[int]) -> np.ndarray:
    peak = int(share * total)
    around = [peak - 2, peak - 1, peak, 2 * peak - 2, 2 * peak - 1, total - 2, total - 1, total]
    return np.clip([0, 1, *around, *others], 0, INT32_MAX)


@given(
    st.integers(1, INT32_MAX),
    st.floats(0.01, 0.5),
    st.sampled_from(["cosine", "linear"]),
    st.booleans(),
    st.lists(st.integers(0, INT32_MAX), min_size=4, max_size=4),
)
def test_one_cycle_is_exact_for_any_length(total, share, anneal, three_phase, others):
    counts = near(total, share, others)
    schedule = lrx.one_cycle(0.3, total, pct_start=share, anneal=anneal, three_phase=three_phase)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=2e-6)


@given(st.integers(2, INT32_MAX), st.floats(2**-6, 0.5, width=32), st.integers(0, INT32_MAX))
def test_one_cycle_is_exact_for_traced_lengths_and_shares(total, share, other):
    counts = near(total, share, [other])
    schedule = lrx.one_cycle(0.3, total, pct_start=share, anneal="linear", three_phase=True)
    rates = traced(np.int32(total), np.float32(share), counts.astype(np.int32))
    np.testing.assert_allclose(rates, reference(schedule, counts), rtol=2e-6)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 10, 100])
def test_short_runs_are_finite_and_end_low(total):
    rates = np.asarray(lrx.one_cycle(1.0, total)(np.arange(total + 3)))
    assert np.all(np.isfinite(rates))
    np.testing.assert_allclose(rates[total - 1 :], 1.0 / 25 / 1e4, rtol=1e-6)
    if total >= 10:
        assert rates.max() == pytest.approx(1.0, abs=0.01)


def test_a_share_that_ends_the_climb_at_step_0_starts_at_the_peak():
    # PyTorch divides by zero here.
    np.testing.assert_allclose(lrx.one_cycle(1.0, 10, pct_start=0.1)(0), 1.0, rtol=1e-6)


@pytest.mark.parametrize(("total", "share"), [(2, 0.5), (4, 0.25)])
def test_a_climb_of_no_steps_divides_nothing_by_0(total, share):
    with jax.debug_nans(True):
        rates = lrx.one_cycle(1.0, total, pct_start=share)(jnp.arange(total + 1))
    assert rates[0] == 1.0
    np.testing.assert_allclose(rates[-2:], 4e-6, rtol=1e-6)


def test_the_momentum_is_low_while_the_rate_is_high():
    counts = jnp.arange(100)
    rate, momentum = np.asarray(lrx.one_cycle(1.0, 100)(counts)), np.asarray(lrx.one_cycle_momentum(100)(counts))
    assert np.argmax(rate) == np.argmin(momentum) == 29
    np.testing.assert_allclose(momentum[[0, 29, 99]], [0.95, 0.85, 0.95], rtol=1e-6)
    # The mirror: as far below its highest as the rate is above where the phase began.
    climbing = (rate[:30] - rate[0]) / (rate[29] - rate[0])
    np.testing.assert_allclose(momentum[:30], 0.95 - 0.1 * climbing, rtol=1e-6)


def test_three_phases_return_to_the_start_before_they_end():
    rates = np.asarray(lrx.one_cycle(1.0, 101, pct_start=0.4, anneal="linear", three_phase=True)(np.arange(101)))
    np.testing.assert_allclose(rates[0], 0.04, rtol=1e-6)
    assert rates[78] > 0.04 > rates[79]  # 2 p T - 2 = 78.8
    np.testing.assert_allclose(rates[100], 4e-6, rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def phases_formula(t: np.ndarray, values: list[float], total: int, share: float, anneal: str) -> np.ndarray:
    """Return PyTorch's phases, which may end between two steps; an end that misses a step by rounding is that step."""
    ends = [0.0, share * total - 1, *([2 * share * total - 2] if len(values) == 4 else []), total - 1.0]
    ends = [round(end) if abs(end - round(end)) < 2.0**-20 else end for end in ends]
    rate = np.full(t.shape, values[-1])
    for begin, end, start, target in reversed(list(zip(ends, ends[1:], values, values[1:], strict=False))):
        length = end - begin if end > begin else 1.0
        passed, left = (t - begin) / length, (end - t) / length
        if anneal == "cosine":
            within = start * np.sin(np.pi / 2 * left) ** 2 + target * np.sin(np.pi / 2 * passed) ** 2
        else:
            within = start * left + target * passed
        rate = np.where(t < end, within, np.where(t == end, target, rate))
    return rate


def one_cycle_formula(
    t: np.ndarray,
    *,
    peak_value: Any,
    total_steps: Any,
    pct_start: Any,
    div_factor: Any,
    final_div_factor: Any,
    anneal: str,
    three_phase: bool,
) -> np.ndarray:
    peak, start = float(peak_value), float(peak_value) / float(div_factor)
    values = [start, peak, *([start] if three_phase else []), start / float(final_div_factor)]
    return phases_formula(t, values, int(total_steps), float(pct_start), anneal)


def one_cycle_momentum_formula(
    t: np.ndarray,
    *,
    total_steps: Any,
    min_value: Any,
    max_value: Any,
    pct_start: Any,
    anneal: str,
    three_phase: bool,
) -> np.ndarray:
    low, high = float(min_value), float(max_value)
    values = [high, low, high, *([high] if three_phase else [])]
    return phases_formula(t, values, int(total_steps), float(pct_start), anneal)


CASES = {
    "one_cycle": Case(
        lrx.one_cycle,
        {"peak_value": 0.3, "total_steps": 10},
        {
            "peak_value": (0.0, 0.1, 2.0),
            "total_steps": (1, 3, 10_000),
            "pct_start": (0.1, 0.35, 0.5),
            "div_factor": (1.0, 5.0, 25.0),
            "final_div_factor": (1.0, 1e2, 1e4),
        },
        end=9,
    ),
    "one_cycle in three lines": Case(
        lrx.one_cycle,
        {"peak_value": 0.3, "total_steps": 8, "anneal": "linear", "three_phase": True},
        {"total_steps": (2, 7, 10_000), "pct_start": (0.1, 0.35, 0.5)},
        end=7,
    ),
    "one_cycle_momentum": Case(
        lrx.one_cycle_momentum,
        {"total_steps": 6},
        {
            "total_steps": (1, 3, 10_000),
            "min_value": (0.0, 0.5, 0.85),
            "max_value": (0.9, 0.95, 0.99),
            "pct_start": (0.1, 0.35, 0.5),
        },
        end=5,
    ),
}


REFUSED = [
    *refuse_rates(lrx.one_cycle, "peak_value"),
    *refuse(lrx.one_cycle, "div_factor", (0.5, -1.0, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse(lrx.one_cycle, "final_div_factor", (0.5, INF), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse_steps(lrx.one_cycle, "total_steps"),
    *refuse_fractions(lrx.one_cycle, "pct_start", "(0, 1)", (0.0, 1.0, -0.5, 30)),
    (lrx.one_cycle, {"three_phase": True, "pct_start": 0.6}, ValueError, "^pct_start must be in \\(0, 0.5\\], got"),
    *refuse_words(lrx.one_cycle, "anneal"),
    *refuse_flags(lrx.one_cycle, "three_phase"),
    *refuse_steps(lrx.one_cycle_momentum, "total_steps"),
    *refuse_fractions(lrx.one_cycle_momentum, "pct_start", "(0, 1)", (0.0, 1.0, -0.5, 30)),
    (
        lrx.one_cycle_momentum,
        {"three_phase": True, "pct_start": 0.6},
        ValueError,
        "^pct_start must be in \\(0, 0.5\\], got",
    ),
    *refuse_words(lrx.one_cycle_momentum, "anneal"),
    *refuse_flags(lrx.one_cycle_momentum, "three_phase"),
    *refuse_fractions(lrx.one_cycle_momentum, "min_value", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.one_cycle_momentum, "max_value", "[0, 1)", (-0.1, 1.0)),
    (
        lrx.one_cycle_momentum,
        {"min_value": 0.96},
        ValueError,
        "^min_value must be <= max_value, got min_value=0.96, max",
    ),
]


REFERENCE = {
    "one_cycle": one_cycle_formula,
    "one_cycle_momentum": one_cycle_momentum_formula,
}
