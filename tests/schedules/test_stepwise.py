"""Step decay against alpha_0 gamma^floor(t / s)."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from problems import reference

import lrx

INT32_MAX = 2**31 - 1
traced = jax.jit(lambda init, size, factor, counts: lrx.step_decay(init, size, factor=factor)(counts))


def test_step_decay_drops_at_the_step_itself():
    rates = lrx.step_decay(0.8, 30, factor=0.5)(np.asarray([0, 29, 30, 59, 60, 90]))
    np.testing.assert_array_equal(rates, np.float32([0.8, 0.8, 0.4, 0.4, 0.2, 0.1]))


@given(st.integers(1, INT32_MAX), st.floats(0.05, 1.0), st.lists(st.integers(0, INT32_MAX), min_size=3, max_size=3))
def test_step_decay_is_exact_for_any_duration(size, factor, others):
    counts = np.clip([0, size - 1, size, 2 * size - 1, 2 * size, 7 * size, *others], 0, INT32_MAX)
    schedule = lrx.step_decay(0.7, size, factor=factor)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=5e-6, atol=0.7e-12)
    init, factor = np.float32(0.7), np.float32(factor)
    rounded = lrx.step_decay(float(init), size, factor=float(factor))
    by_argument = traced(init, np.int32(size), factor, counts.astype(np.int32))
    np.testing.assert_allclose(by_argument, reference(rounded, counts), rtol=5e-6, atol=0.7e-12)


def test_a_million_small_drops_do_not_drift():
    # 0.99999 rounded to float32 is off by 1e-8, which a million powers turn into one percent.
    schedule = lrx.step_decay(1.0, 1, factor=0.99999)
    np.testing.assert_allclose(schedule(1_000_000), 0.99999**1_000_000, rtol=5e-6)


def test_a_factor_of_one_changes_nothing():
    np.testing.assert_array_equal(lrx.step_decay(0.3, 1, factor=1.0)(np.asarray([0, 5, INT32_MAX])), np.float32(0.3))
