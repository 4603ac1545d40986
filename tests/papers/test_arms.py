"""Arms: grids of rates, the choice of a rate, and the claim that it lies inside its grid."""

import numpy as np

import lrx
from lrx.papers import arms
from lrx.papers.arms import Arm, claim_best_rates_inside_grid, decades, final_values
from lrx.papers.reproduction import Job

ARMS = {"SGD": Arm(lrx.sgd, (0.1, 1.0)), "Adam": Arm(lrx.adam, (1e-3, 1e-2, 1e-1))}


def test_decades_hold_so_many_rates_each_and_both_ends():
    np.testing.assert_allclose(decades(-2, 0, 2), [0.01, 10**-1.5, 0.1, 10**-0.5, 1.0], rtol=1e-12)
    assert len(decades(-5, 0, 3)) == 16


def test_a_best_rate_at_an_end_of_its_grid_fails_the_claim_and_a_single_rate_does_not_count():
    grids = {"a": {"rates": [1, 2, 3], "best": 1}, "b": {"rates": [1], "best": 0}}
    assert claim_best_rates_inside_grid(grids).holds
    claim = claim_best_rates_inside_grid(grids | {"c": {"rates": [1, 2, 3], "best": 2}})
    assert (claim.measured, claim.holds) == ("1 of 2", False)


def test_final_values_are_those_of_the_best_rate_or_the_last_of_a_metric():
    arm = {"final_loss": [[3, 4], [1, 2]], "best": 1, "evaluations": {"error": [[5, 6], [7, None]]}}
    np.testing.assert_array_equal(final_values(arm), [1, 2])
    np.testing.assert_array_equal(final_values(arm, "error"), [6, np.nan])


def test_rates_are_chosen_in_short_runs_with_the_first_seed(monkeypatch):
    calls = []

    def compare(workload, tried, job, *, num_steps, **options):
        calls.append((num_steps, job.seeds, {name: tuple(arm.rates) for name, arm in tried.items()}))
        rates = {name: list(arm.rates) for name, arm in tried.items()}
        return {
            name: {"rates": each, "final_loss": [[1.0]] * len(each), "best": len(each) - 1}
            for name, each in rates.items()
        }

    monkeypatch.setattr(arms, "compare", compare)
    arms.compare_after_trials(None, ARMS, Job((3, 4)), trial_steps=10, num_steps=50, name="x")
    (trial, alone, tried), (steps, seeds, chosen) = calls
    assert (trial, alone, steps, seeds) == (10, (3,), 50, (3, 4))
    assert chosen == {name: rates[-1:] for name, rates in tried.items()}
    calls.clear()
    arms.compare_after_trials(None, ARMS, Job((3, 4)), trial_steps=0, num_steps=50, name="x")
    assert [(steps, seeds) for steps, seeds, _ in calls] == [(50, (3, 4))]
