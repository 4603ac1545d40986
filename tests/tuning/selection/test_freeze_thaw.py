"""Freeze-thaw: what is predicted, which parts of runs are asked for, and what is chosen."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest

from lrx.tuning.selection.experience import (
    JITTER,
    NEAR,
    PARTS,
    REGRET,
    Configuration,
    Experience,
    Seen,
    Values,
    phi,
    shipped,
)
from lrx.tuning.selection.freeze_thaw import SPREAD, FreezeThaw, _Race
from lrx.tuning.selection.policy import FREE_SHARE, Answer, Ask, Choice, Observation, Observed, Scores
from lrx.tuning.selection.portfolio import PORTFOLIO, Method, momentum_sgd

NAMES = ("first", "second", "third")
METHODS = {name: Method(lambda rate, num_steps: momentum_sgd(rate), default=0.1) for name in NAMES}
KNOWN = (Configuration("first", 0), Configuration("first", 2), Configuration("second", 0), Configuration("third", 0))
TASKS = np.array([[1.0, 0.9, -0.5, 0.2], [-1.0, -1.0, 0.8, 0.1], [0.2, 0.1, 0.3, -1.0]])
PROFILES = TASKS + 0.2 * np.arange(REGRET + 1)[:, None, None] * np.eye(3, 4)  # the later a part, the less alike


def experience(means: tuple[float, ...] = (-2.0, -2.0, -2.0, -2.0), noise: float = 0.01) -> Experience:
    """An experience in which each part tells the next one with a correlation of 0.9."""
    parts = REGRET + 1
    return Experience(
        KNOWN,
        np.repeat(np.array([means]), parts, axis=0),
        np.ones((parts, len(KNOWN))),
        PROFILES / np.linalg.norm(PROFILES, axis=1, keepdims=True),
        0.9 ** np.abs(np.subtract.outer(np.arange(parts), np.arange(parts))),
        np.full(len(PARTS), noise),
    )


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


def test_predictions_are_those_of_the_joint_normal_distribution() -> None:
    known = experience((-2.0, -2.5, -3.0, -1.5))
    seen = [Seen(KNOWN[0], 1, -4.0), Seen(KNOWN[2], 1, -1.0), Seen(KNOWN[0], 3, -4.5)]
    means, covariances = known.predict(seen)
    # By the density of everything together, conditioned one observation after the other.
    at = [(each.part, known.places[each.configuration]) for each in seen] + [(REGRET, place) for place in range(4)]
    kernel = np.eye(4)
    kernel[0, 1] = kernel[1, 0] = math.exp(-0.5 * 2**2)  # one method, two half decades apart
    for c, d in itertools.permutations(range(4), 2):
        if {c, d} != {0, 1}:
            apart = abs(KNOWN[c].place - KNOWN[d].place)
            kernel[c, d] = 0.1 / 0.9 * math.exp(-0.5 * apart**2)  # two methods of two optimizers
    shown = np.array([[known.profiles[p, :, c] @ known.profiles[q, :, d] for q, d in at] for p, c in at])
    alike = np.array([[known.between[p, q] * kernel[c, d] for q, d in at] for p, c in at])
    covariance = 0.5 * shown + 0.5 * alike
    covariance[range(3), range(3)] += 0.01 + JITTER
    expected = np.array([known.means[p, c] for p, c in at])
    for number, each in enumerate(seen):
        gain = covariance[:, number] / covariance[number, number]
        expected = expected + gain * (each.gap - expected[number])
        covariance = covariance - np.outer(gain, covariance[number])
    np.testing.assert_allclose(means, expected[3:], rtol=1e-8)
    np.testing.assert_allclose(covariances, covariance[3:, 3:], rtol=1e-8)


def test_nothing_seen_predicts_what_is_usual() -> None:
    known = experience((-2.0, -2.5, -3.0, -1.5))
    means, covariances = known.predict([])
    np.testing.assert_array_equal(means, [-2.0, -2.5, -3.0, -1.5])
    np.testing.assert_allclose(np.diag(covariances), 1)
    assert covariances[0, 1] > 0.5  # the same method, good on the same tasks
    assert covariances[0, 2] < -0.1  # good where the first is bad


def test_a_good_run_speaks_for_what_did_well_on_the_same_tasks() -> None:
    means, covariances = experience().predict([Seen(KNOWN[0], 1, -4.0)])
    deviations = np.sqrt(np.diag(covariances))
    assert means[0] < means[1] < -2.5  # the same method at another rate
    assert means[2] > -2.0  # did badly where the first did well
    assert deviations[0] < deviations[1] < 1.0


def test_the_probability_of_a_better_method_is_that_of_the_predicted_distribution() -> None:
    policy = FreezeThaw(experience(noise=0.5))
    _, choice, end = play(policy, {"first": 0.4, "second": 0.38, "third": 0.9}, observed())
    assert choice.certainty is not None
    race = _Race(end, policy.experience)
    drawn = np.random.default_rng(5).multivariate_normal(race.means, SPREAD**2 * race.covariances, 100_000)
    regrets = np.clip(np.exp(drawn) - NEAR, 0, 1)
    chosen = next(each for each, run in race.begun.items() if (run.method, run.rate) == choice[:2])
    own = regrets[:, race.experience.places[chosen]]
    better = {
        each: regrets[:, race.experience.places[each]] < own - 0.01
        for each in race.begun
        if each.method != choice.method
    }
    assert choice.certainty.probability == pytest.approx(np.any(list(better.values()), axis=0).mean(), abs=0.02)
    assert 0.02 < choice.certainty.probability < 0.98
    for rival in choice.certainty.rivals:
        likely = max(chance.mean() for each, chance in better.items() if each.method == rival.method)
        assert rival.probability == pytest.approx(likely, abs=0.02)
    assert {each.method for each in choice.certainty.rivals} == {"first", "second", "third"} - {choice.method}


def test_less_than_one_full_run_begins_what_did_well_on_other_tasks() -> None:
    policy = FreezeThaw(experience((-2.0, -2.0, -3.5, -2.0)))
    asks, choice, end = play(policy, {"first": 0.4, "second": 0.3, "third": 0.9}, observed(budget=1 / 9))
    assert [pairs(ask) for ask in asks] == [[("second", 0.1)]]
    assert (choice.method, end.spent) == ("second", 30)
    policy = FreezeThaw(experience((-2.0, -2.0, -2.1, -2.0)))
    asks, choice, end = play(policy, {"first": 0.4, "second": 0.3, "third": 0.9}, observed(budget=0.5))
    assert [ask.runs[0].stop for ask in asks] == [30, 90, 30]
    assert (choice.method, end.spent) == ("second", 120)
    assert FreezeThaw.can_begin(270, 1 / 9)
    assert not FreezeThaw.can_begin(270, 0.11)


def test_no_part_is_trained_twice_and_most_runs_end_early() -> None:
    policy = FreezeThaw(experience((-2.0, -2.0, -2.5, -2.0)))
    asks, choice, end = play(policy, {"first": 0.4, "second": 0.3, "third": 0.9}, observed())
    assert choice.method == "second"
    reached: dict[object, int] = {}
    for training in (each for ask in asks for each in ask.runs):
        assert training.start == reached.get(training.run, 0)
        reached[training.run] = training.stop
        assert training.keep == (training.stop if training.stop < 270 else 0)
        assert training.evaluate_at == tuple(
            step for step in (30, 90, 156, 270) if training.start < step <= training.stop
        )
    assert sorted(reached.values())[0] < 270
    assert {each.training.run.length for each in end.runs} == {270}
    assert {each.training.run.seed for each in end.runs} == {7}


def test_with_five_full_runs_a_complete_run_is_made_again_with_another_seed() -> None:
    losses = {"first": 0.4, "second": 0.3, "third": 0.9}
    asks, _, end = play(FreezeThaw(experience(noise=0.5)), losses, observed(8.0))
    place = next(place for place, ask in enumerate(asks) if ask.runs[0].run.seed != 7)
    complete = {each.run for ask in asks[:place] for each in ask.runs if each.stop == 270}
    again = asks[place].runs[0]
    assert len(complete) == 3
    assert again.run.seed == 8
    assert again.run._replace(seed=7) in complete
    assert (again.start, again.stop) == (0, 90)
    assert asks[place].title == "a third of a run with another seed"
    assert {each.run.seed for ask in asks for each in ask.runs} <= {7, 8, 9}
    assert end.spent <= end.allowed
    # What its runs show is seen for each seed.
    race = _Race(end, experience(noise=0.5))
    repeated = next(each for each, runs in race.runs.items() if again.run in runs)
    assert sum(each.configuration == repeated and each.part == 1 for each in race._seen()) > 1
    asks, _, _ = play(FreezeThaw(experience(noise=0.5)), losses, observed(4.9))
    assert {each.run.seed for ask in asks for each in ask.runs} == {7}


def test_a_configuration_that_diverges_with_another_seed_is_not_chosen() -> None:
    policy, start, unlucky = FreezeThaw(experience(noise=0.5)), observed(8.0), None
    while isinstance(ask := policy.decide(start), Ask):
        run = ask.runs[0].run
        if run.seed != 7 and unlucky is None:
            unlucky = run
        start = start.extend(ask, answer(ask, {run.method: math.inf if run == unlucky else 0.4}))
    assert unlucky is not None
    assert unlucky[:2] != (ask.method, ask.rate)
    assert all(each.training.run[:2] != unlucky[:2] or each.training.run.seed <= unlucky.seed for each in start.runs)


def test_seeds_begin_again_after_the_largest() -> None:
    losses = {"first": 0.4, "second": 0.3, "third": 0.9}
    asks, _, _ = play(FreezeThaw(experience(noise=0.5)), losses, observed(8.0, seed=2**31 - 1))
    assert {each.run.seed for ask in asks for each in ask.runs} == {2**31 - 1, 0, 1}


def test_what_has_learnt_with_any_seed_can_be_chosen() -> None:
    losses = {"first": 0.4, "second": 0.3, "third": 0.9}
    policy = FreezeThaw(experience(noise=0.5))
    _, choice, end = play(policy, losses, observed(8.0))
    seeds = [each.training.run.seed for each in end.runs if each.training.run[:2] == choice[:2]]
    assert len(set(seeds)) > 1
    unlucky = [
        dataclasses.replace(each, final_loss=each.initial_loss) if each.training.run == (*choice[:2], 7, 270) else each
        for each in end.runs
    ]
    assert not all(each.learnt for each in unlucky)
    again = policy.decide(dataclasses.replace(end, rounds=tuple((each,) for each in unlucky)))
    assert again[:2] == choice[:2]


def test_policies_that_decide_alike_have_equal_texts() -> None:
    assert repr(FreezeThaw()) == repr(FreezeThaw(shipped()))
    assert repr(FreezeThaw(experience())) == repr(FreezeThaw(experience()))
    assert repr(FreezeThaw(experience(noise=0.02))) != repr(FreezeThaw(experience()))


@pytest.mark.parametrize(("budget", "first", "second"), [(1.0, 30, 90), (1.5, 30, 90), (2.0, 90, 156), (10.0, 90, 156)])
def test_the_parts_depend_on_the_budget(budget: float, first: int, second: int) -> None:
    asks, _, _ = play(FreezeThaw(experience()), dict.fromkeys(NAMES, 0.3), observed(budget))
    trained = [each for ask in asks for each in ask.runs]
    assert trained[0].stop == first
    assert next((each.stop for each in trained if each.start == first), second) == second


def test_the_first_run_is_of_the_best_and_costs_are_weighed() -> None:
    ask = FreezeThaw(experience((-2.0, -3.5, -2.0, -2.0))).decide(observed())
    assert isinstance(ask, Ask)
    assert pairs(ask) == [("first", 1.0)]


def test_the_least_expected_regret_is_chosen_not_the_least_mean_of_its_logarithm() -> None:
    means = (-2.0, -2.1, -9.0, -9.0)
    wide = dataclasses.replace(experience(means, noise=1e6), deviations=np.ones((REGRET + 1, 4)) * [0.1, 2.0, 1, 1])
    methods = {"first": METHODS["first"]}
    _, choice, _ = play(FreezeThaw(wide), {"first": 0.3}, observed(2.0, portfolio=methods))
    assert choice.rate == pytest.approx(0.1)


def test_a_run_that_diverged_is_not_continued() -> None:
    asks, choice, _ = play(FreezeThaw(experience()), {"first": math.inf, "second": math.inf, "third": 0.5}, observed())
    assert (choice.method, choice.rate) == ("third", pytest.approx(0.1))
    trained = [each.run for ask in asks for each in ask.runs if each.run.method != "third"]
    assert len(trained) == len(set(trained))


@pytest.mark.parametrize("budget", [1.0, 1.4, 2.0, 7.0])
def test_no_more_is_asked_for_than_the_budget_pays_for(budget: float) -> None:
    asks, _, end = play(FreezeThaw(experience()), {"first": 0.4, "second": 0.3, "third": 0.2}, observed(budget))
    assert end.spent <= end.allowed
    complete = [each for each in end.latest().values() if each.training.stop == 270]
    assert end.left < 180 or len(complete) == len(KNOWN)
    assert len(asks) == len(end.runs)


LOSSES = {"first": 0.5, "second": 0.4, "third": 0.3}


def test_a_run_is_evaluated_where_it_cannot_be_stopped_unless_evaluations_take_long() -> None:
    for steps, first in ((0.0, (30, 90)), (10.0, (30, 90)), (14.0, (90,))):
        asks, choice, end = play(
            FreezeThaw(experience()), LOSSES, observed(evaluation_steps=dict.fromkeys(NAMES, steps))
        )
        assert asks[0].runs[0].evaluate_at == first
        assert end.charged_evaluation_steps() == 0
        assert choice.doubts == ()
    assert all(len(each.runs[0].evaluate_at) == 1 for each in asks)


@pytest.mark.parametrize("diverging", ["", "third"])
@pytest.mark.parametrize("budget", [0.34, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("steps", [27.0, 90.0, 270.0, 810.0])
def test_steps_and_evaluations_take_little_more_than_the_budget(steps: float, budget: float, diverging: str) -> None:
    losses = LOSSES | dict.fromkeys([diverging] if diverging else [], math.inf)
    start = observed(budget, evaluation_steps=dict.fromkeys(NAMES, steps))
    _, choice, end = play(FreezeThaw(experience()), losses, start)
    first = (30 if budget < 2 else 90) + 3 * steps  # one run is begun in any case
    assert end.runs[0].training.stop == (30 if budget < 2 else 90)
    assert end.spent + steps * end.evaluations <= max((1 + FREE_SHARE) * budget * (270 + steps), first) + 1e-6
    assert end.spent <= end.allowed
    assert (choice.doubts != ()) == (end.charged_evaluation_steps() > 0)


def test_a_choice_says_that_evaluations_left_little_time() -> None:
    _, choice, end = play(FreezeThaw(experience()), LOSSES, observed(evaluation_steps=dict.fromkeys(NAMES, 135.0)))
    (doubt,) = choice.doubts
    took = end.evaluations * 135 / 270
    assert doubt.startswith(f"{end.evaluations} evaluations took as long as {took:.2g} full runs, so ")


def test_long_steps_and_long_evaluations_count_together() -> None:
    start = observed(evaluation_steps=dict.fromkeys(NAMES, 40.0), step_costs=dict.fromkeys(NAMES, 1.5))
    _, choice, end = play(FreezeThaw(experience()), LOSSES, start)
    time = end.spent + end.excess_steps + end.evaluated_steps
    assert time <= (1 + FREE_SHARE) * 3 * (270 + 40) + 1e-6
    of_evaluations, of_steps = choice.doubts
    assert f"so {end.charged_evaluation_steps() / 270:.2g} of 3 full runs were not trained" in of_evaluations
    assert re.match(r"a step of \w+ counts 1.5(, of \w+ counts 1.5)*, since ", of_steps)


def test_a_first_run_that_only_its_evaluation_makes_too_long_has_usual_steps() -> None:
    start = observed(0.12, evaluation_steps=dict.fromkeys(NAMES, 270.0), step_costs={"third": 4.5})
    asks, _, _ = play(FreezeThaw(experience((-2.0, -2.0, -2.0, -3.0))), LOSSES, start)
    assert [each.runs[0].run.method for each in asks] == ["first"]


def test_of_equal_promise_long_steps_do_not_count_against_a_run() -> None:
    asks, _, _ = play(FreezeThaw(experience((-2.0, -2.0, -2.0, -2.1))), LOSSES, observed(step_costs={"third": 4.5}))
    assert asks[0].runs[0].run.method == "third"


@pytest.mark.parametrize("budget", [0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("cost", [1.5, 2.0, 4.5, 20.0])
def test_long_steps_count_as_many_usual_ones(cost: float, budget: float) -> None:
    start = observed(budget, step_costs={"third": cost})
    _, choice, end = play(FreezeThaw(experience((-2.0, -2.0, -2.0, -2.5))), LOSSES, start)
    tried = any(each.training.run.method == "third" for each in end.runs)
    assert end.spent + end.excess_steps <= end.allowed
    assert end.excess_steps == (cost - 1) * sum(
        each.training.stop - each.training.start for each in end.runs if each.training.run.method == "third"
    )
    assert tried == (budget * 9 >= cost), "of the method with the least expected regret, at least a ninth is made"
    if tried:
        (doubt,) = choice.doubts
        assert doubt.startswith(f"a step of third counts {cost:g}, since it takes as long as so many of most methods; ")
    else:
        assert choice.doubts == ()


@pytest.mark.parametrize(("cost", "first"), [(1.0, 90), (1.5, 90), (2.0, 30), (3.0, 30)])
def test_with_long_steps_runs_may_be_stopped_as_with_fewer_full_runs(cost: float, first: int) -> None:
    asks, _, _ = play(FreezeThaw(experience()), LOSSES, observed(3.0, step_costs={"third": cost}))
    assert {each.runs[0].stop for each in asks if each.runs[0].start == 0} == {first}


def test_a_run_that_the_budget_does_not_pay_for_is_begun_only_if_there_is_no_other() -> None:
    for costs, method in (({"third": 9.0}, "first"), (dict.fromkeys(NAMES, 9.0), "third")):
        start = observed(0.5, step_costs=costs)
        asks, _, _ = play(FreezeThaw(experience((-2.0, -2.0, -2.0, -3.0))), LOSSES, start)
        assert asks[0].runs[0].run.method == method
        assert asks[0].runs[0].stop == 30


def test_runs_of_few_steps_have_fewer_parts() -> None:
    start = dataclasses.replace(observed(10.0), num_steps=2)
    asks, _, _ = play(FreezeThaw(experience()), dict.fromkeys(NAMES, 0.3), start)
    assert {each.stop for ask in asks for each in ask.runs} == {1, 2}
    assert {ask.title for ask in asks if ask.runs[0].stop == 2 and ask.runs[0].run.seed == 7} == {"a full run"}


def test_the_end_of_a_run_is_judged_by_the_metric() -> None:
    start = observed(4.0, mode="max", metric="accuracy", initial=Scores(2.0, 0.1))
    policy = FreezeThaw(experience(noise=1e-4))
    while isinstance(ask := policy.decide(start), Ask):
        found = []
        for each in ask.runs:
            best = each.run.method == "third"
            scores = Scores(0.9 if best else 0.5, 0.8 if best else 0.6)  # the loss says the contrary
            found.append(Observation(each, np.zeros(1), 1, {each.stop: scores}, 0.5, 2.0, False))
        start = start.extend(ask, Answer((), tuple(found)))
    assert ask.method == "third"


def test_what_has_learnt_nothing_is_never_chosen() -> None:
    policy = FreezeThaw(experience())
    _, choice, _ = play(policy, {"first": 1.0, "second": 0.9, "third": 1.0}, observed(4.0))
    assert choice.method == "second"
    with pytest.raises(ValueError, match=r"nothing was learnt: after \d+ steps no run has a training loss below"):
        play(policy, dict.fromkeys(NAMES, 1.0), observed())
    with pytest.raises(ValueError, match="every run diverged within 270 steps: look at the data"):
        play(policy, dict.fromkeys(NAMES, math.inf), observed())


def test_a_method_of_the_caller_is_tried_early_at_its_default() -> None:
    mine = {"mine": Method(lambda rate, num_steps: momentum_sgd(rate), default=0.5)}
    known = experience((-2.0, -2.0, -2.0, -3.5))
    asks, _, _ = play(FreezeThaw(known), dict.fromkeys([*NAMES, "mine"], 0.3), observed(portfolio=METHODS | mine))
    begun = list(dict.fromkeys(each.run.method for ask in asks for each in ask.runs))
    assert begun[:2] == ["third", "mine"]
    assert {each.run.rate for ask in asks for each in ask.runs if each.run.method == "mine"} == {0.5}
    extended = known.extend(["mine"])
    assert extended.extend(["mine"]) is extended
    new = extended.places[Configuration("mine", 0)]
    parts = np.arange(REGRET + 1)
    own, others = Values(parts, np.full(REGRET + 1, new)), Values(parts, np.zeros(REGRET + 1, int))
    np.testing.assert_allclose(extended.correlations(own, own), known.between, atol=1e-12)
    assert np.abs(extended.correlations(own, others)).max() < 0.06  # by the kernel alone


def test_the_shipped_experience_is_complete() -> None:
    found = shipped()
    assert found.serves(PORTFOLIO)
    assert not found.serves({name: PORTFOLIO[name] for name in list(PORTFOLIO)[:3]})
    assert Experience.from_json(found.to_json()).to_json() == found.to_json()
    number = len(found.configurations)
    assert found.means.shape == found.deviations.shape == (len(PARTS) + 1, number)
    assert found.between.shape == (len(PARTS) + 1, len(PARTS) + 1)
    every = Values(*(each.ravel() for each in np.indices((len(PARTS) + 1, number))))
    correlations = found.correlations(every, every)
    np.testing.assert_allclose(np.diag(correlations), 1, atol=0.03)
    assert np.linalg.eigvalsh(correlations).min() > -0.01
    for each in found.configurations:
        assert 0 < each.rate(PORTFOLIO) < 1e6
