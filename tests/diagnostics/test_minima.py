"""How sharp a minimum is: rises and concavities of known surfaces."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from lrx.diagnostics.minima import concavity, distances, median_rise, ring_medians, rise_in_box

SIDE = np.linspace(-1, 1, 11)
BOWL, SADDLE = distances(11) ** 2, SIDE[:, None] ** 2 - SIDE[None, :] ** 2


@pytest.mark.slow
def test_the_rise_in_a_box_is_that_of_its_best_corner() -> None:
    x, curvature = jnp.array([0.0, 3.0]), jnp.array([2.0, 0.5])
    epsilon = 0.1
    side = epsilon * (np.abs(np.asarray(x)) + 1)
    loss = lambda y: jnp.sum(curvature * (y - x) ** 2) / 2 + 0.01 * jnp.sum(y - x) + 1  # noqa: E731
    expected = 100 * (np.sum(np.asarray(curvature) * side**2) / 2 + 0.01 * side.sum()) / 2
    assert rise_in_box(loss, x, epsilon) == pytest.approx(expected, rel=1e-3)


def test_the_rise_is_the_median_of_near_points_and_infinite_where_most_are() -> None:
    near = (BOWL > 0) & (BOWL <= 0.25)
    planes = 0.5 + np.stack([3 * BOWL, np.where(BOWL > 0, np.nan, 0)])
    np.testing.assert_allclose(median_rise(planes, np.full(2, 0.5), 0.5), [3 * np.median(BOWL[near]), np.inf])


def test_concavity_is_the_ratio_of_a_saddles_curvatures_and_0_of_a_bowl() -> None:
    np.testing.assert_allclose(concavity(np.stack([BOWL + 3 * SADDLE, BOWL]), 0.5), [0.5, 0.0], atol=1e-6)


def test_rings_are_told_apart_by_their_distance_and_leave_out_what_is_not_finite() -> None:
    away = distances(11)
    at, medians = ring_medians(np.stack([away, np.where(SIDE[:, None] > 0.1, np.inf, away)]))
    edges = np.linspace(0, 1, 7)
    for found in (at[None], medians):
        assert np.all(found >= edges[:-1] - 1e-6)
        assert np.all(found <= edges[1:] + 1e-6)
    assert at[0] == 0.0
