"""A live selection makes the runs that a replay looks up, and chooses the same."""

from __future__ import annotations

import math
import pathlib

import pytest

from lrx.benchmarks.selection.curves import CHOOSING, TaskCurves
from lrx.benchmarks.selection.replay import Replay
from lrx.training.following import BestBy
from lrx.tuning.selection.experience import shipped
from lrx.tuning.selection.freeze_thaw import FreezeThaw
from lrx.tuning.selection.portfolio import PORTFOLIO
from lrx.tuning.selection.selector import Selector
from lrx.workloads.suite import TASKS

CURVES = pathlib.Path(__file__).parents[2] / "examples/gallery/select/curves"


@pytest.mark.slow
def test_live_equals_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrx.tuning.selection.costs.FREE_RUN_SECONDS", math.inf)  # what a clock shows is not stored
    name = "digits-new-classes"
    task, curves = TASKS[name], TaskCurves.load(CURVES / f"{name}.npz")
    workload = task.make(None)
    portfolio = shipped().relevant(PORTFOLIO)
    selector = Selector(workload, task.steps, portfolio, BestBy(task.metric, task.mode), FreezeThaw())
    for budget in (1.0, 3.0):
        live = selector.run(budget, CHOOSING[0])
        replay = Replay(curves, CHOOSING[0])
        choice, cost = replay.choose(FreezeThaw(), budget, PORTFOLIO)
        assert (live.method, live.rate) == (choice.method, pytest.approx(choice.rate))
        assert live.cost == pytest.approx(cost)
        for record in live.records:
            part = curves.stops.index(record.steps)
            stored = replay.scores(record.method, record.rate, part).metric
            assert record.value == pytest.approx(stored, abs=0.02), record
