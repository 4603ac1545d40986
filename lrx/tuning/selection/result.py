"""The result of `select`: the chosen transformation, the table of all runs and its figure."""

from __future__ import annotations

import dataclasses
import html
import math
import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import optax

from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.code import shortest, write_code
from lrx.tuning.selection.policy import Certainty, Observation, Training
from lrx.tuning.selection.portfolio import Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 88  # characters of a line of the printed selection


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
    seed: int = 0


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
        training.run.seed,
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
      range_tests: name of the first method that uses a range test, and the last test that was made for it.
      cost: all steps made, range tests included, in full runs of `num_steps`. Evaluations are not counted.
      budget: upper bound of `cost`.
      seconds: time taken, including compilation.
      metric: what runs were compared by.
      mode: "min" or "max", which metric is better.
      evaluations: number of evaluations that were made.
      run_seconds: seconds that the steps of a full run take, as measured on the runs; NaN if none was measured.
      certainty: how sure the choice is; None if nothing was compared.
      reasons: sentences: why the choice was made.
      doubts: sentences: what is not known.
      next_run: the full run that would tell most about the choice: the most probable rival, or another seed of the
        choice; None if it is not known.
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
    evaluations: int = 0
    run_seconds: float = math.nan
    certainty: Certainty | None = None
    reasons: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    next_run: Training | None = None

    @property
    def code(self) -> str:
        """The transformation as a line of Python, ready to paste."""
        return write_code(self.tx, self.method, shortest(self.rate), self.num_steps)

    def __repr__(self) -> str:
        runs, cost = (
            len({(each.method, each.rate, each.seed) for each in self.records}),
            f"{self.cost:.2f} of {self.budget:g} full runs",
        )
        return f"Selection({self._named()}, for {self.num_steps:,} steps; the best of {runs} runs, for {cost})"

    def __str__(self) -> str:
        heads, *rows = self._table()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (heads, *rows)]
        shown = ["  ".join(row).rstrip() for row in aligned] if rows else []
        for title, text in self._statements():
            shown += textwrap.wrap(text, WIDTH, initial_indent=f"{title}: ", subsequent_indent=" " * (len(title) + 2))
        return "\n".join([*shown, self.code])

    def _repr_html_(self) -> str:
        """Return the table and the statements for a notebook."""
        heads, *rows = self._table()
        lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in heads) + "</tr>"]
        for row, run in zip(rows, self._by_run(), strict=True):
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            mark = ' style="font-weight: bold"' if run == (self.method, self.rate) else ""
            lines.append(f"<tr{mark}>{cells}</tr>")
        table = f"<table>{''.join(lines)}</table>" if rows else ""
        said = "".join(f"<p><b>{title}</b>: {html.escape(text)}</p>" for title, text in self._statements())
        return f"{table}{said}<pre>{html.escape(self.code)}</pre>"

    def _named(self, method: str | None = None, rate: float | None = None) -> str:
        """Return a method and its rate in words, by default the chosen ones."""
        name, at = (self.method, self.rate) if method is None else (method, rate)
        return f"{name} at {at:.3g}" if self.portfolio[name].has_rate else name

    def _table(self) -> list[list[str]]:
        """Return the cells of the heads and of a row for each run."""
        lengths = sorted({each.steps for each in self.records})
        table = [["method", "rate", *(f"{length:,} steps" for length in lengths)]]
        seeds = self._seeds()
        for (method, rate), values in self._by_run().items():
            shown = f"{rate:.2g}" if self.portfolio[method].has_rate else ""
            cells = []
            for length in lengths:
                count = seeds[method, rate, length]
                cells.append(_shown(values.get(length)) + (f" ({count})" if count > 1 else ""))
            table.append([method, shown, *cells])
        return table

    def _seeds(self) -> Counter[tuple[str, float, int]]:
        """Return how many seeds were evaluated, for each method, rate and length."""
        evaluated = {(each.method, each.rate, each.steps, each.seed) for each in self.records}
        return Counter((method, rate, steps) for method, rate, steps, _ in evaluated)

    def _statements(self) -> list[tuple[str, str]]:
        """Return what stands below the table: titles and sentences."""
        runs = self._by_run().get((self.method, self.rate))
        seeds = self._seeds()[self.method, self.rate, max(runs)] if runs else 1
        seen = f", by {self.metric} ({self.mode}) after {max(runs):,} of {self.num_steps:,} steps" if runs else ""
        seen += f", {seeds} seeds" if seeds > 1 else ", one seed"
        found = [("chosen", self._named() + seen + ".")]
        if max(self._seeds().values(), default=1) > 1:
            found.append(("table", "numbers in parentheses count the seeds that were averaged."))
        found += [("why", reason) for reason in self.reasons]
        if self.certainty is not None and self.records:
            found.append(("sure", self._describe_certainty(self.certainty)))
        found += [("doubt", doubt) for doubt in self.doubts]
        found.append(("cost", self._describe_cost()))
        if self.next_run is not None:
            run = self.next_run.run
            seed = "" if run.seed == self._seed else f", with seed {run.seed}"
            found.append(("next", f"one more full run would tell most with {self._named(run.method, run.rate)}{seed}."))
        return found

    @property
    def _seed(self) -> int:
        return self.records[0].seed if self.records else 0

    def _describe_certainty(self, certainty: Certainty) -> str:
        if not certainty.rivals:
            return "there is no other method in the table."
        if math.isnan(certainty.probability):
            return "not known, since no run was made with two lengths."
        first = certainty.rivals[0]
        text = f"another method of the table is better by 1 % with a probability of {_percent(certainty.probability)}"
        if first.probability >= 0.005:
            text += f", most likely {self._named(first.method, first.rate)} ({_percent(first.probability)})"
        return text + "."

    def _describe_cost(self) -> str:
        text = f"{self.cost:.2f} full runs of {self.budget:g} allowed"
        if self.range_tests:
            trained = sum(each.steps_paid for each in self.records) / self.num_steps
            text += f", {self.cost - trained:.2f} of them for range tests"
        text += f"; {show_seconds(self.seconds)}"
        if math.isfinite(self.run_seconds):
            steps, run = show_seconds(self.cost * self.run_seconds), show_seconds(self.run_seconds)
            text += f", of which the steps took {steps} ({run} a full run)"
        return text + f"; the rest is compilation and {self.evaluations} evaluations."

    def _by_run(self) -> dict[tuple[str, float], dict[int, float]]:
        """(method, rate) to {steps: mean over seeds}: sorted by length, then from best to worst, diverged runs last."""
        by_seed: dict[tuple[str, float], dict[int, list[float]]] = {}
        for each in self.records:
            by_seed.setdefault((each.method, each.rate), {}).setdefault(each.steps, []).append(each.value)
        runs = {
            run: {steps: float(np.mean(values)) for steps, values in found.items()} for run, found in by_seed.items()
        }
        sign = 1 if self.mode == "min" else -1

        def order(values: dict[int, float]) -> tuple[bool, int, float]:
            last = max(values)
            return not all(map(math.isfinite, values.values())), -last, sign * values[last]

        return dict(sorted(runs.items(), key=lambda item: order(item[1])))

    def plot(self) -> Figure:
        """Draw the metric of every run over its length, a dotted line where runs were compared; needs matplotlib."""
        from lrx.tuning.figures import selection_curves

        return selection_curves(self._by_run(), self.metric, self.mode, (self.method, self.rate))


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "diverged"


def show_seconds(seconds: float) -> str:
    """Return a duration in words, with two digits at most below a minute."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s"


def _percent(probability: float) -> str:
    return "below 1 %" if probability < 0.005 else f"{100 * probability:.0f} %"
