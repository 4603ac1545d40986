"""The policy of a bracket: range tests, then rounds of longer and longer runs; better runs advance with their state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.policy import Ask, Choice, Observation, Observed, RangeProbe, Run, Training
from lrx.tuning.selection.portfolio import MIN_RATE
from lrx.tuning.selection.rates import sees_fall
from lrx.tuning.selection.result import RunRecord, record_of
from lrx.tuning.selection.rounds import FEWEST_STEPS, ROUNDS, Candidate, Costs, Rules, plan_costs


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Range tests of every optimizer, then four rounds; `rounds.py` has the rules of a round."""

    def decide(self, observed: Observed) -> Ask | Choice:
        """Return the next range test or the next round, or the choice; see `Policy`."""
        rules = Rules(observed.portfolio, observed.mode)
        costs = plan_costs(rules, observed.budget, observed.num_steps)
        if len({probe.method for probe, _ in observed.range_tests}) < len(rules.range_tests):
            return _next_range_test(rules, costs, observed)
        return _second_range_test(rules, costs, observed) or _Rounds(rules, costs, observed).decide()


def _next_range_test(rules: Rules, costs: Costs, observed: Observed) -> Ask:
    made = len(observed.range_tests)
    name = list(rules.range_tests.values())[made]
    later = (len(rules.range_tests) - made - 1) * costs.range_test + FEWEST_STEPS * sum(costs.rounds)
    probe = RangeProbe(
        name,
        observed.seed,
        costs.range_test,
        max_rate=rules.leaders[name].max_rate,
        extend=2 * costs.range_test + later <= observed.left,
    )
    return Ask(range_tests=(probe,), title=f"range test of {name}")


def _second_range_test(rules: Rules, costs: Costs, observed: Observed) -> Ask | None:
    """Return a longer range test of higher rates only, for an optimizer whose first one saw no fall; None if none did.

    It begins at a hundredth of the default, or of the rate that diverged, and takes twice as many steps, so each rate
    has many times as long.
    """
    steps = 2 * costs.range_test
    tests: dict[str, list[RangeTest]] = {}
    for probe, test in observed.range_tests:
        tests.setdefault(probe.method, []).append(test)
    for name, made in tests.items():
        if len(made) > 1 or sees_fall(made[0]):
            continue
        if observed.rounds or steps + FEWEST_STEPS * sum(costs.rounds) > observed.left:
            continue
        method = rules.leaders[name]
        last = min(method.max_rate, math.inf if made[0].diverged_at is None else made[0].diverged_at)
        first = max(min(method.default / method.scale, last) / 100, MIN_RATE)
        probe = RangeProbe(name, observed.seed, steps, first, max(last, 10 * first))
        return Ask(range_tests=(probe,), title=f"second range test of {name}")
    return None


class _Rounds:
    """The rounds of a bracket, followed from the first one on through what has been observed."""

    def __init__(self, rules: Rules, costs: Costs, observed: Observed) -> None:
        self.rules, self.costs, self.observed = rules, costs, observed
        self.known: Mapping[Run, Observation] = observed.latest()
        self.left = costs.allowed - sum(len(test.rates) for _, test in observed.range_tests)

    def decide(self) -> Ask | Choice:
        candidates: list[Candidate] = []
        records: list[RunRecord] = []
        for number in range(1, len(ROUNDS) + 1):
            if number == 1:
                tests = {probe.method: test for probe, test in self.observed.range_tests}
                candidates = self.rules.first_candidates(tests)
            else:
                candidates = self.rules.next_candidates(number, candidates, records)
            if not candidates:
                break
            later = sum(self.costs.rounds[number:]) / ROUNDS[number - 1].length
            length = self.rules.longest_affordable(candidates, self.observed.num_steps, self.left, later)
            unknown = [each for each in candidates if self._run(each, length) not in self.known]
            if unknown:
                requests = tuple(self._request(each, length) for each in unknown)
                return Ask(runs=requests, title=f"round {number} of {len(ROUNDS)}")
            for candidate in candidates:
                observation = self.known[self._run(candidate, length)]
                self.left -= self.rules.steps_to_make(candidate, length)
                _read(candidate, observation)
                records.append(record_of(observation, number))
        best = self.rules.choose(records, self.observed.metric)
        return Choice(best.method, best.rate)

    def _run(self, candidate: Candidate, length: int) -> Run:
        return Run(candidate.method, candidate.rate, self.observed.seed, length)

    def _request(self, candidate: Candidate, length: int) -> Training:
        start = length - self.rules.steps_to_make(candidate, length)
        keep = self.rules.reusable_steps(candidate, length)
        return Training(self._run(candidate, length), length, start, keep, (length,))


def _read(candidate: Candidate, observation: Observation) -> None:
    """Take over what a run of the candidate has shown."""
    candidate.done, candidate.length = observation.training.keep, observation.training.stop
    candidate.loss, candidate.value = observation.last
    candidate.learnt = observation.learnt
