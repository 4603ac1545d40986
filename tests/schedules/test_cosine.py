"""Cosine annealing against alpha_min + (alpha_max - alpha_min) (1 + cos(pi t / T)) / 2."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from problems import reference

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
