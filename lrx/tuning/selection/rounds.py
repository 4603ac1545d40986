"""The rules of `select`: which runs enter each round, how long they are, and which of them is chosen.

Nothing here trains. `examples/guides/which-method.md` has the rules in words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.rates import rate_of_least_loss, trial_rates
from lrx.tuning.selection.result import RunRecord


@dataclasses.dataclass(eq=False)
class Candidate:
    """A method at a rate, and how far it has been trained."""

    method: str
    rate: float
    done: int = 0  # steps of the state that is kept
    length: int = 0  # of the run that value, loss and learnt are of
    value: float = math.inf
    loss: float = math.inf
    learnt: bool = False


class Round(NamedTuple):
    """One round of the bracket."""

    length: int  # of its runs, at least, in lengths of the first round's
    others: int | None  # methods that enter at their best rate, beside those that keep all rates; None: all methods


ROUNDS = (Round(1, None), Round(4, 3), Round(14, 2), Round(14, 1))
FEWEST_STEPS = 2  # of a run in the first round
RANGE_TEST_PART = 0.1  # of a full run, for each range test
RANGE_TEST_STEPS = (30, 100)  # of each range test, at least and at most

_Run = TypeVar("_Run", Candidate, RunRecord)  # what has a method, a rate, a value and a loss


class Rules:
    """The rules of the bracket, for one portfolio.

    Args:
      portfolio: name to method.
      mode: "min" or "max", which metric is better.
    """

    def __init__(self, portfolio: Mapping[str, Method], mode: str) -> None:
        self.portfolio, self.mode = dict(portfolio), mode
        self.sign = 1 if mode == "min" else -1  # of a metric, so that less is better
        self.leaders = {name: method for name, method in self.portfolio.items() if method.variant_of is None}
        # Each range test once, by the first method that uses it.
        self.range_tests = {
            method.range_test_of: name for name, method in reversed(self.leaders.items()) if method.range_test_of
        }

    def sizes(self) -> list[int]:
        """Return the largest number of runs that each round can have."""
        rates = {name: method.trials if method.range_test_of else 1 for name, method in self.leaders.items()}
        always = [number for name, number in rates.items() if self.leaders[name].always_advance]
        most = max(rates.values())  # of the method that takes their place if they diverge
        all_rates, best_rates = max(sum(always), most), max(sum(min(2, number) for number in always), min(2, most))
        variants = max(sum(method.variant_of == name for method in self.portfolio.values()) for name in self.leaders)
        others = [min(round_.others, len(self.leaders) - 1) for round_ in ROUNDS if round_.others is not None]
        return [sum(rates.values()), all_rates + others[0], all_rates + others[1], best_rates + variants + others[2]]

    def first_candidates(self, tests: Mapping[str, RangeTest]) -> list[Candidate]:
        """Return the runs of the first round: every method that is not a schedule variant, at all its rates.

        Args:
          tests: the range tests, by the name of the first method that uses each.
        """
        candidates = []
        for name, method in self.leaders.items():
            if method.range_test_of is None:
                candidates.append(Candidate(name, float(np.float32(method.default))))
                continue
            first = self.range_tests[method.range_test_of]
            default = self.leaders[first].default / self.leaders[first].scale
            rates = trial_rates(tests[first], method.trials, default)
            candidates += [Candidate(name, float(np.float32(method.scale * rate))) for rate in rates]
        return candidates

    def next_candidates(
        self, number: int, candidates: Sequence[Candidate], records: Sequence[RunRecord]
    ) -> list[Candidate]:
        """Return the runs of a later round; none if every run of the round before diverged.

        Args:
          number: number of the round, from 2 on.
          candidates: the runs of the round before.
          records: the records of all runs so far.
        """
        ranked = self.rank(candidates)
        if not ranked:
            return []
        always = self._always_advancing(ranked, records)
        by_method: dict[str, list[Candidate]] = {}
        for candidate in ranked:
            by_method.setdefault(candidate.method, []).append(candidate)
        kept = [by_method.pop(name, []) for name in always]
        is_last = number == len(ROUNDS)
        if is_last:
            kept = [self.refine(runs) for runs in kept]
        entering = [candidate for runs in kept for candidate in runs]
        entering += [runs[0] for runs in list(by_method.values())[: ROUNDS[number - 1].others]]
        return entering + (self._schedule_variants(ranked[0]) if is_last else [])

    def _always_advancing(self, ranked: Sequence[Candidate], records: Sequence[RunRecord]) -> list[str]:
        """The methods that keep all their rates: those marked so, or else the one that led the first round."""
        left = {candidate.method for candidate in ranked}  # the others diverged, or did not advance
        marked = [name for name, method in self.portfolio.items() if method.always_advance and name in left]
        first = self.rank([record for record in records if record.round == 1])
        return marked or [next((record.method for record in first if record.method in left), ranked[0].method)]

    def refine(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the best run of a method, and one at the rate where a fit to its losses has the minimum.

        If that is not a new rate, the second best run takes its place.

        Args:
          candidates: the runs of one method, the best first.
        """
        method = self.portfolio[candidates[0].method] if candidates else None
        if method is None or method.range_test_of is None or method.trials == 1:
            return list(candidates[:1])
        best = candidates[0]
        losses = {candidate.rate: candidate.loss for candidate in candidates if math.isfinite(candidate.loss)}
        rate = rate_of_least_loss(losses, best.rate, method.trials)
        return list(candidates[:2]) if rate is None else [best, Candidate(best.method, rate)]

    def _schedule_variants(self, leader: Candidate) -> list[Candidate]:
        variants = [name for name, method in self.portfolio.items() if method.variant_of == leader.method]
        return [Candidate(name, leader.rate) for name in variants]

    def rank(self, runs: Sequence[_Run]) -> list[_Run]:
        """Return the runs that did not diverge, by increasing loss; ties are broken by the metric."""

        def order(run: _Run) -> tuple[float, float]:
            return run.loss if math.isfinite(run.loss) else math.inf, self.sign * run.value

        return sorted((run for run in runs if math.isfinite(run.value)), key=order)

    def choose(self, records: Sequence[RunRecord], metric: str) -> RunRecord:
        """Return the run to choose: of the longest ones, the metric picks the method and the loss picks its rate.

        A run that has learnt nothing is not chosen, whatever its metric.

        Args:
          records: the records of all runs.
          metric: its name, for error messages.

        Raises:
          ValueError: if every run diverged, or none of the longest ones has learnt anything.
        """
        latest = {(record.method, record.rate): record for record in records}.values()
        ranked = self.rank(list(latest))
        if not ranked:
            steps = max(record.steps for record in records)
            if all(math.isinf(record.value) for record in latest):
                raise ValueError(
                    f"every run diverged within {steps:,} steps: look at the data, or add a method with lower rates to "
                    "the portfolio."
                )
            raise ValueError(
                f"the {metric} of every run is not finite within {steps:,} steps, though not all diverged: look "
                "at what the workload's evaluate gives."
            )
        longest = max(record.steps for record in ranked)
        ranked = [record for record in ranked if record.steps == longest and record.learnt]
        if not ranked:
            raise ValueError(
                f"nothing was learnt: after {longest:,} steps no run has a training loss below that of the initial "
                "parameters. Give a longer run, num_steps, or a portfolio of methods with other rates; or look at the "
                "gradients, which may be zero where training starts."
            )
        method = min(ranked, key=lambda record: self.sign * record.value).method
        return next(record for record in ranked if record.method == method)

    def reusable_steps(self, candidate: Candidate, length: int) -> int:
        """Return how many steps of a run of `length` a longer run can reuse."""
        return math.floor(self.portfolio[candidate.method].reusable_fraction * length + 1e-9)

    def steps_to_make(self, candidate: Candidate, length: int) -> int:
        """Return the steps that a run of `length` costs: without those that were made before and can be reused."""
        if candidate.length == length:
            return 0
        return length - (candidate.done if candidate.done <= self.reusable_steps(candidate, length) else 0)

    def longest_affordable(self, candidates: Sequence[Candidate], num_steps: int, left: int, later: float) -> int:
        """Return the greatest length, at most `num_steps`, that the budget allows.

        Args:
          candidates: the runs of the round.
          num_steps: length of a full run.
          left: steps that may still be made.
          later: steps of the later rounds, in lengths of this round's runs.
        """

        def fits(length: int) -> bool:
            return sum(self.steps_to_make(each, length) for each in candidates) + later * length <= left

        low, high = 1, num_steps
        if fits(high):  # it may even cost nothing, if all have been made
            return high
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle):
                low = middle
            else:
                high = middle - 1
        return low


