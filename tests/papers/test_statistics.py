"""Numbers that claims are made of."""

from __future__ import annotations

import numpy as np
import pytest

from lrx.papers.statistics import correlation, rank_correlation, slope


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
