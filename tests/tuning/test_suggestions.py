"""The rules of the range test: what a curve of losses suggests, without any training."""

from __future__ import annotations

import numpy as np
import pytest

from lrx.tuning import suggestions


def test_the_steepest_rate_is_where_the_loss_falls_fastest_in_its_logarithm() -> None:
    rates = np.logspace(-7, 1, 100).astype(np.float32)
    losses = 2.3 - 2 / (1 + np.exp(-4 * (np.log10(rates) + 3)))  # steepest at 1e-3, lowest at the end
    found = suggestions.suggest(rates, losses, None)
    assert found["steepest"] == pytest.approx(1e-3, rel=0.1)
    assert found["valley"] == pytest.approx(1e-3, rel=0.1)
    assert found["minimum"] == pytest.approx(1.0, rel=0.3)
    assert found["divergence"] is None
    rising = losses + 50 * np.maximum(np.log10(rates) + 1, 0) ** 2
    assert suggestions.suggest(rates, rising, None)["minimum"] == pytest.approx(0.01, rel=0.3)


def test_a_long_flat_beginning_does_not_move_the_valley() -> None:
    rates = np.logspace(-7, 1, 100).astype(np.float32)
    creeping = -1e-6 * np.arange(100)
    losses = 2.3 - 2 / (1 + np.exp(-4 * (np.log10(rates) + 1))) + creeping
    assert suggestions.suggest(rates, losses, None)["valley"] == pytest.approx(0.1, rel=0.1)


def test_the_longest_descent_is_the_longest() -> None:
    def slow(losses: np.ndarray) -> int:
        best = [1] * len(losses)
        for i in range(len(losses)):
            for j in range(i):
                if losses[i] < losses[j]:
                    best[i] = max(best[i], best[j] + 1)
        return max(best)

    generator = np.random.default_rng(0)
    for _ in range(50):
        losses = generator.normal(size=30).round(1)
        places = suggestions._longest_descent(losses)
        assert len(places) == slow(losses)
        assert np.all(np.diff(losses[places]) < 0)
        assert np.all(np.diff(places) > 0)


def test_the_smoothing_equals_its_formula() -> None:
    losses = np.random.default_rng(0).uniform(1, 2, 40).astype(np.float32)
    middle = np.median(np.stack([losses[:-2], losses[1:-1], losses[2:]]), axis=0)
    middle = np.concatenate([middle[:1], middle, middle[-1:]])
    weights = 0.8 ** np.abs(np.arange(40)[:, None] - np.arange(40)[None, :])
    expected = weights @ middle / weights.sum(axis=1)
    np.testing.assert_allclose(suggestions.smooth(losses, 0.8, 4.0), expected, rtol=1e-6)


def test_a_blow_up_does_not_reach_back_through_the_smoothing() -> None:
    losses = np.append(np.full(30, 2.0), [1e9, 1e9]).astype(np.float32)
    smoothed = suggestions.smooth(losses, 0.8, 4.0)
    assert smoothed[:30].max() <= 8  # where a run counts as diverged
    np.testing.assert_allclose(smoothed[:10], 2.0, rtol=0.05)


@pytest.mark.parametrize("end", [[2.5, 4.0, 6.0, 8.0, 9.0], [1.6, 1.9, 1.9, 1.9, 1.95]], ids=["above", "below"])
def test_the_smoothed_curve_does_not_rise_before_the_losses_do(end: list[float]) -> None:
    # Whether they end above where they began or not.
    losses = np.concatenate([np.linspace(2.0, 1.0, 30), end]).astype(np.float32)
    apart = suggestions.smooth_apart(losses, 0.8, 4.0)
    assert np.all(np.diff(apart[:29]) < 0)
    assert apart[29] < 1.2
    assert suggestions.smooth(losses, 0.8, 4.0)[29] > 1.25, "the example is one that a single window smears"
    steady = np.linspace(2.0, 1.0, 30).astype(np.float32)
    np.testing.assert_array_equal(suggestions.smooth_apart(steady, 0.8, 4.0), suggestions.smooth(steady, 0.8, 4.0))
