"""Schedule refinement: the properties that the paper's rule must have, and the rule itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    Case,
    reference,
    refuse_fractions,
    refuse_rates,
    refuse_tables,
    refuse_words,
)

import lrx


def norms_of_the_grid(points, last, steps=2000):
    """Return the synthetic gradient norms of the authors' figure, without their Gaussian smoothing."""
    return np.interp(np.linspace(0, 1, steps), [0, 0.003, 0.02, 0.03, 0.1, 1], [*points, last])


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=60), st.sampled_from(["l2", "l1"]), st.floats(0, 1))
def test_refined_is_the_papers_rule(norms, norm, smoothing):
    schedule = lrx.refined(norms, 0.3, norm=norm, smoothing=smoothing)
    counts = np.arange(len(norms) + 3)
    np.testing.assert_allclose(schedule(counts), reference(schedule, counts), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_constant_norms_give_the_linear_decay(norm):
    total = 100
    rates = np.asarray(lrx.refined(np.full(total, 0.7), 1.0, norm=norm)(np.arange(total)))
    np.testing.assert_allclose(rates, (total - 1 - np.arange(total)) / (total - 1), rtol=1e-6)


def test_norms_that_fall_early_make_a_warmup():
    rates = np.asarray(lrx.refined(norms_of_the_grid([15, 6, 4, 2, 1], 1), 1.0)(np.arange(2000)))
    assert 0.05 < np.argmax(rates) / 2000 < 0.15
    assert rates[0] < 0.05


def test_norms_that_rise_late_anneal_faster_than_the_line():
    late = np.concatenate([np.ones(1600), np.linspace(1, 4, 400)])
    rates = np.asarray(lrx.refined(late, 1.0)(np.arange(2000)))
    assert rates[1800] < 0.05 < 0.1


def test_one_odd_norm_is_smoothed_away():
    norms = np.ones(200)
    norms[50] = 1e3
    smooth, raw = lrx.refined(norms, 1.0)(50), lrx.refined(norms, 1.0, smoothing=0.0)(50)
    np.testing.assert_allclose(smooth, 149 / 199, rtol=1e-6)
    assert raw < 1e-5


def test_the_longest_runs_refine_in_moments():
    rates = lrx.refined(np.random.default_rng(0).uniform(1, 2, 100_000), 1.0)(np.asarray([0, 99_999]))
    assert rates[1] == 0 < rates[0]


# ---------------------------------------------------------------------- what the laws hold it to


def refined_formula(t: np.ndarray, *, grad_norms: Any, peak_value: Any, norm: str, smoothing: float) -> np.ndarray:
    norms = [float(g) for g in grad_norms]
    half, last = int(smoothing * len(norms) / 2), len(norms) - 1

    def at(i: int) -> float:
        # Left of the beginning the first repeats, right of the end the series comes back.
        return norms[max(i if i <= last else 2 * last - i, 0)]

    smooth = [float(np.median([at(i) for i in range(k - half, k + half + 1)])) for k in range(len(norms))]
    weights = [g ** (-2 if norm == "l2" else -1) for g in smooth]
    shape = np.asarray([weight * sum(weights[k + 1 :]) for k, weight in enumerate(weights)])
    return float(peak_value) * (shape / shape.max())[np.minimum(t, last)]


CASES = {
    "refined": Case(
        lrx.refined,
        {"grad_norms": [3.0, 2.0, 1.5, 1.0, 4.0], "peak_value": 0.3},
        {"peak_value": (0.0, 0.1, 2.0)},
        end=4,
    ),
}


REFUSED = [
    *refuse_tables(lrx.refined, "grad_norms"),
    (lrx.refined, {"grad_norms": [1.0]}, ValueError, "^grad_norms must be at least two numbers > 0, got 1"),
    (
        lrx.refined,
        {"grad_norms": [1.0, 0.0]},
        ValueError,
        "^grad_norms must be at least two numbers > 0, got 2 of which 1",
    ),
    *refuse_rates(lrx.refined, "peak_value"),
    *refuse_words(lrx.refined, "norm"),
    *refuse_fractions(lrx.refined, "smoothing", "[0, 1]", (-0.1, 1.1)),
]


REFERENCE = {
    "refined": refined_formula,
}
