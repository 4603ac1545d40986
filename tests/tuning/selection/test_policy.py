"""A policy of another form than the bracket: runs of full length are trained in parts, side by side (freeze-thaw)."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tuning.line import NOISY_LINE
from tuning.selection.methods import SMALL

import lrx
from lrx.training.following import BestBy
from lrx.tuning.selection.policy import Ask, Choice, Observation, Observed, Run, Training
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


def test_a_policy_sees_how_long_an_evaluation_takes() -> None:
    few, seen = {"constant": SMALL["constant"]}, []

    def evaluate(*state: Any) -> dict[str, jax.Array]:
        time.sleep(0.05)
        return NOISY_LINE.evaluate(*state)

    class Watching(Stubborn):
        def decide(self, observed: Observed) -> Ask | Choice:
            seen.append(observed)
            return super().decide(observed)

    slow = dataclasses.replace(NOISY_LINE, evaluate=evaluate)
    found = lrx.select(slow, num_steps=40, portfolio=few, metric="error", policy=Watching("constant"))
    (run,) = seen[-1].runs
    assert 0.05 <= run.evaluation_seconds < found.seconds
    assert found.evaluations == seen[-1].evaluations == 2
    long = dataclasses.replace(run, seconds=2.0, evaluation_seconds=1.0)
    observed = dataclasses.replace(seen[-1], rounds=((long,),))
    assert observed.evaluation_steps == 10  # 20 steps took two seconds
    assert observed.charged() == max(0.0, 2 * 10 - 0.2 * 3 * 40)
    assert observed.charged(more=1) == pytest.approx(3 * 10 - 24)
    assert dataclasses.replace(seen[-1], rounds=((dataclasses.replace(long, evaluation_seconds=0.9),),)).charged(9) == 0
