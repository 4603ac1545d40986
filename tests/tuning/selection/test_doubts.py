"""What a selection says that it does not know."""

from __future__ import annotations

import math

from tuning.selection.observations import STEPS, add, add_range_test, beginning, range_test_of, run_of

from lrx.tuning.selection.bracket import Bracket
from lrx.tuning.selection.certainty import assess
from lrx.tuning.selection.doubts import edge_of, list_doubts
from lrx.tuning.selection.policy import Ask, Observed
from lrx.tuning.selection.portfolio import ADAMW, MIN_RATE, SGD
from lrx.tuning.selection.rates import sees_fall, trial_rates


def doubts(observed: Observed, rate: float = 0.01) -> str:
    return " ".join(list_doubts(observed, assess(observed, ADAMW, rate), ADAMW, rate))


def ladder(*rates: float, steps: int = STEPS) -> Observed:
    return add(beginning(), *(run_of(ADAMW, rate, steps, 0.2 + abs(math.log10(rate / 0.01))) for rate in rates))


def test_a_rate_at_the_edge_of_those_that_were_tried_is_named() -> None:
    assert "the lowest that was tried with this method: a lower one may be better" in doubts(ladder(0.01, 0.1))
    assert "the highest that was tried" in doubts(ladder(0.001, 0.01))
    assert "tried" not in doubts(ladder(0.001, 0.01, 0.1))
    assert "tried" not in doubts(ladder(0.01)), "a method with one rate has no edge"
    lost = add(ladder(0.001, 0.01), run_of(ADAMW, 0.1, STEPS, math.inf))
    assert edge_of(lost, ADAMW, 0.01) == "", "what diverged above it bounds the rate"


def test_a_variant_shares_the_rates_of_its_leader() -> None:
    observed = add(ladder(0.001, 0.01, 0.1), run_of("adamw, linear decay", 0.01, STEPS, 0.1))
    assert edge_of(observed, "adamw, linear decay", 0.01) == ""


def test_runs_that_did_not_reach_the_end_and_methods_that_short_runs_dropped_are_named() -> None:
    short = ((ADAMW, 0.01, 0.6), ("dog", 1.0, 0.62), (SGD, 0.1, 0.5))
    observed = add(beginning(), *(run_of(name, rate, 100, value) for name, rate, value in short))
    observed = add(observed, run_of(ADAMW, 0.01, 400, 0.3), run_of(SGD, 0.1, 400, 0.6))
    said = doubts(observed)
    assert "the longest run has 400 of 1,000 steps" in said
    assert "these were not trained further, and may still be better: dog (after 100 steps)" in said
    assert "the chosen run has 400 of 1,000 steps" in doubts(add(observed, run_of(SGD, 0.1, STEPS, 0.5)))
    assert "not known" in doubts(add(beginning(), run_of(ADAMW, 0.01, 9, 0.5), run_of("dog", 1.0, 9, 0.6)))


def test_a_range_test_without_a_fall_is_named_and_a_lowest_loss_far_below_the_end_is_none() -> None:
    flat = range_test_of(None)
    by_chance = range_test_of(1e-7, gain=0.005)
    assert [sees_fall(test) for test in (flat, by_chance)] == [False, False]
    assert sees_fall(range_test_of(1e-7, gain=0.5)), "a fall by a half is none by chance"
    assert sees_fall(range_test_of(1e-7, gain=0.005, diverged_at=1e-4)), "the inputs may be large"
    # Rates of the default, not 1.5e-6 to 1.8e-5, which the lowest loss would have suggested.
    for test in (flat, by_chance):
        assert trial_rates(test, 3, 0.05).tolist() == [0.05 * 1.5, *trial_rates(test, 3, 0.05)[1:2], 0.05 * 18]
    observed = add_range_test(beginning(), SGD, by_chance)
    observed = add(observed, run_of(ADAMW, 0.01, STEPS, 0.2))
    assert f"the range test of {SGD} saw no fall from 1e-06 to 10: its default decided" in doubts(observed)


def test_a_range_test_without_a_fall_is_followed_by_a_longer_one_of_higher_rates() -> None:
    observed = add_range_test(beginning(), ADAMW, range_test_of(0.001, last=1.0))
    observed = add_range_test(observed, SGD, range_test_of(None))
    decision = Bracket().decide(observed)
    assert isinstance(decision, Ask)
    (probe,) = decision.range_tests
    assert (probe.method, probe.num_steps, probe.max_rate) == (SGD, 200, 10.0)
    assert probe.min_rate == 0.05 / 100 > MIN_RATE
    again = Bracket().decide(add_range_test(observed, SGD, range_test_of(0.05)))
    assert isinstance(again, Ask)
    assert not again.range_tests, "once"
    first = {run.run.rate for run in again.runs if run.run.method == SGD}
    assert min(first) > 0.05, "the rates are those of the second test"
