"""Inverse decays: Robbins and Monro's gains, and the transformer's square root."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from problems import reference

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
