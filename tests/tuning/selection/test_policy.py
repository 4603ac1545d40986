"""A policy of another form than the bracket: runs of full length are trained in parts, side by side (freeze-thaw)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from tuning.line import NOISY_LINE
from tuning.selection.methods import SMALL

import lrx
from lrx.training.following import BestBy
from lrx.tuning.selection.policy import Ask, Choice, Observation, Observed, Run, Scores, Training
from lrx.tuning.selection.selector import Selector


@dataclasses.dataclass(frozen=True)
class FreezeThaw:
    """Train a part of every run, then always the next part of the best one."""

    parts: int = 4

    def decide(self, observed: Observed) -> Ask | Choice:
        part = observed.num_steps // self.parts
        latest = observed.latest()
        if not latest:
            runs = [Run(name, method.default, observed.seed, observed.num_steps) for name, method in SMALL.items()]
            return Ask(runs=tuple(Training(run, part, 0, part, (part,)) for run in runs if run.method != "blown up"))
        best = min(latest.values(), key=lambda each: each.last.metric)
        run, done = best.training.run, best.training.stop
        if done == run.length or observed.left < part:
            return Choice(run.method, run.rate)
        return Ask(runs=(Training(run, done + part, done, done + part, (done + part,)),))


SELECTOR = Selector(NOISY_LINE, 400, SMALL, BestBy("error", "min"), FreezeThaw())


@pytest.mark.slow
def test_a_run_in_parts_is_the_run_of_train_and_is_paid_once(tmp_path: Path) -> None:
    found = SELECTOR.run(3.0, 0, tmp_path / "kept")
    assert len(found.records) == 5 + 3
    assert found.cost == (5 + 3) / 4
    assert {each.steps_paid for each in found.records} == {100}
    history = lrx.train(NOISY_LINE, found.tx, steps=400)
    assert found.records[-1].steps == 400
    np.testing.assert_allclose(found.records[-1].value, history.evaluations["error"][-1], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_policy_is_asked_again_with_what_it_has_seen(tmp_path: Path) -> None:
    """A resumed selection goes on with the same policy; another policy is refused in its folder."""
    few = {"constant": SMALL["constant"]}

    @dataclasses.dataclass(frozen=True)
    class Halves:
        stop: int = 40

        def decide(self, observed: Observed) -> Ask | Choice:
            run = Run("constant", few["constant"].default, observed.seed, 40)
            done = max((each.training.stop for each in observed.runs), default=0)
            if done >= self.stop:
                return Choice(run.method, run.rate)
            return Ask(runs=(Training(run, done + 20, done, done + 20, (done + 20,)),))

    def selector(policy: Halves) -> Selector:
        return Selector(NOISY_LINE, 40, few, BestBy("error", "min"), policy)

    class Interrupted(Halves):
        def decide(self, observed: Observed) -> Ask | Choice:
            if observed.rounds:
                raise KeyboardInterrupt
            return super().decide(observed)

        def __repr__(self) -> str:
            return repr(Halves())

    whole = selector(Halves()).run(1.0, 0)
    with pytest.raises(KeyboardInterrupt):
        selector(Interrupted()).run(1.0, 0, tmp_path / "kept")
    resumed = selector(Halves()).run(1.0, 0, tmp_path / "kept")
    assert [each.steps for each in resumed.records] == [20, 40]
    assert resumed.records == whole.records
    with pytest.raises(ValueError, match=r"policy is .*Halves\(stop=40\)' there and .*Halves\(stop=20\)' here"):
        selector(Halves(20)).run(1.0, 0, tmp_path / "kept")


@dataclasses.dataclass(frozen=True)
class Stubborn:
    """Choose a method whatever its run shows."""

    method: str

    def decide(self, observed: Observed) -> Ask | Choice:
        run = Run(self.method, SMALL[self.method].default, observed.seed, observed.num_steps)
        return Choice(run.method, run.rate) if observed.rounds else Ask(runs=(Training(run, 20, evaluate_at=(20,)),))


def test_a_choice_that_has_learnt_nothing_is_refused_whatever_policy_has_made_it() -> None:
    few = {"slow": SMALL["slow"]}
    with pytest.raises(ValueError, match="nothing was learnt: after 20 steps the training loss of slow at 1e-06"):
        lrx.select(NOISY_LINE, num_steps=40, portfolio=few, metric="error", policy=Stubborn("slow"))


def test_a_gain_within_its_noise_is_no_learning() -> None:
    training = Training(Run("constant", 0.1, 0, 40), 40)
    losses = np.full(40, 0.9, np.float32)
    found = [Observation(training, losses, 1, {}, 0.9, 1.0, False, 1.0, noise).learnt for noise in (0.05, 0.2)]
    assert found == [True, False]


def test_what_evaluations_take_beyond_their_share_is_charged() -> None:
    observed = Observed(270, 3.0, SMALL, initial=Scores(1.0, 1.0))
    assert observed.evaluated_steps == 0
    long = dataclasses.replace(observed, evaluation_steps=dict.fromkeys(SMALL, 30.0) | {"constant": 80.0})
    assert (long.evaluations, long.evaluated_steps) == (2, 60)
    assert long.free_evaluation_steps == pytest.approx(3 * (30 + 0.15 * 300))
    assert long.charged_evaluation_steps() == 0
    assert long.charged_evaluation_steps(240) == pytest.approx(60 + 240 - 225)
    made, lost = (
        Observation(
            Training(Run("constant", rate, 0, 270), 90, evaluate_at=(30, 90)),
            np.zeros(1),
            1,
            {step: Scores(value, value) for step in (30, 90)},
            value,
            1.0,
            math.isinf(value),
        )
        for rate, value in ((0.1, 0.5), (0.2, math.inf))
    )
    after = dataclasses.replace(long, rounds=((made,), (lost,)))
    assert (after.evaluations, after.evaluated_steps) == (2 + 2, 60 + 2 * 80)


def test_what_long_steps_take_beyond_usual_ones_is_charged() -> None:
    made = [
        Observation(Training(Run(method, 0.1, 0, 270), 90, 30), np.zeros(1), 1, {}, 0.5, 1.0, False)
        for method in ("constant", "late decay")
    ]
    observed = Observed(270, 3.0, SMALL, rounds=(tuple(made),), step_costs={"constant": 2.5})
    assert observed.least_budget == pytest.approx(3 / 2.5)
    assert observed.excess_steps == pytest.approx(1.5 * 60)
    assert (observed.spent, observed.left) == (120, 3 * 270 - 120)
    assert dataclasses.replace(observed, step_costs={}).excess_steps == 0
    assert dataclasses.replace(observed, step_costs={}).least_budget == 3
