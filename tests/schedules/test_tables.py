"""Rates at given steps, and at every step."""

from __future__ import annotations

import itertools
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
    refuse_points,
    refuse_tables,
    refuse_words,
)

import lrx

INT32_MAX = 2**31 - 1
points = st.dictionaries(st.integers(0, INT32_MAX), st.floats(1e-6, 10.0), min_size=1, max_size=6)


@pytest.mark.slow
@given(points, st.sampled_from(["linear", "cosine"]), st.lists(st.integers(0, INT32_MAX), min_size=4))
def test_interpolate_is_exact_through_any_points(points, kind, others):
    points = dict(sorted(points.items()))
    counts = np.clip([0, *points, *(step + 1 for step in points), *others], 0, INT32_MAX)
    schedule = lrx.interpolate(points, kind=kind)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6)
    np.testing.assert_allclose(schedule(np.asarray([*points])), [*points.values()], rtol=1e-6)


def test_two_points_are_a_linear_decay():
    counts = np.arange(30)
    np.testing.assert_allclose(
        lrx.interpolate({0: 0.3, 20: 0.01})(counts), lrx.linear_decay(0.3, 20, end_value=0.01)(counts), rtol=1e-6
    )


def test_tabulated_holds_its_last_value_and_takes_tracers():
    values = jnp.asarray([0.3, 0.1, 0.2])
    np.testing.assert_allclose(lrx.tabulated(values)(np.asarray([0, 1, 2, 3, INT32_MAX])), [0.3, 0.1, 0.2, 0.2, 0.2])
    doubled = jax.jit(lambda values: lrx.tabulated(2 * values)(jnp.arange(4)))(values)
    np.testing.assert_allclose(doubled, [0.6, 0.2, 0.4, 0.4], rtol=1e-6)


def test_pairs_whose_steps_are_traced_are_swept():
    steps = jnp.asarray([5, 10])
    rates = jax.vmap(lambda step: lrx.interpolate([(0, 1.0), (step, 0.0)])(jnp.asarray([0, 5, 10])))(steps)
    np.testing.assert_allclose(rates, [[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]], atol=1e-7)


@pytest.mark.parametrize("schedule", [lrx.interpolate({0: 0.1, 9: 0.3}), lrx.tabulated([0.1, 0.2])])
def test_they_know_their_peak(schedule):
    assert schedule.peak == pytest.approx(float(jnp.max(schedule(jnp.arange(20)))), rel=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


def interpolate_formula(t: np.ndarray, *, points: Any, kind: str) -> np.ndarray:
    known = pairs(points)
    rate = np.full(t.shape, known[0][1])
    for (begin, first), (end, second) in itertools.pairwise(known):
        left = (end - np.clip(t, begin, end)) / (end - begin)
        shape = np.sin(np.pi / 2 * left) ** 2 if kind == "cosine" else left
        rate = np.where(t > begin, second + (first - second) * shape, rate)
    return rate


def tabulated_formula(t: np.ndarray, *, values: Any) -> np.ndarray:
    return np.asarray([float(value) for value in values])[np.minimum(t, len(values) - 1)]


CASES = {
    "interpolate": Case(
        lrx.interpolate,
        {"points": {0: 0.0, 2: 0.4, 5: 0.1}},
        {"points": (1, 3, 10_000)},
        {"points": lambda step: [(0, 0.3), (step, 0.1)]},
        end=5,
    ),
    "interpolate along cosines": Case(
        lrx.interpolate,
        {"points": {1: 0.1, 4: 0.4, 5: 0.2}, "kind": "cosine"},
        {"points": (0.0, 0.1, 2.0)},
        {"points": lambda rate: {1: 0.1, 4: rate, 5: 0.2}},
        end=5,
    ),
    "tabulated": Case(
        lrx.tabulated,
        {"values": (0.3, 0.1, 0.2)},
        {"values": (0.0, 0.1, 2.0)},
        {"values": lambda rate: [rate, 0.2]},
        end=2,
    ),
}


REFUSED = [
    *refuse_points(lrx.interpolate, "points", "rate"),
    (lrx.interpolate, {"points": {}}, ValueError, "^points must hold at least one point"),
    *refuse_words(lrx.interpolate, "kind"),
    *refuse_tables(lrx.tabulated, "values"),
]


REFERENCE = {
    "interpolate": interpolate_formula,
    "tabulated": tabulated_formula,
}
