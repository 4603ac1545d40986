"""The 1cycle policy and its momentum: PyTorch's phases, served for every length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import reference

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
