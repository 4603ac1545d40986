"""Numbers that claims are made of."""

from __future__ import annotations

import numpy as np
import pytest

from lrx.papers.statistics import around, correlation, median_of_last, rank_correlation, rising_parts, slope


def test_a_power_law_has_the_slope_of_its_exponent() -> None:
    x = np.array([1, 3, 10, 50])
    assert slope(x, 3.0 * x**-1.5) == pytest.approx(-1.5)


def test_ranks_and_not_values_are_correlated() -> None:
    x, y = np.array([1.0, 2.0, 1e6]), np.array([0.1, 0.2, 0.3])
    assert rank_correlation(x, y) == pytest.approx(1.0)
    assert correlation(x, y) < 0.9


def test_what_does_not_vary_correlates_with_nothing() -> None:
    x, constant = np.arange(3.0), np.ones(3)
    assert correlation(x, constant) == correlation(constant, x) == rank_correlation(x, constant) == 0.0


def test_steps_that_raise_the_loss_are_counted_between_measurements() -> None:
    losses = np.array([5.0, 4, 4.5, 4, 3, 3.5, 3.6, 3])
    np.testing.assert_allclose(rising_parts(losses, 4), [0.25, 0.5])


def test_the_last_part_of_a_curve_is_rounded_to_points() -> None:
    np.testing.assert_array_equal(median_of_last(np.array([[9.0, 1, 2, 4], [0, 5, 5, 5]]), 0.6), [3, 5])


def test_bounds_are_apart_by_a_part_of_the_value() -> None:
    assert around(8.0, 0.25) == (6.0, 10.0)
