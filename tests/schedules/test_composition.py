"""Warm-up and join, each schedule on its own clock."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import reference

import lrx

INT32_MAX = 2**31 - 1
traced = jax.jit(lambda length, counts: lrx.warmup(lrx.linear_decay(0.3, 1000), length, init_value=0.01)(counts))
joined = jax.jit(lambda boundary, counts: lrx.join([0.1, lrx.cosine_decay(0.3, 1000)], [boundary])(counts))


@given(st.integers(0, INT32_MAX - 2000), st.lists(st.integers(0, INT32_MAX), min_size=3, max_size=3))
def test_warmup_is_exact_for_any_duration(length, others):
    counts = np.clip([0, 1, length - 1, length, length + 1, length + 999, length + 1000, *others], 0, INT32_MAX)
    schedule = lrx.warmup(lrx.linear_decay(0.3, 1000), length, init_value=0.01)
    expected = reference(schedule, counts)
    np.testing.assert_allclose(schedule(counts), expected, rtol=1e-6)
    np.testing.assert_allclose(traced(np.int32(length), counts.astype(np.int32)), expected, rtol=1e-6)


@given(st.integers(1, INT32_MAX - 2000), st.lists(st.integers(0, INT32_MAX), min_size=3, max_size=3))
def test_join_is_exact_for_any_boundary(boundary, others):
    counts = np.clip([0, boundary - 1, boundary, boundary + 500, boundary + 1000, *others], 0, INT32_MAX)
    schedule = lrx.join([0.1, lrx.cosine_decay(0.3, 1000)], [boundary])
    expected = reference(schedule, counts)
    np.testing.assert_allclose(schedule(counts), expected, rtol=1e-6)
    np.testing.assert_allclose(joined(np.int32(boundary), counts.astype(np.int32)), expected, rtol=1e-6)


@pytest.mark.parametrize("ratio", [1e-12, 1e-6, 1e-3, 1.0, 1e3])
def test_exponential_warmup_is_exact_over_many_decades(ratio):
    total, peak = 1000, 0.5
    rates = lrx.warmup(peak, total, init_value=peak * ratio, mode="exponential")(np.arange(total + 1))
    expected = peak * ratio * (1 / ratio) ** (np.arange(total + 1) / total)
    np.testing.assert_allclose(rates, expected, rtol=5e-6)


def test_warmup_starts_at_its_first_value_and_meets_the_schedule():
    schedule = lrx.warmup(lrx.cosine_decay(0.3, 50), 10, init_value=0.03)
    counts = np.arange(60)
    ramp = np.asarray(schedule(counts))[:11]
    assert ramp[0] == np.float32(0.03)
    assert np.all(np.diff(ramp) > 0)
    np.testing.assert_array_equal(schedule(counts + 10), lrx.cosine_decay(0.3, 50)(counts))


def test_constant_warmup_waits():
    rates = lrx.warmup(0.3, 4, init_value=0.1, mode="constant")(np.arange(6))
    np.testing.assert_array_equal(rates, np.float32([0.1] * 4 + [0.3] * 2))


def test_no_warmup_steps_are_no_warmup():
    counts = np.arange(20)
    for mode in ("linear", "constant", "exponential"):
        schedule = lrx.warmup(lrx.linear_decay(0.3, 9), 0, init_value=0.1, mode=mode)
        np.testing.assert_array_equal(schedule(counts), lrx.linear_decay(0.3, 9)(counts))


def test_each_joined_schedule_starts_at_its_own_step_zero():
    parts = [lrx.linear_decay(1.0, 4), lrx.step_decay(0.5, 2), 0.125]
    counts = np.arange(12)
    rates = np.asarray(lrx.join(parts, [3, 8])(counts))
    np.testing.assert_array_equal(rates[:3], parts[0](counts)[:3])
    np.testing.assert_array_equal(rates[3:8], parts[1](counts)[:5])
    np.testing.assert_array_equal(rates[8:], [0.125] * 4)


def test_one_schedule_joins_alone():
    counts = np.arange(8)
    np.testing.assert_array_equal(lrx.join([lrx.linear_decay(1.0, 4)], [])(counts), lrx.linear_decay(1.0, 4)(counts))


def test_compositions_nest():
    inner = lrx.join([lrx.warmup(0.2, 3), lrx.cyclical(0.1, 0.4, 2)], [5])
    schedule = lrx.warmup(inner * 0.5, 4, init_value=0.01)
    counts = np.arange(40)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6)
