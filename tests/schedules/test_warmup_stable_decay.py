"""Warm-up, stable phase and cool-down in its four shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    Case,
    fractions,
    reference,
    refuse_rates,
    refuse_steps,
    refuse_words,
)

import lrx

INT32_MAX = 2**31 - 1
durations = st.integers(0, INT32_MAX)


@given(durations, durations, st.integers(1, INT32_MAX), st.sampled_from(["linear", "cosine", "sqrt"]), durations)
def test_it_is_exact_for_any_durations(warmup, stable, decay_steps, decay, other):
    begin = warmup + stable
    counts = np.clip([0, 1, warmup - 1, warmup, begin, begin + 1, begin + decay_steps - 1, other], 0, INT32_MAX)
    schedule = lrx.warmup_stable_decay(
        0.3, warmup_steps=warmup, stable_steps=stable, decay_steps=decay_steps, end_value=0.01, decay=decay
    )
    if begin <= INT32_MAX:
        np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6)
    else:  # longer than time: all of it is before the decay
        before = reference(schedule, np.minimum(counts, INT32_MAX - 1))
        np.testing.assert_allclose(schedule(np.minimum(counts, INT32_MAX - 1)), before, rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "middle"), [("linear", 0.505), ("cosine", 0.505), ("sqrt", 0.3), ("exponential", 0.1)]
)
def test_the_cool_downs_differ_in_the_middle_only(decay, middle):
    schedule = lrx.warmup_stable_decay(
        1.0, warmup_steps=10, stable_steps=70, decay_steps=20, end_value=0.01, decay=decay
    )
    expected_middle = 0.01 + 0.99 * (1 - np.sqrt(0.5)) if decay == "sqrt" else middle
    expected = [0.0, 0.5, 1.0, 1.0, 1.0, expected_middle, 0.01, 0.01]
    np.testing.assert_allclose(schedule(np.asarray([0, 5, 10, 79, 80, 90, 100, 10**6])), expected, rtol=2e-6)


def test_linear_is_a_join_of_its_parts():
    counts = np.arange(120)
    parts = lrx.join([lrx.warmup(0.3, 10), lrx.linear_decay(0.3, 20)], [80])
    whole = lrx.warmup_stable_decay(0.3, warmup_steps=10, stable_steps=70, decay_steps=20)
    np.testing.assert_allclose(whole(counts), parts(counts), rtol=1e-6)


def test_phases_longer_than_time_do_not_wrap_around():
    schedule = lrx.warmup_stable_decay(0.3, warmup_steps=INT32_MAX, stable_steps=INT32_MAX, decay_steps=3)
    np.testing.assert_allclose(schedule(np.asarray([0, 5, INT32_MAX])), [0.0, 0.3 * 5 / INT32_MAX, 0.3], rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def warmup_stable_decay_formula(
    t: np.ndarray,
    *,
    peak_value: Any,
    warmup_steps: Any,
    stable_steps: Any,
    decay_steps: Any,
    end_value: Any,
    decay: str,
) -> np.ndarray:
    climb, begin = int(warmup_steps), int(warmup_steps) + int(stable_steps)
    peak, end = float(peak_value), float(end_value)
    passed, left = fractions(np.maximum(t - begin, 0), decay_steps)
    if decay == "exponential":
        falling = peak * (end / peak) ** passed
    else:
        shape = {"linear": left, "cosine": np.sin(np.pi / 2 * left) ** 2, "sqrt": left / (1 + np.sqrt(passed))}[decay]
        falling = end + (peak - end) * shape
    return np.where(t < climb, peak * (t / max(climb, 1)), np.where(t < begin, peak, falling))


CASES = {
    "warmup_stable_decay": Case(
        lrx.warmup_stable_decay,
        {"peak_value": 0.3, "warmup_steps": 2, "stable_steps": 1, "decay_steps": 3, "end_value": 0.01},
        {
            "peak_value": (0.0, 0.1, 2.0),
            "warmup_steps": (0, 1, 10_000),
            "stable_steps": (0, 1, 10_000),
            "decay_steps": (1, 3, 10_000),
            "end_value": (0.0, 0.2, 1.0),
        },
        end=6,
    ),
    **{
        f"warmup_stable_decay, {decay}": Case(
            lrx.warmup_stable_decay,
            {
                "peak_value": 0.3,
                "warmup_steps": 0,
                "stable_steps": 1,
                "decay_steps": 3,
                "end_value": 0.01,
                "decay": decay,
            },
            {"decay_steps": (1, 3, 10_000), "end_value": (0.001, 0.1, 1.0)},
            tolerance=5e-6 if decay == "exponential" else 1e-6,
            end=4,
        )
        for decay in ("cosine", "sqrt", "exponential")
    },
}


REFUSED = [
    *refuse_rates(lrx.warmup_stable_decay, "peak_value"),
    *refuse_steps(lrx.warmup_stable_decay, "warmup_steps", at_least=0),
    *refuse_steps(lrx.warmup_stable_decay, "stable_steps", at_least=0),
    *refuse_steps(lrx.warmup_stable_decay, "decay_steps"),
    *refuse_rates(lrx.warmup_stable_decay, "end_value"),
    (
        lrx.warmup_stable_decay,
        {"decay": "exponential", "end_value": 0.0},
        ValueError,
        "^end_value must be a finite number > 0, got end_value=0.0: an exponential cannot reach 0",
    ),
    *refuse_words(lrx.warmup_stable_decay, "decay"),
]


REFERENCE = {
    "warmup_stable_decay": warmup_stable_decay_formula,
}
