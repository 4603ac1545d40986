"""Warm-up and join, each schedule on its own clock."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    FOLLOWING_FEEDBACK,
    NAN,
    NOT_A_SCHEDULE,
    NUMBER,
    Case,
    fractions,
    reference,
    refuse,
    refuse_rates,
    refuse_steps,
    refuse_words,
)

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


# ---------------------------------------------------------------------- what the laws hold it to


def join_formula(t: np.ndarray, *, schedules: Any, boundaries: Any) -> np.ndarray:
    begins = [0, *(int(boundary) for boundary in boundaries)]
    rate = np.zeros(t.shape)
    for begin, schedule in zip(begins, schedules, strict=True):
        rate = np.where(t >= begin, reference(schedule, np.maximum(t - begin, 0)), rate)
    return rate


def warmup_formula(t: np.ndarray, *, schedule: Any, warmup_steps: Any, init_value: Any, mode: str) -> np.ndarray:
    length, start = int(warmup_steps), float(init_value)
    peak = float(reference(schedule, np.zeros(1, np.int64))[0])
    after = reference(schedule, np.maximum(t - length, 0))
    if length == 0:
        return after
    passed, left = fractions(t, length)
    if mode == "exponential":
        ramp = start * (peak / start) ** passed
    else:
        ramp = np.full(t.shape, start) if mode == "constant" else start * left + peak * passed
    return np.where(t < length, ramp, after)


CASES = {
    "warmup": Case(
        lrx.warmup,
        {"schedule": lrx.linear_decay(0.3, 3), "warmup_steps": 2},
        {"warmup_steps": (0, 1, 10_000), "init_value": (0.0, 0.1, 2.0)},
        end=5,
    ),
    "warmup of a float": Case(
        lrx.warmup,
        {"schedule": 0.3, "warmup_steps": 3, "init_value": 0.1, "mode": "constant"},
        {"schedule": (0.0, 0.1, 2.0), "warmup_steps": (0, 1, 10_000)},
        end=3,
    ),
    "exponential warmup": Case(
        lrx.warmup,
        {"schedule": 0.3, "warmup_steps": 4, "init_value": 1e-4, "mode": "exponential"},
        {"schedule": (0.1, 0.2, 2.0), "init_value": (1e-6, 0.1, 2.0), "warmup_steps": (0, 1, 10_000)},
        tolerance=5e-6,
        end=4,
    ),
    "join": Case(
        lrx.join,
        {"schedules": [0.1, lrx.linear_decay(0.4, 2)], "boundaries": [2]},
        {"schedules": (0.0, 0.1, 2.0), "boundaries": (1, 3, 10_000)},
        {"schedules": lambda value: [value, lrx.linear_decay(0.4, 2)], "boundaries": lambda value: [value]},
        end=4,
    ),
    "product": Case(
        lambda left, right: lrx.warmup(left, 2) * right * lrx.linear_decay(1.0, 5),
        {"left": 0.3, "right": 0.5},
        {"left": (0.0, 0.1, 2.0), "right": (0.0, 0.1, 2.0)},
        end=5,
    ),
}


REFUSED = [
    *refuse(lrx.warmup, "schedule", (-0.1, NAN), ValueError, NUMBER),
    *refuse(lrx.warmup, "schedule", ("0.1", None), TypeError, "must be a number, a Rate"),
    *refuse(lrx.warmup, "schedule", (FOLLOWING_FEEDBACK,), TypeError, NOT_A_SCHEDULE),
    *refuse_steps(lrx.warmup, "warmup_steps", at_least=0),
    *refuse_rates(lrx.warmup, "init_value"),
    (lrx.warmup, {"init_value": 0.0, "mode": "exponential"}, ValueError, "^init_value must be a finite number > 0"),
    *refuse_words(lrx.warmup, "mode"),
    (lrx.join, {"schedules": [], "boundaries": []}, ValueError, "^boundaries must be one fewer than schedules"),
    (lrx.join, {"schedules": [0.1, -0.1]}, ValueError, "^schedules\\[1\\] must be a finite number >= 0"),
    (lrx.join, {"schedules": [0.1, FOLLOWING_FEEDBACK]}, TypeError, f"^schedules\\[1\\] {NOT_A_SCHEDULE}"),
    (lrx.join, {"schedules": lrx.constant(0.1)}, TypeError, "^schedules must be a list of schedules"),
    (lrx.join, {"schedules": 0.1}, TypeError, "^schedules must be a list of schedules"),
    (lrx.join, {"boundaries": [2, 4]}, ValueError, "^boundaries must be one fewer than schedules"),
    (lrx.join, {"boundaries": [0]}, ValueError, "^boundaries\\[0\\] must be a whole number of steps >= 1"),
    (lrx.join, {"boundaries": [2.5]}, ValueError, "^boundaries\\[0\\] must be a whole number of steps >= 1"),
    (lrx.join, {"schedules": [0.1] * 3, "boundaries": [4, 4]}, ValueError, "^boundaries must increase strictly"),
    (lrx.join, {"schedules": [0.1] * 3, "boundaries": [4, 2]}, ValueError, "^boundaries must increase strictly"),
]


REFERENCE = {
    "join": join_formula,
    "warmup": warmup_formula,
}
