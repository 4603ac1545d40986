"""The live selection: train what a policy asks for, until it chooses."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping

import numpy as np

from lrx.training.following import BestBy
from lrx.training.many import Runs
from lrx.training.progress import ProgressMeter
from lrx.training.workload import Workload
from lrx.tuning.selection.bracket import Bracket
from lrx.tuning.selection.certainty import assess, next_run
from lrx.tuning.selection.code import shortest
from lrx.tuning.selection.costs import Costs
from lrx.tuning.selection.doubts import list_doubts
from lrx.tuning.selection.policy import Answer, Ask, Choice, Observation, Observed, Policy, Run, Training
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.result import Selection, record_of, show_seconds
from lrx.tuning.selection.runner import MethodRunner
from lrx.tuning.selection.state import from_arrays, to_arrays
from lrx.tuning.study import Study


class Selector:
    """The methods of a portfolio on one workload, and the policy that chooses. It can be run again with another seed.

    Args:
      workload: the model, its data and its loss.
      num_steps: length of a full run.
      portfolio: name to method.
      best_by: the result of an evaluation to compare by; None as for `select`.
      policy: what asks for runs, and chooses.
    """

    def __init__(
        self,
        workload: Workload,
        num_steps: int,
        portfolio: Mapping[str, Method],
        best_by: BestBy | None,
        policy: Policy | None = None,
    ) -> None:
        self.num_steps, self.portfolio = num_steps, dict(portfolio)
        self.runner = MethodRunner(workload, num_steps, portfolio, best_by)
        self.mode = "min" if best_by is None else best_by.mode
        self.policy = Bracket() if policy is None else policy

    def run(
        self,
        budget: float,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | str | None = False,
    ) -> Selection:
        """Choose within `budget` full runs; see `select`."""
        began = time.monotonic()
        observed = Observed(self.num_steps, float(budget), self.portfolio, self.runner.compared, self.mode, int(seed))
        self.policy.decide(observed)  # raises if the budget is too small
        self.runner.require_states()
        if checkpoint is None:  # otherwise what is resumed may be finished
            self.runner.compile_ahead()
        initial = self.runner.initial_scores(seed)
        observed = dataclasses.replace(observed, metric=self.runner.compared, initial=initial)
        title = f"select, {self.runner.workload.name}"
        with Study(title, checkpoint, progress, lambda: self._identity(budget, seed), "round") as study:
            states = _States()
            if study.made is not None:
                observed = from_arrays(study.restore(), observed)
                states.restore(study, observed, self.runner)
                rounds = len(observed.rounds)
                study.announce(f"resumed after {rounds} round{'' if rounds == 1 else 's'}")
            status = study.show(observed.spent, observed.allowed)
            decision = self.policy.decide(observed)
            if isinstance(decision, Ask):
                self.runner.compile_ahead()
                counts_time = study.made is None and getattr(self.policy, "counts_time", False)
                costs = Costs(self.runner, seed, observed.allowed if counts_time else 0)
                if counts_time:
                    observed = dataclasses.replace(
                        observed, evaluation_steps=costs.evaluation_steps(), step_costs=costs.step_costs()
                    )
                    decision = self.policy.decide(observed)
                if status.enabled:
                    status.announce(self._estimate(observed, costs))
            status.start()
            while isinstance(decision, Ask):
                answer = self._answer(decision, observed, states, status)
                observed = observed.extend(decision, answer)
                study.save(len(observed.range_tests) + len(observed.rounds), to_arrays(observed), states.kept)
                decision = self.policy.decide(observed)
        self._require_learnt(decision, observed)
        return self._selection(decision, observed, time.monotonic() - began)

    def _require_learnt(self, choice: Choice, observed: Observed) -> None:
        """Refuse a choice whose runs have learnt nothing, whatever policy has made it."""
        runs = [each for each in observed.runs if each.training.run[:2] == (choice.method, choice.rate)]
        if runs and not any(each.learnt for each in runs):
            raise ValueError(
                f"nothing was learnt: after {max(each.training.stop for each in runs):,} steps the training loss of "
                f"{choice.method} at {choice.rate:.3g} is not below that of the initial parameters by more than its "
                "noise. Give a longer run, num_steps, or look at the gradients."
            )

    def _estimate(self, observed: Observed, costs: Costs) -> str:
        """Return what the selection will cost, as measured on a few steps and one evaluation."""
        run = costs.step_seconds * self.num_steps
        steps = observed.left / self.num_steps
        text = f"at most {steps:.2f} full runs of {show_seconds(run)}, {show_seconds(steps * run)}"
        if observed.initial is not None:
            text += f", and evaluations of {show_seconds(costs.evaluation_seconds)}"
            if observed.evaluation_steps:
                text += " each, which may take the place of some steps"
        for name, cost in observed.step_costs.items():
            text += f"; a step of {name} takes as long as {cost:g} of most methods"
        return text

    def _answer(self, ask: Ask, observed: Observed, states: _States, status: ProgressMeter) -> Answer:
        spent, tests, runs = observed.spent, [], []
        for probe in ask.range_tests:
            status.title = ask.title
            test = self.runner.test_range(probe)
            spent += len(test.rates)
            tests.append(test)
            status.update(spent, float(np.nanmin(test.losses)), float(test.rates[-1]))
        for training in ask.runs:
            status.title = f"{ask.title}, {training.run.method} at {training.run.rate:.3g}"
            observation, kept = self.runner.train(training, states.at_start(training), status, spent)
            states.keep(training, kept)
            spent += training.stop - training.start
            runs.append(observation)
            status.update(spent, observation.last.metric, training.run.rate)
        return Answer(tuple(tests), tuple(runs))

    def _selection(self, choice: Choice, observed: Observed, seconds: float) -> Selection:
        certainty = choice.certainty or assess(observed, choice.method, choice.rate)
        rate = shortest(choice.rate)
        compared = len({each.training.run.method for each in observed.runs}) > 1 or len(observed.runs) > 1
        steps = sum(each.training.stop - each.training.start for each in observed.runs)
        timed = sum(each.seconds for each in observed.runs)
        return Selection(
            choice.method,
            choice.rate,
            self.portfolio[choice.method].make(rate, self.num_steps),
            self.num_steps,
            self.portfolio,
            [record_of(each, number) for number, round_ in enumerate(observed.rounds, 1) for each in round_],
            {probe.method: test for probe, test in observed.range_tests},
            observed.spent / self.num_steps,
            observed.budget,
            seconds,
            observed.metric,
            self.mode,
            evaluations=observed.evaluations,
            run_seconds=timed / steps * self.num_steps if steps else math.nan,
            certainty=certainty if compared else None,
            reasons=choice.reasons,
            doubts=(*choice.doubts, *list_doubts(observed, certainty, choice.method, choice.rate)),
            next_run=choice.next_run or next_run(observed, certainty, choice.method, choice.rate),
        )

    def _identity(self, budget: float, seed: int) -> dict[str, object]:
        return self.runner.identity(policy=repr(self.policy), budget=budget, seed=seed)


class _States:
    """The states of runs that later requests continue from, on the host: one for each method, rate and seed."""

    def __init__(self) -> None:
        self.kept: dict[str, Runs] = {}

    def at_start(self, training: Training) -> Runs | None:
        """Return the state that a request continues from; None if it begins with step 0."""
        return self.kept[_name(training.run)] if training.start > 0 else None

    def keep(self, training: Training, state: Runs | None) -> None:
        """Keep the state of a request in place of that of an earlier one."""
        self.kept.pop(_name(training.run), None)
        if state is not None:
            self.kept[_name(training.run)] = state

    def restore(self, study: Study, observed: Observed, runner: MethodRunner) -> None:
        """Read the states after the last of the rounds that were observed."""
        latest: dict[str, Observation] = {_name(each.training.run): each for each in observed.runs}
        like = {name: runner.start(each.training.run) for name, each in latest.items() if each.training.keep > 0}
        self.kept = study.restore_state(like) if like else {}


def _name(run: Run) -> str:
    return f"{run.method} at {run.rate:.9g}, seed {run.seed}"
