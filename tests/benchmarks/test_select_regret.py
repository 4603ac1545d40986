"""Regret: its formula near 0 and for rewards, what counts as near, and an oracle whose seeds did not choose it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.made_up_curves import curves_of

from lrx.benchmarks.selection.curves import TaskCurves
from lrx.benchmarks.selection.regret import Judge, best_pairs, judge, oracle_values


def test_regret_is_the_part_of_the_learning_that_is_missing() -> None:
    loss = judge(np.array([0.3, 0.5]), np.array([0.1, 0.3]), initial=2.2)
    assert loss.regret == pytest.approx(0.1)
    reward = judge(np.array([-3.0, -1.0]), np.array([1.0, 3.0]), initial=-18.0)
    assert reward.regret == pytest.approx(0.2)


def test_regret_is_defined_at_a_loss_of_zero() -> None:
    found = judge(np.array([1e-9, 3e-9]), np.zeros(2), initial=1.0)
    assert found.regret == pytest.approx(2e-9)
    assert found.near


def test_a_choice_is_near_within_one_percent_or_one_standard_error() -> None:
    oracle = np.zeros(4)
    assert judge(np.full(4, 0.009), oracle, initial=1.0).near
    assert not judge(np.full(4, 0.011), oracle, initial=1.0).near
    noisy = judge(np.array([0.10, -0.06, 0.09, -0.05]), oracle, initial=1.0)
    assert noisy.regret == pytest.approx(0.02)
    assert noisy.error == pytest.approx(np.std([0.10, -0.06, 0.09, -0.05], ddof=1) / 2)
    assert noisy.near


def test_a_choice_of_which_one_run_diverged_has_infinite_regret() -> None:
    found = judge(np.array([0.1, math.inf]), np.zeros(2), initial=1.0)
    assert found.regret == math.inf
    assert not found.near


def test_where_the_oracle_learns_nothing_there_is_no_regret() -> None:
    with pytest.raises(ValueError, match="must differ from the initial value, got 2 for both"):
        judge(np.ones(2), np.full(2, 2.0), initial=2.0)


def test_the_oracle_of_a_seed_is_chosen_without_that_seed() -> None:
    chosen = np.array([[1.0], [1.0]])
    judged = np.array([[0.0, 3.0, 1.0], [1.0, 1.0, 1.1]])
    # Without seed 0 the second is best, though the first is better with it.
    np.testing.assert_allclose(oracle_values(chosen, judged, "min"), [1.0, 3.0, 1.1])
    np.testing.assert_allclose(oracle_values(-chosen, -judged, "max"), [-1.0, -3.0, -1.1])


def test_a_judge_ranks_pairs_by_the_choosing_seeds_and_judges_with_the_others() -> None:
    curves = curves_of({"sgd, linear decay": {0.01: (0.5, 0.6), 0.1: (0.2, 0.2), 1.0: (math.inf, math.inf)}})
    assert best_pairs(curves, 2) == [
        ("sgd, linear decay", pytest.approx(0.1)),
        ("sgd, linear decay", pytest.approx(0.01)),
    ]
    judged = Judge(curves)
    assert judged.best == ("sgd, linear decay", pytest.approx(0.1))
    assert judged("sgd, linear decay", 0.1).regret == pytest.approx(0, abs=1e-6)
    assert judged("sgd, linear decay", 0.012).regret == pytest.approx(0.4 / 0.8, rel=1e-5)
    assert judged("sgd, linear decay", 1.0).regret == math.inf
    curves.methods["sgd, linear decay"].judged[0] = False
    with pytest.raises(KeyError, match=r"sgd, linear decay at 0\.01 was not trained with the held-out seeds"):
        curves.judged("sgd, linear decay", 0.01)


def test_a_mean_of_rewards_ranks_the_other_way() -> None:
    curves: TaskCurves = curves_of({"sgd, linear decay": {0.01: (0.5, 0.5), 0.1: (0.2, 0.2)}}, mode="max", initial=0.0)
    assert best_pairs(curves, 1) == [("sgd, linear decay", pytest.approx(0.01))]
