"""Freeze-thaw: what is predicted, which runs are asked for stage by stage, and what is chosen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lrx.tuning.selection.experience import PARTS, Configuration, Experience, Plan, phi, shipped
from lrx.tuning.selection.freeze_thaw import FreezeThaw
from lrx.tuning.selection.policy import Answer, Ask, Choice, Observation, Observed, Scores, Training
from lrx.tuning.selection.portfolio import PORTFOLIO, Method, momentum_sgd

NAMES = ("first", "second", "third")
METHODS = {name: Method(lambda rate, num_steps: momentum_sgd(rate), default=0.1) for name in NAMES}
ORDER = (Configuration("first", 0), Configuration("second", 1), Configuration("third", 0), Configuration("first", 2))
KNOWN = [*ORDER, *(Configuration("second", place) for place in (0, 2))]


def experience(plan: Plan, means: dict[Configuration, float] | None = None) -> Experience:
    """An experience in which every configuration is as usual as the others."""
    known = dict.fromkeys(KNOWN, -2.0) | (means or {})
    return Experience(ORDER, known, {each: (-2.0,) * 4 for each in known}, (0.5, 0.7, 0.8, 0.9), ((1.0, plan),))


def observed(budget: float = 3.0, **changes: object) -> Observed:
    start = Observed(270, budget, METHODS, seed=7, initial=Scores(1.0, 1.0))
    return dataclasses.replace(start, **changes)  # type: ignore[arg-type]


def answer(ask: Ask, losses: dict[str, float]) -> Answer:
    """Runs of a method have its loss wherever they are evaluated; an infinite one has diverged."""
    runs = []
    for training in ask.runs:
        loss = losses[training.run.method]
        scores = {stop: Scores(loss, loss) for stop in training.evaluate_at}
        runs.append(Observation(training, np.zeros(1), 1, scores, loss, 1.0, math.isinf(loss)))
    return Answer((), tuple(runs))


def play(policy: FreezeThaw, losses: dict[str, float], start: Observed) -> tuple[list[Ask], Choice, Observed]:
    """Follow a policy to its choice."""
    asks: list[Ask] = []
    while isinstance(decision := policy.decide(start), Ask):
        asks.append(decision)
        start = start.extend(decision, answer(decision, losses))
    return asks, decision, start


def pairs(ask: Ask) -> list[tuple[str, float]]:
    return [(each.run.method, pytest.approx(each.run.rate)) for each in ask.runs]


def test_phi_is_bounded_at_both_ends() -> None:
    assert phi(0.0) == phi(-1.0) == pytest.approx(math.log(0.01))
    assert phi(1.0) == phi(50.0) == phi(math.inf) == pytest.approx(math.log(1.01))


def test_a_run_that_is_better_than_usual_is_predicted_to_end_better() -> None:
    known = experience(Plan(0, 0, 0, 0, 1))
    one, two = KNOWN[:2]
    found = known.predict({one: 0.2, two: 0.6}, initial=1.0, part=1)
    assert found[one] == pytest.approx(-2.0 + 0.7 * (math.log(0.01) + 2.0))
    assert found[two] == pytest.approx(-2.0 + 0.7 * (math.log(0.51) + 2.0))
    assert known.predict({one: math.inf, two: 0.6}, 1.0, 1)[one] == math.inf


def test_a_configuration_that_is_usually_slow_is_not_dropped_for_being_slow() -> None:
    one, two = KNOWN[:2]
    known = experience(Plan(0, 0, 0, 0, 1))
    late = dataclasses.replace(known, usual={**known.usual, two: (-0.5,) * 4})  # two begins worse and ends alike
    found = late.predict({one: 0.2, two: 0.3}, initial=1.0, part=0)
    assert found[two] < found[one] + 0.5 * (math.log(0.135) - math.log(0.01))
    assert found[two] - known.predict({one: 0.2, two: 0.3}, 1.0, 0)[two] == pytest.approx(-0.75)


def test_stages_stop_most_runs_early_and_train_no_part_twice() -> None:
    policy = FreezeThaw(experience(Plan(first=3, second=2, neighbors=1, third=0, last=1)))
    asks, choice, end = play(policy, {"first": 0.4, "second": 0.3, "third": 0.9}, observed())
    assert pairs(asks[0]) == [("first", 0.1), ("second", 0.1 * 10**0.5), ("third", 0.1)]
    assert [(each.start, each.stop, each.keep) for each in asks[0].runs] == [(0, 30, 30)] * 3
    assert pairs(asks[1]) == [("second", 0.1 * 10**0.5), ("first", 0.1)]
    assert [(each.start, each.stop) for each in asks[1].runs] == [(30, 90)] * 2
    assert pairs(asks[2]) == [("second", 1.0)]  # the next rate of the leader, from the start
    assert [(each.start, each.stop) for each in asks[2].runs] == [(0, 90)]
    assert [(each.start, each.stop, each.keep) for each in asks[3].runs] == [(90, 270, 0)]
    assert choice.method == "second"
    assert end.spent == 3 * 30 + 2 * 60 + 90 + 180
    assert {each.training.run.length for each in end.runs} == {270}
    assert {each.training.run.seed for each in end.runs} == {7}


def test_a_run_that_diverged_is_not_continued() -> None:
    policy = FreezeThaw(experience(Plan(3, 3, 0, 0, 1)))
    asks, choice, _ = play(policy, {"first": math.inf, "second": math.inf, "third": 0.5}, observed())
    assert pairs(asks[1]) == [("third", 0.1)]
    assert (choice.method, choice.rate) == ("third", pytest.approx(0.1))


def test_no_more_is_asked_for_than_the_budget_pays_for() -> None:
    policy = FreezeThaw(experience(Plan(4, 4, 2, 2, 2)))
    for budget in (1.0, 1.4, 2.0):
        asks, _, end = play(policy, {"first": 0.4, "second": 0.3, "third": 0.2}, observed(budget))
        assert end.spent <= end.allowed
        assert end.left < 180 or len(asks[-1].runs) == 2


def test_the_end_of_a_run_is_judged_by_the_metric() -> None:
    policy = FreezeThaw(experience(Plan(0, 0, 0, 0, 2)))
    start = observed(mode="max", metric="accuracy", initial=Scores(2.0, 0.1))
    ask = policy.decide(start)
    assert isinstance(ask, Ask)
    found = [Observation(each, np.zeros(1), 1, {270: Scores(0.5, 0.6)}, 0.5, 2.0, False) for each in ask.runs]
    found[1] = dataclasses.replace(found[1], scores={270: Scores(0.9, 0.8)})
    choice = policy.decide(start.extend(ask, Answer((), tuple(found))))
    assert isinstance(choice, Choice)
    assert choice.method == found[1].training.run.method


def test_what_has_learnt_nothing_is_never_chosen() -> None:
    policy = FreezeThaw(experience(Plan(0, 0, 0, 0, 2)))
    _, choice, _ = play(policy, {"first": 1.0, "second": 0.9, "third": 0.9}, observed())
    assert choice.method == "second"
    with pytest.raises(ValueError, match="nothing was learnt: after 270 steps no run has a training loss below"):
        play(policy, dict.fromkeys(NAMES, 1.0), observed())
    with pytest.raises(ValueError, match="every run diverged within 270 steps: look at the data"):
        play(policy, dict.fromkeys(NAMES, math.inf), observed())


def test_a_method_of_the_caller_is_tried_early_at_its_default() -> None:
    known = experience(Plan(4, 0, 0, 0, 0))
    mine = {"mine": Method(lambda rate, num_steps: momentum_sgd(rate), default=0.5)}
    assert known.known({name: METHODS["first"] for name in ("first", "second")})[0] == ORDER[0]
    assert Configuration("mine", 0) in known.known(METHODS | mine)[:4]
    assert Configuration("mine", 0).rate(mine) == 0.5


def test_a_plan_serves_its_budget_and_all_up_to_the_next() -> None:
    plans = ((1.0, Plan(1, 0, 0, 0, 0)), (3.0, Plan(2, 0, 0, 0, 0)))
    known = dataclasses.replace(experience(Plan(0, 0, 0, 0, 1)), plans=plans)
    assert [known.plan(budget).first for budget in (1.0, 2.9, 3.0, 100.0)] == [1, 1, 2, 2]


def test_the_shipped_experience_is_complete() -> None:
    found = shipped()
    assert found.serves(PORTFOLIO)
    assert not found.serves({name: PORTFOLIO[name] for name in list(PORTFOLIO)[:3]})
    assert Experience.from_json(found.to_json()) == found
    assert len(found.slopes) == len(PARTS)
    assert set(found.order) <= set(found.means) == set(found.usual)
    assert found.plans[0][0] == 1.0
    for each in found.means:
        assert 0 < each.rate(PORTFOLIO) < 1e6


def test_one_request_names_its_run_and_its_part() -> None:
    ask = FreezeThaw(experience(Plan(1, 0, 0, 0, 0))).decide(observed())
    assert isinstance(ask, Ask)
    (training,) = ask.runs
    assert training == Training(training.run, 30, 0, 30, (30,))
