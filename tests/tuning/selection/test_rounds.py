"""The rules of the bracket, without any training: which rates are refined, and which run is chosen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from tuning.selection.methods import SMALL

from lrx.tuning import RunRecord
from lrx.tuning.selection.rounds import Candidate, Rules, plan_costs

RULES = Rules(SMALL, "min")


STEP = math.sqrt(12)  # from one of three rates to the next


def refined(losses: list[float | None]) -> list[float]:
    """The rates of the last round, for losses at 1, STEP and STEP^2; None if there is no run."""
    runs = [
        Candidate("late decay", STEP**place, value=0.5, loss=loss)
        for place in (1, 0, 2)
        if (loss := losses[place]) is not None
    ]
    return [each.rate for each in RULES.refine(RULES.rank(runs))]


@pytest.mark.parametrize("losses", [[0.5, 0.2, 0.3], [0.3, 0.2, 0.5], [0.21, 0.2, 90.0], [-3.0, -4.0, -3.5]])
def test_the_new_rate_is_where_a_parabola_through_the_losses_is_lowest(losses: list[float]) -> None:
    values = np.log(losses) if losses[0] > 0 else losses
    a, b, _ = np.polyfit([0.0, 1.0, 2.0], values, 2)
    np.testing.assert_allclose(refined(losses), [STEP, STEP ** (-b / (2 * a))], rtol=1e-5)


@pytest.mark.parametrize(
    ("losses", "rates"),
    [
        ([3.0, 2.0, 1.0], [STEP**2, STEP**2.5]),  # half a step above the last rate
        ([1.0, 2.0, 3.0], [1.0, STEP**0.5]),  # and above the first
        ([2.0, 1.0, 2.1], [STEP, 1.0]),  # where a rate is already: the second best
        ([1.0, 1.0, 1.0], [STEP, 1.0]),
        ([None, 1.0, 2.0], [STEP, STEP**1.5]),  # what diverged has no loss
        ([3.0, 1.0, None], [STEP, STEP**1.5]),
        ([3.0, 1.0, math.inf], [STEP, STEP**1.5]),  # neither has what only the evaluation could not tell
        ([math.nan, 1.0, 3.0], [STEP, STEP**1.5]),
        ([None, None, 1.0], [STEP**2, STEP**2.5]),
    ],
)
def test_without_a_vertex_between_the_rates(losses: list[float | None], rates: list[float]) -> None:
    np.testing.assert_allclose(refined(losses), rates, rtol=1e-6)


def test_a_method_with_one_rate_keeps_it() -> None:
    only = Candidate("constant", 0.03, value=1.0, loss=1.0)
    assert RULES.refine([only]) == [only]
    assert RULES.refine([]) == []


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_metric_picks_the_method_and_the_loss_its_rate(mode: str) -> None:
    rules = Rules(SMALL, mode)
    sign = 1.0 if mode == "min" else -1.0
    rows = [("a", 0.1, 2.0, 0.1), ("b", 0.2, 1.0, 0.5), ("b", 0.3, 1.5, 0.3)]
    runs = [RunRecord(method, rate, 4, 100, sign * value, loss, 100, True) for method, rate, value, loss in rows]
    assert rules.choose(runs, "error") is runs[2]
    diverged = RunRecord("c", 1.0, 4, 100, sign * math.inf, math.inf, 100, False)
    assert rules.choose([diverged, *runs[:2]], "error") is runs[1]


def test_the_longest_run_that_did_not_diverge_is_chosen() -> None:
    good = RunRecord("a", 0.1, 1, 100, 0.1, 0.1, 100, True)
    further = RunRecord("b", 0.1, 2, 400, 0.2, 0.2, 400, True)
    assert RULES.choose([good, further], "error") is further
    gone = RunRecord("b", 0.1, 3, 800, math.inf, math.inf, 400, False)
    assert RULES.choose([good, further, gone], "error") is good, "what diverged later is not chosen"
    early = RunRecord("c", 0.1, 1, 400, 0.15, 0.15, 400, True)
    assert RULES.choose([early, further], "error") is early, "a run of full length that an early round made counts"


def test_a_run_that_has_learnt_nothing_is_not_chosen_whatever_its_metric() -> None:
    lucky = RunRecord("a", 1e-9, 4, 100, 0.1, 0.1, 100, False)
    trained = RunRecord("b", 0.1, 4, 100, 0.2, 0.2, 100, True)
    assert RULES.choose([lucky, trained], "error") is trained
    with pytest.raises(ValueError, match=r"^nothing was learnt: after 100 steps no run has a training loss below"):
        RULES.choose([lucky], "error")


def ended(method: str, *losses: float) -> list[Candidate]:
    """Runs of a method at the rates 1, STEP, ..., with these losses."""
    return [Candidate(method, STEP**place, value=loss, loss=loss) for place, loss in enumerate(losses)]


def records_of(candidates: list[Candidate]) -> list[RunRecord]:
    return [RunRecord(each.method, each.rate, 1, 10, each.value, each.loss, 10, True) for each in candidates]


def entering(rules: Rules, number: int, candidates: list[Candidate]) -> list[tuple[str, float]]:
    found = rules.next_candidates(number, candidates, records_of(candidates))
    return [(each.method, each.rate) for each in found]


FIRST = [*ended("late decay", 0.5, 0.2, 0.3), *ended("constant", 0.1), *ended("restarted", 0.4), *ended("slow", 0.9)]


def test_the_leader_of_the_first_round_keeps_all_its_rates_and_the_best_others_enter() -> None:
    assert entering(RULES, 2, FIRST) == [("constant", 1.0), ("late decay", STEP), ("restarted", 1.0), ("slow", 1.0)]
    assert entering(RULES, 3, FIRST) == [("constant", 1.0), ("late decay", STEP), ("restarted", 1.0)]
    assert entering(RULES, 4, FIRST) == [("constant", 1.0), ("late decay", STEP)]


def test_a_method_that_always_advances_keeps_all_its_rates() -> None:
    rules = Rules(SMALL | {"late decay": dataclasses.replace(SMALL["late decay"], always_advance=True)}, "min")
    all_rates = [("late decay", STEP), ("late decay", STEP**2), ("late decay", 1.0)]
    assert entering(rules, 2, FIRST) == [*all_rates, ("constant", 1.0), ("restarted", 1.0), ("slow", 1.0)]
    last = entering(rules, 4, FIRST)
    assert [method for method, _ in last] == ["late decay", "late decay", "constant"]
    diverged = [*ended("late decay", math.inf, math.inf, math.inf), *FIRST[3:]]
    assert entering(rules, 3, diverged)[0] == ("constant", 1.0), "the leader takes its place"


def test_variants_of_the_method_that_leads_enter_the_last_round_at_its_rate() -> None:
    leads = [*ended("late decay", 0.5, 0.05, 0.3), *ended("constant", 0.1)]
    assert entering(RULES, 4, leads)[-1] == ("linear decay", STEP)
    assert ("linear decay", STEP) not in entering(RULES, 3, leads)
    assert entering(RULES, 2, ended("slow", math.inf)) == []


def test_the_length_of_a_round_is_the_greatest_that_can_be_paid_for() -> None:
    fresh = ended("constant", 0.1) + ended("late decay", 0.2)
    assert RULES.longest_affordable(fresh, 400, left=100, later=0.0) == 50
    assert RULES.longest_affordable(fresh, 400, left=100, later=2.0) == 25
    assert RULES.longest_affordable(fresh, 400, left=10_000, later=0.0) == 400
    # A state after 20 steps is reused by a method that may reuse all of a run, and by one that may reuse a half of it
    # from a length of 40 on.
    continued = [dataclasses.replace(each, done=20, length=20) for each in fresh]
    assert [RULES.steps_to_make(each, 39) for each in continued] == [19, 39]
    assert [RULES.steps_to_make(each, 40) for each in continued] == [20, 20]
    assert [RULES.steps_to_make(each, 20) for each in continued] == [0, 0]


@pytest.mark.parametrize("steps", [100, 237, 400, 12_345])
def test_the_budget_that_is_said_to_be_enough_is(steps: int) -> None:
    with pytest.raises(ValueError, match="budget must be at least") as refused:
        plan_costs(RULES, 0.01, steps)
    least = float(str(refused.value).split("at least ")[1].split()[0])
    assert plan_costs(RULES, least, steps).allowed <= least * steps + 1e-6
    with pytest.raises(ValueError, match="budget must be at least"):
        plan_costs(RULES, least - 0.02, steps)


def test_the_length_that_is_said_to_be_enough_is() -> None:
    with pytest.raises(ValueError, match=r"or num_steps=\d+, the shortest run that this budget is") as refused:
        plan_costs(RULES, 3.0, 20)
    shortest = int(str(refused.value).split("num_steps=")[1].split(",")[0])
    with pytest.raises(ValueError, match="budget must be at least"):
        plan_costs(RULES, 3.0, shortest - 1)
    assert plan_costs(RULES, 3.0, shortest).allowed == 3 * shortest
