"""What a race between methods found: its table, its picture, and the chain to train with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import optax

from lrx.tuning.range_test import RangeTest
from lrx.tuning.selection.portfolio import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Evidence(NamedTuple):
    """What a run of a race did."""

    method: str
    rate: float
    round: int  # from 1 on
    steps: int  # length of the run at whose end it was measured
    value: float  # the metric there; not finite where the run diverged
    loss: float  # the "loss" of the same evaluation; where it has none, the metric, negated if more is better
    steps_paid: int  # that were made for it in this round: what was carried from an earlier one is not made twice
    learnt: bool  # whether its training loss was below that of the initial parameters on the same minibatches


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """What `select` chose, and why.

    Attributes:
      method: its name in the portfolio.
      rate: its rate.
      tx: the transformation, ready for a run of `num_steps`.
      num_steps: length of that run.
      portfolio: what it was chosen from.
      evidence: every run of the race.
      range_tests: for each probe the name of the first method that uses it, and its range test.
      cost: all steps that were made, range tests included, in full runs of `num_steps`. Evaluations are not counted.
      budget: the most that it was allowed to be.
      seconds: that it took, compilation included.
      metric: what runs were compared by.
      mode: "min" or "max", what is better.
    """

    method: str
    rate: float
    tx: optax.GradientTransformation
    num_steps: int
    portfolio: Mapping[str, Method]
    evidence: list[Evidence]
    range_tests: dict[str, RangeTest]
    cost: float
    budget: float
    seconds: float
    metric: str
    mode: str

    def __repr__(self) -> str:
        at = f" at {self.rate:.3g}" if self.portfolio[self.method].has_rate else ""
        runs, cost = len(self._by_run()), f"{self.cost:.2f} of {self.budget:g} full runs"
        return f"Selection({self.method}{at}, for {self.num_steps:,} steps; the best of {runs} runs, for {cost})"

    def __str__(self) -> str:
        width = max(len(each.method) for each in self.evidence)
        heads = {horizon: f"{horizon:,} steps" for horizon in self._horizons()}
        rows = [f"{'method':{width}}  {'rate':>8}" + "".join(f"  {head:>9}" for head in heads.values())]
        for (method, rate), values in self._by_run().items():
            cells = "".join(f"  {_shown(values.get(horizon)):>{max(9, len(head))}}" for horizon, head in heads.items())
            shown = f"{rate:.2g}" if self.portfolio[method].has_rate else ""
            rows.append(f"{method:{width}}  {shown:>8}{cells}")
        trained = self._by_run()[self.method, self.rate]
        at = f" at {self.rate:.3g}" if self.portfolio[self.method].has_rate else ""
        probed = sum(len(test.rates) for test in self.range_tests.values()) / self.num_steps
        rows += [
            f"chosen: {self.method}{at}, by {self.metric} ({self.mode})",
            f"        after {max(trained):,} of {self.num_steps:,} steps, one seed",
            f"cost: {self.cost:.2f} full runs of {self.budget:g} allowed, {probed:.2f} of them for "
            f"{len(self.range_tests)} range test(s);",
            f"      evaluations are not counted; {self.seconds:.0f} s, compilation included",
        ]
        return "\n".join(rows)

    def _horizons(self) -> list[int]:
        return sorted({each.steps for each in self.evidence})

    def _by_run(self) -> dict[tuple[str, float], dict[int, float]]:
        """(method, rate) to {steps: value}, the best of those that came furthest first, what diverged last."""
        runs: dict[tuple[str, float], dict[int, float]] = {}
        for each in self.evidence:
            runs.setdefault((each.method, each.rate), {})[each.steps] = each.value
        sign = 1 if self.mode == "min" else -1

        def order(values: dict[int, float]) -> tuple[bool, int, float]:
            last = max(values)
            return not math.isfinite(values[last]), -last, sign * values[last]

        return dict(sorted(runs.items(), key=lambda item: order(item[1])))

    def plot(self) -> Figure:
        """Draw the metric of every run of the race over its length; needs matplotlib."""
        from lrx.tuning.figures import knockout

        return knockout(self._by_run(), self.metric, self.mode)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "diverged"