class Costs(NamedTuple):
    """What a bracket costs, in steps."""

    allowed: int  # in all
    range_test: int  # each
    rounds: tuple[int, ...]  # each, in lengths of the first round's runs


def plan_costs(rules: Rules, budget: float, num_steps: int) -> Costs:
    """Return what a bracket may cost and what its parts cost.

    Args:
      rules: the rules for the portfolio.
      budget: in full runs.
      num_steps: length of a full run.

    Raises:
      ValueError: if the budget is less than the range tests and the shortest rounds cost.
    """
    allowed, each, tests = math.floor(budget * num_steps + 1e-6), range_test_steps(num_steps), len(rules.range_tests)
    sizes = rules.sizes()
    rounds = tuple(size * round_.length for size, round_ in zip(sizes, ROUNDS, strict=True))
    least = tests * each + FEWEST_STEPS * sum(rounds)
    if least > allowed:
        shortest = _shortest(budget, tests, FEWEST_STEPS * sum(rounds))
        raise ValueError(
            f"budget must be at least {math.ceil(100 * least / num_steps) / 100:g} full runs of "
            f"{num_steps:,} steps for {tests} range test(s) and a first round of {sizes[0]} runs, got "
            f"budget={budget:g}: give that much, a smaller portfolio, or num_steps={shortest}, the shortest run "
            "that this budget is enough for."
        )
    return Costs(allowed, each, rounds)


def range_test_steps(num_steps: int) -> int:
    """Return the steps of each range test, for full runs of `num_steps`."""
    return min(RANGE_TEST_STEPS[1], max(RANGE_TEST_STEPS[0], int(RANGE_TEST_PART * num_steps)))


def _shortest(budget: float, tests: int, rounds: int) -> int:
    """Return the shortest full run for which `budget` pays for the range tests and for `rounds` steps."""
    enough = math.ceil((tests * RANGE_TEST_STEPS[1] + rounds) / budget)
    fits = (n for n in range(1, enough + 1) if tests * range_test_steps(n) + rounds <= math.floor(budget * n + 1e-6))
    return next(fits, enough)
