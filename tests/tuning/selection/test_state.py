"""What a selection has observed survives a checkpoint."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from tuning.selection.methods import SMALL

from lrx.tuning import RangeTest
from lrx.tuning.selection.policy import Answer, Ask, Observation, Observed, RangeProbe, Run, Scores, Training
from lrx.tuning.selection.state import from_arrays, to_arrays

BEGINNING = Observed(40, 3.0, SMALL, "error", "min", 5, Scores(2.0, 2.0))


def observation(training: Training, scores: dict[int, Scores], final_loss: float) -> Observation:
    losses = np.linspace(1.0, 0.5, 4, dtype=np.float32)
    return Observation(training, losses, 10, scores, final_loss, 2.0, math.isinf(final_loss), 0.25)


def test_what_was_observed_is_rebuilt_from_its_arrays() -> None:
    curve = np.linspace(1.0, 0.5, 4, dtype=np.float32)
    suggestions = {"steepest": 0.1, "valley": None, "minimum": 0.01, "slide": None, "divergence": 0.2}
    test = RangeTest(curve, curve, curve, curve[None], curve, 0.4, 0.1, None, suggestions)
    first, second = Run("constant", float(np.float32(0.03)), 5, 40), Run("blown up", 1e9, 6, 20)
    scores = {5: Scores(0.5, 0.25), 20: Scores(0.1, 0.2)}
    rounds = (
        (observation(Training(first, 20, 0, 20, (5, 20)), scores, 0.5),),
        (
            observation(Training(first, 30, 20, 0, ()), {}, 0.4),
            observation(Training(second, 20, 0, 10, (20,)), {20: Scores(math.inf, math.inf)}, math.inf),
        ),
    )
    observed = BEGINNING.extend(asked := ask_of(rounds[0]), answer_of(rounds[0]))
    observed = observed.extend(ask_of(rounds[1]), answer_of(rounds[1]))
    observed = observed.extend(
        asked._replace(range_tests=(RangeProbe("late decay", 5, 30, 1e-6, 2.0, True),), runs=()), Answer((test,))
    )
    observed = dataclasses.replace(observed, evaluation_steps={"late decay": 12.5}, step_costs={"constant": 2.0})
    found = from_arrays(to_arrays(observed), BEGINNING)
    assert (found.evaluation_steps, found.step_costs) == ({"late decay": 12.5}, {"constant": 2.0})
    assert found.spent == observed.spent == 20 + 10 + 20 + 4
    assert found.left == 120 - 54
    assert [[each.training for each in round_] for round_ in found.rounds] == [
        [each.training for each in round_] for round_ in rounds
    ]
    for before, after in zip(observed.runs, found.runs, strict=True):
        np.testing.assert_array_equal(before.losses, after.losses)
        assert dict(before.scores) == dict(after.scores)
        assert (before.final_loss, before.diverged, before.seconds) == (after.final_loss, after.diverged, after.seconds)
        assert (before.learnt, before.bin_steps) == (after.learnt, after.bin_steps)
    ((probe, read),) = found.range_tests
    assert probe == RangeProbe("late decay", 5, 30, 1e-6, 2.0, True)
    assert (read.suggestions, read.diverged_at) == (suggestions, None)
    np.testing.assert_array_equal(read.losses_by_seed, curve[None])


def ask_of(round_: tuple[Observation, ...]) -> Ask:
    return Ask(runs=tuple(each.training for each in round_))


def answer_of(round_: tuple[Observation, ...]) -> Answer:
    return Answer(runs=round_)


def test_nothing_is_rebuilt_from_nothing() -> None:
    found = from_arrays(to_arrays(BEGINNING), BEGINNING)
    assert (found.spent, found.rounds, found.range_tests) == (0, (), ())
