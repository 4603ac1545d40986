"""A replay: what it looks up, what it refuses, and what strategies choose with a budget."""

from __future__ import annotations

import dataclasses
import math

import pytest
from benchmarks.made_up_curves import curves_of

from lrx.benchmarks.selection.curves import CHOOSING
from lrx.benchmarks.selection.replay import Replay
from lrx.benchmarks.selection.strategies import (
    BUDGETS,
    RULE_OF_THUMB,
    at_default,
    random_search,
    rule_of_thumb,
    with_optuna,
)
from lrx.tuning.selection.policy import Ask, Choice, Observed, RangeProbe, Run, Training

LINEAR = "adamw, linear decay"
CURVES = curves_of(
    {
        LINEAR: {1e-4: (0.6, 0.6), 1e-3: (0.4, 0.4), 1e-2: (0.2, 0.2), 1e-1: (math.inf, math.inf)},
        RULE_OF_THUMB: {3e-4: (0.3, 0.3), 1e-3: (0.5, 0.5), 3e-3: (0.25, 0.25)},
    }
)
REPLAY = Replay(CURVES, CHOOSING[1])


@dataclasses.dataclass(frozen=True)
class Thaw:
    """Train two rates to a third of the run, and the better one to the end."""

    length: int = 270
    stop: int = 90

    def decide(self, observed: Observed) -> Ask | Choice:
        """Ask for the next part, or choose."""
        if not observed.rounds:
            runs = [Run(LINEAR, rate, observed.seed, self.length) for rate in (1e-3, 1.2e-2)]
            return Ask(runs=tuple(Training(run, self.stop, keep=self.stop, evaluate_at=(self.stop,)) for run in runs))
        best = min(observed.runs, key=lambda each: each.last.loss).training.run
        if len(observed.rounds) == 1:
            return Ask(runs=(Training(best, 270, start=self.stop, evaluate_at=(270,)),))
        return Choice(best.method, best.rate)


def test_a_policy_chooses_from_what_is_stored() -> None:
    choice, cost = REPLAY.choose(Thaw(), 2.0, {})
    assert choice == Choice(LINEAR, 1.2e-2)
    assert cost == pytest.approx(4 / 3)


def test_an_observation_ends_where_the_request_ends() -> None:
    (seen,) = REPLAY.answer(Ask(runs=(Training(Run(LINEAR, 1e-2, CHOOSING[1], 270), 90, evaluate_at=(30, 90)),))).runs
    assert [seen.scores[stop].loss for stop in (30, 90)] == pytest.approx([1 - 0.8 / 9, 1 - 0.8 / 3])
    assert not seen.diverged
    assert (~(seen.losses != seen.losses)).sum() * seen.bin_steps == pytest.approx(90, abs=seen.bin_steps)
    (lost,) = REPLAY.answer(Ask(runs=(Training(Run(LINEAR, 0.1, CHOOSING[1], 270), 90, evaluate_at=(90,)),))).runs
    assert lost.diverged
    assert (lost.last.loss, lost.last.metric, lost.final_loss) == (math.inf, math.inf, math.inf)


def test_what_long_steps_take_is_part_of_what_a_policy_spends() -> None:
    choice, usual = REPLAY.choose(Thaw(), 3.0, {})
    longer, spent = REPLAY.choose(Thaw(), 3.0, {}, step_costs={LINEAR: 2.5})
    assert (longer, usual) == (choice, pytest.approx(4 / 3))
    assert spent == pytest.approx(2.5 * usual)


def test_the_next_seeds_are_the_other_choosing_seeds_in_their_order() -> None:
    curves = curves_of({LINEAR: {1e-3: (0.4, 0.4)}})
    curves.methods[LINEAR].evaluations["loss"][0, :, -1] = [0.1, 0.2, 0.3]
    runs = [Run(LINEAR, 1e-3, CHOOSING[1] + number, 270) for number in range(4)]
    asked = Ask(runs=tuple(Training(run, 270, evaluate_at=(270,)) for run in runs))
    seen = Replay(curves, CHOOSING[1]).answer(asked).runs
    assert [each.training for each in seen] == list(asked.runs)
    assert [each.last.loss for each in seen] == pytest.approx([0.2, 0.3, 0.1, 0.2])


def test_a_replay_refuses_what_is_not_stored() -> None:
    with pytest.raises(ValueError, match="only runs of 270 steps are stored, got length=90"):
        REPLAY.choose(Thaw(length=90), 2.0, {})
    with pytest.raises(ValueError, match=r"evaluations are stored after \[10, 30, 90, 156, 270\] steps, got 120"):
        REPLAY.choose(Thaw(stop=120), 2.0, {})
    with pytest.raises(ValueError, match="range tests are not stored"):
        REPLAY.answer(Ask(range_tests=(RangeProbe(LINEAR, 0, 100),)))


def test_simple_strategies_choose_the_best_of_the_runs_that_they_can_pay_for() -> None:
    assert [(pick.rate, pick.cost) for pick in rule_of_thumb(REPLAY)] == [
        pytest.approx(pair) for pair in [(1e-3, 0), (1e-3, 1), (1e-3, 1), (3e-4, 2), (3e-3, 3), (3e-3, 3), (3e-3, 3)]
    ]
    assert {(pick.method, round(pick.rate, 6), pick.cost) for pick in at_default(LINEAR)(REPLAY)} == {(LINEAR, 1e-3, 0)}


def test_random_search_never_spends_more_than_its_budget() -> None:
    picks = random_search(REPLAY)
    assert all(pick.cost <= budget for pick, budget in zip(picks, BUDGETS, strict=True))
    losses = [REPLAY.scores(pick.method, pick.rate, -1).loss for pick in picks]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.slow
def test_optuna_spends_its_budget_and_no_more() -> None:
    pytest.importorskip("optuna")
    picks = with_optuna([LINEAR])(REPLAY)
    for pick, budget in zip(picks, BUDGETS, strict=True):
        assert budget - 1 < pick.cost <= budget + 1e-6
    assert (picks[-1].method, picks[-1].rate) == (LINEAR, pytest.approx(1e-2))
