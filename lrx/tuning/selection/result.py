"""The result of `select`: the chosen transformation, the table of all runs and its figure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import optax

from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.policy import Observation
from lrx.tuning.selection.portfolio import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunRecord(NamedTuple):
    """One run of one round."""

    method: str
    rate: float
    round: int  # from 1 on
    steps: int  # length of the run, at whose end it was scored
    value: float  # the metric there; not finite if the run diverged
    loss: float  # the "loss" of the same evaluation; if it has none, the metric, negated if more is better
    steps_paid: int  # steps made in this round: those reused from an earlier one are not made twice
    learnt: bool  # whether the training loss was below that of the initial parameters on the same minibatches


def record_of(observation: Observation, number: int) -> RunRecord:
    """Return what a run of round `number` showed as a line of the table."""
    training = observation.training
    return RunRecord(
        training.run.method,
        training.run.rate,
        number,
        training.stop,
        observation.last.metric,
        observation.last.loss,
        training.stop - training.start,
        observation.learnt,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """The method and the rate that `select` chose, and all runs that led to the choice.

    Attributes:
      method: name of the chosen method in the portfolio.
      rate: the chosen learning rate.
      tx: the transformation, ready for a run of `num_steps`.
      num_steps: length of that run.
      portfolio: the methods that were compared.
      records: one for each run of each round, in the order in which they were made.
      range_tests: name of the first method that uses a range test, and the test.
      cost: all steps made, range tests included, in full runs of `num_steps`. Evaluations are not counted.
      budget: upper bound of `cost`.
      seconds: time taken, including compilation.
      metric: what runs were compared by.
      mode: "min" or "max", which metric is better.
    """

    method: str
    rate: float
    tx: optax.GradientTransformation
    num_steps: int
    portfolio: Mapping[str, Method]
    records: list[RunRecord]
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
        width = max(len(each.method) for each in self.records)
        heads = {length: f"{length:,} steps" for length in self._lengths()}
        rows = [f"{'method':{width}}  {'rate':>8}" + "".join(f"  {head:>9}" for head in heads.values())]
        for (method, rate), values in self._by_run().items():
            cells = "".join(f"  {_shown(values.get(length)):>{max(9, len(head))}}" for length, head in heads.items())
            shown = f"{rate:.2g}" if self.portfolio[method].has_rate else ""
            rows.append(f"{method:{width}}  {shown:>8}{cells}")
        trained = self._by_run()[self.method, self.rate]
        at = f" at {self.rate:.3g}" if self.portfolio[self.method].has_rate else ""
        tested = sum(len(test.rates) for test in self.range_tests.values()) / self.num_steps
        rows += [
            f"chosen: {self.method}{at}, by {self.metric} ({self.mode})",
            f"        after {max(trained):,} of {self.num_steps:,} steps, one seed",
            f"cost: {self.cost:.2f} full runs of {self.budget:g} allowed, {tested:.2f} of them for "
            f"{len(self.range_tests)} range test(s);",
            f"      evaluations are not counted; {self.seconds:.0f} s, compilation included",
        ]
        return "\n".join(rows)

    def _lengths(self) -> list[int]:
        return sorted({each.steps for each in self.records})

    def _by_run(self) -> dict[tuple[str, float], dict[int, float]]:
        """(method, rate) to {steps: value}: sorted by length, then from best to worst, diverged runs last."""
        runs: dict[tuple[str, float], dict[int, float]] = {}
        for each in self.records:
            runs.setdefault((each.method, each.rate), {})[each.steps] = each.value
        sign = 1 if self.mode == "min" else -1

        def order(values: dict[int, float]) -> tuple[bool, int, float]:
            last = max(values)
            return not math.isfinite(values[last]), -last, sign * values[last]

        return dict(sorted(runs.items(), key=lambda item: order(item[1])))

    def plot(self) -> Figure:
        """Draw the metric of every run over its length; needs matplotlib."""
        from lrx.tuning.figures import selection_curves

        return selection_curves(self._by_run(), self.metric, self.mode)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "diverged"
