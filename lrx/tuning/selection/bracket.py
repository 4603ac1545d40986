"""The bracket of `select`: range tests, then rounds of longer and longer runs; better runs advance with their state."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import numpy as np

from lrx.training.following import BestBy
from lrx.training.progress import ProgressMeter
from lrx.training.workload import Workload
from lrx.tuning.range_test import range_test
from lrx.tuning.selection.portfolio import MIN_RATE, Method
from lrx.tuning.selection.result import RunRecord, Selection
from lrx.tuning.selection.rounds import FEWEST_STEPS, ROUNDS, Costs, Rules, plan_costs
from lrx.tuning.selection.runner import MethodRunner
from lrx.tuning.selection.state import BracketState, Candidate
from lrx.tuning.study import Study


class Bracket:
    """The methods of a portfolio on one workload. It can be run again with another seed.

    Args:
      workload: the model, its data and its loss.
      num_steps: length of a full run.
      portfolio: name to method.
      best_by: the result of an evaluation to compare by; None as for `select`.
    """

    def __init__(
        self, workload: Workload, num_steps: int, portfolio: Mapping[str, Method], best_by: BestBy | None
    ) -> None:
        self.num_steps = num_steps
        self.runner = MethodRunner(workload, num_steps, portfolio, best_by)
        self.rules = Rules(portfolio, "min" if best_by is None else best_by.mode)

    def run(
        self,
        budget: float,
        seed: int,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | str | None = False,
    ) -> Selection:
        """Choose within `budget` full runs; see `select`."""
        began = time.monotonic()
        costs = plan_costs(self.rules, budget, self.num_steps)
        self.runner.require_states()
        self.runner.require_metric(seed)
        state, rounds_made = BracketState(), None  # None before the range tests
        title = f"select, {self.runner.workload.name}"
        with Study(title, checkpoint, progress, lambda: self._identity(budget, seed), "round") as study:
            if study.made is not None:
                state, rounds_made = self._restore(study, seed), study.made
                study.announce(f"resumed after {rounds_made} of {len(ROUNDS)} rounds")
            status = study.show(state.spent, costs.allowed)
            status.start()
            if rounds_made is None:
                self._run_range_tests(state, costs, seed, status)
                rounds_made = 0
                self._save(study, rounds_made, state)
            for number in range(rounds_made + 1, len(ROUNDS) + 1):
                if number == 1:
                    candidates = self.rules.first_candidates(state.range_tests)
                else:
                    candidates = self.rules.next_candidates(number, state.candidates, state.records)
                if not candidates:
                    break
                state.candidates = candidates
                self._run_round(number, state, costs, seed, status)
                self._save(study, number, state)
        best = self.rules.choose(state.records, self.runner.compared)
        return Selection(
            best.method,
            best.rate,
            self.rules.portfolio[best.method].make(best.rate, self.num_steps),
            self.num_steps,
            self.rules.portfolio,
            state.records,
            state.range_tests,
            state.spent / self.num_steps,
            budget,
            time.monotonic() - began,
            self.runner.compared,
            self.rules.mode,
        )

    def _run_range_tests(self, state: BracketState, costs: Costs, seed: int, status: ProgressMeter) -> None:
        tests = self.rules.range_tests
        for number, (tx, name) in enumerate(tests.items(), 1):
            status.title = f"range test of {name}"
            later = (len(tests) - number) * costs.range_test + FEWEST_STEPS * sum(costs.rounds)
            test = range_test(
                self.runner.workload,
                tx,
                min_rate=MIN_RATE,
                max_rate=self.rules.leaders[name].max_rate,
                num_steps=costs.range_test,
                seeds=[seed],
                extend=state.spent + 2 * costs.range_test + later <= costs.allowed,
                progress=False,
            )
            state.range_tests[name] = test
            state.spent += len(test.rates)
            status.update(state.spent, float(np.nanmin(test.losses)), float(test.rates[-1]))

    def _run_round(self, number: int, state: BracketState, costs: Costs, seed: int, status: ProgressMeter) -> None:
        later = sum(costs.rounds[number:]) / ROUNDS[number - 1].length
        left = costs.allowed - state.spent
        length = self.rules.longest_affordable(state.candidates, self.num_steps, left, later)
        for candidate in state.candidates:
            status.title = f"round {number} of {len(ROUNDS)}, {candidate.method} at {candidate.rate:.3g}"
            made = self._advance(candidate, length, seed, status, state.spent)
            state.spent += made
            state.records.append(
                RunRecord(
                    candidate.method,
                    candidate.rate,
                    number,
                    length,
                    candidate.value,
                    candidate.loss,
                    made,
                    candidate.learnt,
                )
            )
            status.update(state.spent, candidate.value, candidate.rate)

    def _advance(self, candidate: Candidate, length: int, seed: int, status: ProgressMeter, before: int) -> int:
        """Train a run of `length` steps and return the steps made: 0 if an earlier round made a run of that length."""
        made = self.rules.steps_to_make(candidate, length)
        if candidate.length != length:
            reusable = self.rules.reusable_steps(candidate, length)
            self.runner.advance(candidate, length, reusable, seed, status, before)
        return made

    def _identity(self, budget: float, seed: int) -> dict[str, object]:
        lengths = [round_.length for round_ in ROUNDS]
        return self.runner.identity(lengths=lengths, budget=budget, seed=seed)

    def _save(self, study: Study, number: int, state: BracketState) -> None:
        """Keep what a later call continues from after round `number`, or, for 0, after the range tests."""
        states = {candidate.name: candidate.runs for candidate in state.candidates}
        study.save(number, state.to_arrays(list(self.rules.portfolio)), states)

    def _restore(self, study: Study, seed: int) -> BracketState:
        state = BracketState.from_arrays(study.restore(), list(self.rules.portfolio))
        kept = [candidate for candidate in state.candidates if candidate.done]
        states = study.restore_state({candidate.name: self.runner.start(candidate, seed) for candidate in kept})
        for candidate in kept:
            candidate.runs = states[candidate.name]
        return state
