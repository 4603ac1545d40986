"""Cyclical rates against the code that Smith prints in section 3 of the paper."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import reference

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
