"""What is known from other tasks: which method at which rate does well, and what a short run says about a full one.

The numbers are fitted by `lrx bench select_prior` to stored curves of the tasks of `lrx.workloads.suite`. A regret R is
0 for the best method and rate of a task and 1 for its initial parameters, and

    phi(R) = ln(min(R, 1) + 0.01)

is what is predicted. Of a configuration c, a method at a rate, the experience has the mean m(c) of phi over the tasks,
and, for a run that was stopped after a part of its length, the mean n(c) of phi of the gap to the best of the runs that
were stopped there. The gap x of a new run then predicts m(c) + b (phi(x) - n(c)): a run that is better than this
configuration usually is at that point will be better at the end. One slope b serves all configurations.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrx.tuning.selection.portfolio import PORTFOLIO, Method

PARTS = (1 / 9, 1 / 3, 3**-0.5, 1.0)  # of a run, after which it may be stopped
EARLY = 3  # configurations that are tried before methods that a caller has added
NEAR = 0.01  # regret that is as good as none
FILE = Path(__file__).with_name("experience.json")


class Configuration(NamedTuple):
    """A method at a rate."""

    method: str
    place: int  # of the rate: half decades from the method's default

    def rate(self, portfolio: Mapping[str, Method]) -> float:
        """Return the rate, a float32 value."""
        method = portfolio[self.method]
        return float(np.float32(method.default * 10.0 ** (self.place / 2))) if method.has_rate else method.default


class Plan(NamedTuple):
    """How many runs are trained up to which part of their length."""

    first: int  # to a ninth, in the order of the experience
    second: int  # to a third, those with the best predictions
    neighbors: int  # to a third too: the next rates of the one that leads then
    third: int  # to 0.58
    last: int  # to the end


def phi(gap: float) -> float:
    """Return the logarithm of a regret or a gap, which is bounded at both ends."""
    return math.log(min(max(gap, 0.0), 1.0) + NEAR) if math.isfinite(gap) else math.log(1.0 + NEAR)


@dataclasses.dataclass(frozen=True)
class Experience:
    """What was fitted.

    Attributes:
      order: configurations, those to try first at the beginning: each adds most to the ones before.
      means: configuration to m, as above.
      usual: configuration to n for each of `PARTS`; at the end of a run it is that of the metric, before of the loss.
      slopes: b for each of `PARTS`; at the end it is below 1 as far as the noise of one seed is in the way.
      plans: budget in full runs, and the plan for it and for more, in increasing order.
    """

    order: tuple[Configuration, ...]
    means: Mapping[Configuration, float]
    usual: Mapping[Configuration, tuple[float, ...]]
    slopes: tuple[float, ...]
    plans: tuple[tuple[float, Plan], ...]

    def plan(self, budget: float) -> Plan:
        """Return the plan for a budget of at least 1."""
        return [plan for least, plan in self.plans if least <= budget + 1e-9][-1]

    def known(self, portfolio: Mapping[str, Method]) -> list[Configuration]:
        """Return the configurations of a portfolio in the order in which they are tried.

        Those of `order` come first, then the others by their means. A method that a caller has added to those of lrx is
        tried early, at its default rate.
        """
        methods = {configuration.method for configuration in self.means}
        new = [Configuration(name, 0) for name in portfolio if name not in methods and name not in PORTFOLIO]
        rest = sorted(self.means, key=lambda each: self.means[each])
        first, later = self.order[:EARLY], self.order[EARLY:]
        return [each for each in dict.fromkeys([*first, *new, *later, *rest]) if each.method in portfolio]

    def relevant(self, portfolio: Mapping[str, Method]) -> dict[str, Method]:
        """Return the methods of a portfolio that are known, or that a caller has added to those of lrx."""
        known = {configuration.method for configuration in self.means}
        return {name: method for name, method in portfolio.items() if name in known or name not in PORTFOLIO}

    def serves(self, portfolio: Mapping[str, Method]) -> bool:
        """Return whether a portfolio has every method that is known."""
        return {configuration.method for configuration in self.means} <= set(portfolio)

    def mean(self, configuration: Configuration) -> float:
        """Return m of a configuration; of an unknown one, that of the median configuration."""
        found = self.means.get(configuration)
        return float(np.median(list(self.means.values()))) if found is None else found

    def predict(self, losses: Mapping[Configuration, float], initial: float, part: int) -> dict[Configuration, float]:
        """Return phi of the regret that runs are predicted to have at the end; infinite for one that diverged.

        Args:
          losses: configuration to the loss of its run after a part of its length; at the end to the metric, negated if
            more is better.
          initial: the same of the initial parameters.
          part: place among `PARTS`.
        """
        best = min(losses.values(), default=math.inf)
        span = initial - best
        found = {}
        for configuration, loss in losses.items():
            if not math.isfinite(loss):
                found[configuration] = math.inf
                continue
            gap = (loss - best) / span if span > 0 else float(loss > best)
            usual = self.usual.get(configuration)
            known = phi(1.0) / 2 if usual is None else usual[part]
            found[configuration] = self.mean(configuration) + self.slopes[part] * (phi(gap) - known)
        return found

    def neighbors(self, configuration: Configuration, taken: Iterable[Configuration]) -> list[Configuration]:
        """Return the next rates of a configuration that are not taken, the higher one first."""
        method, place = configuration
        both = [Configuration(method, place + 1), Configuration(method, place - 1)]
        held = set(taken)
        return [each for each in both if each not in held and each in self.means]

    def to_json(self) -> str:
        """Return everything as JSON, a line for each configuration."""
        rows = [
            json.dumps([*each, round(self.means[each], 3), *(round(usual, 3) for usual in self.usual[each])])
            for each in sorted(self.means)
        ]
        head = {
            "order": [list(each) for each in self.order],
            "slopes": [round(slope, 3) for slope in self.slopes],
            "plans": [[budget, list(plan)] for budget, plan in self.plans],
        }
        return json.dumps(head)[:-1] + ', "configurations": [\n' + ",\n".join(rows) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> Experience:
        """Read what `to_json` wrote."""
        read: dict[str, Any] = json.loads(text)
        rows = [(Configuration(row[0], row[1]), row[2], tuple(row[3:])) for row in read["configurations"]]
        return cls(
            tuple(Configuration(*each) for each in read["order"]),
            {each: mean for each, mean, _ in rows},
            {each: usual for each, _, usual in rows},
            tuple(read["slopes"]),
            tuple((budget, Plan(*plan)) for budget, plan in read["plans"]),
        )


@functools.cache
def shipped() -> Experience:
    """Return the experience of all tasks of the suite."""
    return Experience.from_json(FILE.read_text())
