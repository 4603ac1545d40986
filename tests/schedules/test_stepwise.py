"""Step decay against alpha_0 gamma^floor(t / s)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    Case,
    pairs,
    reference,
    refuse_fractions,
    refuse_points,
    refuse_rates,
    refuse_steps,
)

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


@given(
    st.dictionaries(st.integers(1, INT32_MAX), st.floats(0.0, 2.0), max_size=8),
    st.lists(st.integers(0, INT32_MAX), min_size=3),
)
def test_piecewise_constant_is_exact_at_any_boundaries(factors, others):
    factors = dict(sorted(factors.items()))
    counts = np.clip([0, *factors, *(step - 1 for step in factors), *others], 0, INT32_MAX)
    schedule = lrx.piecewise_constant(0.3, factors)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6, atol=1e-12)
    for count, rate in zip(counts, np.asarray(schedule(counts)), strict=True):
        assert schedule(int(count)) == rate  # one count is looked up in another way than many


def test_the_resnets_schedule_drops_at_its_boundaries():
    schedule = lrx.piecewise_constant(0.1, {32_000: 0.1, 48_000: 0.1})
    counts = np.asarray([0, 31_999, 32_000, 47_999, 48_000, 64_000])
    np.testing.assert_allclose(schedule(counts), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_equal_drops_are_step_decay():
    counts = np.arange(100)
    piecewise = lrx.piecewise_constant(0.1, dict.fromkeys(range(20, 100, 20), 0.5))
    np.testing.assert_allclose(piecewise(counts), lrx.step_decay(0.1, 20, factor=0.5)(counts), rtol=1e-6)


def test_factors_are_swept_and_their_peak_is_known():
    rates = jax.vmap(lambda factor: lrx.piecewise_constant(1.0, {2: factor})(jnp.arange(3)))(jnp.asarray([0.5, 2.0]))
    np.testing.assert_allclose(rates, [[1.0, 1.0, 0.5], [1.0, 1.0, 2.0]])
    assert lrx.piecewise_constant(0.1, {2: 3.0, 4: 0.1}).peak == pytest.approx(0.3)


# ---------------------------------------------------------------------- what the laws hold it to


def piecewise_constant_formula(t: np.ndarray, *, init_value: Any, boundaries_and_factors: Any) -> np.ndarray:
    rate = np.full(t.shape, float(init_value))
    for boundary, factor in pairs(boundaries_and_factors):
        rate = np.where(t >= boundary, rate * factor, rate)
    return rate


def step_decay_formula(t: np.ndarray, *, init_value: Any, step_size: Any, factor: Any) -> np.ndarray:
    return float(init_value) * float(factor) ** (t // int(step_size)).astype(np.float64)


CASES = {
    "step_decay": Case(
        lrx.step_decay,
        {"init_value": 0.3, "step_size": 2, "factor": 0.3},
        {"init_value": (0.0, 0.1, 2.0), "step_size": (1, 3, 10_000), "factor": (0.1, 0.5, 1.0)},
        tolerance=5e-6,
        endless=True,
    ),
    "piecewise_constant": Case(
        lrx.piecewise_constant,
        {"init_value": 0.3, "boundaries_and_factors": {2: 0.5, 4: 0.1}},
        {"init_value": (0.0, 0.1, 2.0), "boundaries_and_factors": (1, 3, 10_000)},
        {"boundaries_and_factors": lambda step: [(step, 0.5)]},
        end=4,
    ),
    "piecewise_constant with swept factors": Case(
        lrx.piecewise_constant,
        {"init_value": 0.3, "boundaries_and_factors": {1: 0.5, 5: 0.1}},
        {"boundaries_and_factors": (0.0, 0.1, 2.0)},
        {"boundaries_and_factors": lambda factor: {1: factor, 5: 0.1}},
        end=5,
    ),
}


REFUSED = [
    *refuse_rates(lrx.step_decay, "init_value"),
    *refuse_steps(lrx.step_decay, "step_size"),
    *refuse_fractions(lrx.step_decay, "factor", "(0, 1]", (0.0, -0.5, 1.1)),
    *refuse_rates(lrx.piecewise_constant, "init_value"),
    *refuse_points(lrx.piecewise_constant, "boundaries_and_factors", "factor"),
]


REFERENCE = {
    "piecewise_constant": piecewise_constant_formula,
    "step_decay": step_decay_formula,
}
