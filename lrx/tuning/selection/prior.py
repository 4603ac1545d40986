"""The policy for less than one full run: the first method of a fixed order that learns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from lrx.tuning.ladder import FEWEST_STEPS
from lrx.tuning.selection.policy import Ask, Choice, Observed, RangeProbe, Run, Training
from lrx.tuning.selection.portfolio import Method
from lrx.tuning.selection.rates import trial_rates
from lrx.tuning.selection.rounds import range_test_steps

# Of the methods at their defaults on the fourteen tasks of an earlier suite, the first has the smallest worst
# regret (26 %) and the second the smallest median of those with a rate.
ORDER = ("prodigy, linear decay", "sgd, linear decay", "adamw, linear decay")
FEWEST = 10  # steps of a run, at least, that is to show whether a method learns


@dataclasses.dataclass(frozen=True)
class Prior:
    """Try the methods one after the other until one learns, each with half of the steps that are left.

    A method with a range test takes its rate from it. The runs are beginnings of full runs, and they decide nothing
    but whether a method learns at all.

    Attributes:
      order: names of methods; those that the portfolio lacks are left out. If it lacks all, its own order is used.
    """

    order: tuple[str, ...] = ORDER

    def decide(self, observed: Observed) -> Ask | Choice:
        """Return the next range test or beginning of a run, or the choice; see `Policy`.

        Raises:
          ValueError: if the budget is too small for one beginning, or no method that was tried has learnt anything.
        """
        tests = {observed.portfolio[probe.method].range_test_of: test for probe, test in observed.range_tests}
        known = {each.training.run.method: each for each in observed.runs}
        fewest = range_test_steps(observed.num_steps) + 2 * FEWEST
        if observed.allowed < fewest:
            least = math.ceil(100 * fewest / observed.num_steps) / 100
            raise ValueError(
                f"budget must be at least {least:g} full runs of {observed.num_steps:,} steps, for a range test and a "
                f"run that shows whether a method learns, got budget={observed.budget:g}: give that much."
            )
        for name in self._names(observed.portfolio):
            method = observed.portfolio[name]
            if name in known:
                if known[name].learnt:
                    return self._choice(observed, name, known[name].training.run.rate)
                continue
            leader = observed.portfolio[method.variant_of or name]
            if leader.range_test_of is not None and leader.range_test_of not in tests:
                steps = range_test_steps(observed.num_steps)
                if observed.left < steps + 2 * FEWEST or steps < FEWEST_STEPS:
                    continue
                probe = RangeProbe(method.variant_of or name, observed.seed, steps, max_rate=leader.max_rate)
                return Ask(range_tests=(probe,), title=f"range test of {name}")
            rate = method.default
            if leader.range_test_of is not None:
                default = leader.default / leader.scale
                rate = leader.scale * float(trial_rates(tests[leader.range_test_of], 1, default)[0])
            stop = min(observed.left // 2, observed.num_steps)
            if stop < FEWEST:
                break
            run = Run(name, float(np.float32(rate)), observed.seed, observed.num_steps)
            return Ask(runs=(Training(run, stop, evaluate_at=(stop,)),), title="does it learn?")
        tried = ", ".join(known)
        raise ValueError(
            f"nothing was learnt within the budget: the training losses of {tried} are not below that of the initial "
            f"parameters. Give budget=3 instead of {observed.budget:g}, which compares all methods; or look at the "
            "gradients, which may be zero where training starts."
        )

    def needed(self, portfolio: Mapping[str, Method]) -> dict[str, Method]:
        """Return the methods that may be tried and those whose range tests they use; all if none is in the order."""
        tried = [portfolio[name] for name in self._names(portfolio)]
        leaders = {method.variant_of for method in tried}
        return {name: method for name, method in portfolio.items() if method in tried or name in leaders}

    def _names(self, portfolio: Mapping[str, Method]) -> list[str]:
        return [name for name in self.order if name in portfolio] or list(portfolio)

    def _choice(self, observed: Observed, name: str, rate: float) -> Choice:
        leader = observed.portfolio[observed.portfolio[name].variant_of or name]
        of_rate = "the rate is that of a range test" if leader.range_test_of is not None else "the rate is its default"
        reason = (
            f"a budget below 1 compares no methods: this is the first one of a fixed order that has learnt something, "
            f"and {of_rate}."
        )
        return Choice(name, rate, reasons=(reason,), doubts=("whether another method is better was not measured.",))
