"""A replay: strategies look up what a run would have given in stored curves, instead of training it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from lrx.benchmarks.selection.curves import CHOOSING, TaskCurves, bin_edges
from lrx.tuning.execution import NUM_POINTS
from lrx.tuning.selection.policy import Answer, Ask, Choice, Observation, Observed, Policy, Run, Scores, Training
from lrx.tuning.selection.portfolio import Method

NO_COSTS: Mapping[str, float] = MappingProxyType({})


class Replay:
    """The runs of one task with one seed, looked up.

    What a policy asks for with the next seeds, those of the other choosing seeds stand for, in their order.

    Args:
      curves: of the task.
      seed: one of the choosing seeds.
    """

    def __init__(self, curves: TaskCurves, seed: int) -> None:
        self.curves, self.seed = curves, CHOOSING.index(seed)
        self.sign = 1 if curves.mode == "min" else -1
        self.parts = [stop / curves.num_steps for stop in curves.stops]
        self._seen: dict[Training, Observation] = {}

    def rate(self, method: str, rate: float) -> float:
        """Return the rate of the method's grid that is nearest in the logarithm."""
        curves = self.curves.methods[method]
        return float(curves.rates[curves.place(rate)])

    def scores(self, method: str, rate: float, place: int) -> Scores:
        """Return the evaluation of a run at one of the stops; infinitely bad if it had diverged."""
        curves = self.curves.methods[method]
        values = {name: float(each[curves.place(rate), self.seed, place]) for name, each in curves.evaluations.items()}
        metric = values[self.curves.metric]
        if not math.isfinite(metric):
            return Scores(math.inf, self.curves.worst)
        loss = values.get("loss", self.sign * metric)
        return Scores(loss if math.isfinite(loss) else math.inf, metric)

    def initial(self) -> Scores:
        """Return the evaluation of the initial parameters."""
        values = {name: float(each[self.seed]) for name, each in self.curves.initial.items()}
        metric = values[self.curves.metric]
        return Scores(values.get("loss", self.sign * metric), metric)

    def value(self, scores: Scores, ends: bool) -> float:
        """Return what runs are compared by, so that less is better: the metric of complete runs, the loss of others."""
        return self.sign * scores.metric if ends else scores.loss

    def choose(
        self,
        policy: Policy,
        budget: float,
        portfolio: Mapping[str, Method],
        evaluation: float = 0.0,
        step_costs: Mapping[str, float] = NO_COSTS,
    ) -> tuple[Choice, float]:
        """Let a policy choose; return its choice and what it spent, in full runs of usual steps.

        Args:
          policy: asks for runs, and chooses.
          budget: of steps, in full runs.
          portfolio: the methods that it may ask for.
          evaluation: the full runs that take as long as an evaluation.
          step_costs: method to how many usual steps take as long as one of its own; 1 for a method that is missing.

        Raises:
          ValueError: if it asks for what is not stored: a range test, a run whose schedule ends early, or an evaluation
            between the stops.
        """
        curves = self.curves
        observed = Observed(
            curves.num_steps,
            float(budget),
            portfolio,
            curves.metric,
            curves.mode,
            CHOOSING[self.seed],
            self.initial(),
            evaluation_steps=dict.fromkeys(portfolio, evaluation * curves.num_steps) if evaluation else {},
            step_costs=step_costs,
        )
        while isinstance(decision := policy.decide(observed), Ask):
            observed = observed.extend(decision, self.answer(decision))
        return decision, (observed.spent + observed.excess_steps) / curves.num_steps

    def answer(self, ask: Ask) -> Answer:
        """Look up what was asked for."""
        if ask.range_tests:
            raise ValueError("range tests are not stored: replay a policy that asks for runs only.")
        return Answer((), tuple(self._look_up(training) for training in ask.runs))

    def _look_up(self, training: Training) -> Observation:
        if training not in self._seen:
            self._seen[training] = self._observe(training)
        return self._seen[training]

    def _observe(self, training: Training) -> Observation:
        run, steps = training.run, self.curves.num_steps
        if run.seed != CHOOSING[self.seed]:
            number = (self.seed + run.seed - CHOOSING[self.seed]) % len(CHOOSING)
            other = Replay(self.curves, CHOOSING[number])
            same = training._replace(run=run._replace(seed=CHOOSING[number]))
            return dataclasses.replace(other._observe(same), training=training)
        if run.length != steps:
            raise ValueError(f"only runs of {steps} steps are stored, got length={run.length}.")
        place = self._place(training.stop)
        curves = self.curves.methods[run.method]
        row = curves.losses[curves.place(run.rate), self.seed]
        scores = {stop: self.scores(run.method, run.rate, self._place(stop)) for stop in training.evaluate_at}
        diverged = not math.isfinite(self.scores(run.method, run.rate, place).metric)
        edges = bin_edges(steps, self.curves.grain)
        begun = edges[:-1] < training.stop
        width = -(-steps // min(NUM_POINTS, steps))
        fine = np.searchsorted(edges, np.arange(0, steps, width) + width // 2, side="right") - 1
        fine = np.minimum(fine, len(row) - 1)
        losses = np.where(begun[fine], row[fine], np.nan).astype(np.float32)
        initial = self.initial().loss
        final = initial - 1 - abs(initial) if self._has_learnt(run, place, row) else initial
        return Observation(training, losses, width, scores, math.inf if diverged else final, initial, diverged)

    def _has_learnt(self, run: Run, place: int, row: np.ndarray) -> bool:
        """Return whether a run is better than the initial parameters in anything that is stored.

        The loss of the initial parameters on the minibatches of the run is not.
        """
        scores, initial = self.scores(run.method, run.rate, place), self.initial()
        known = row[np.isfinite(row)]
        falls = len(known) > 1 and known[-1] < known[0]
        return scores.loss < initial.loss or self.sign * (scores.metric - initial.metric) < 0 or bool(falls)

    def _place(self, stop: int) -> int:
        """Return the place of the stop that is within a grain of a step."""
        stops = np.array(self.curves.stops)
        place = int(np.argmin(np.abs(stops - stop)))
        if abs(int(stops[place]) - stop) > self.curves.grain:
            raise ValueError(f"evaluations are stored after {stops.tolist()} steps, got {stop}.")
        return place


@dataclasses.dataclass(frozen=True)
class Pick:
    """What a strategy chose with one budget."""

    method: str
    rate: float  # of the grid
    cost: float  # in full runs
    doubt: float | None = None  # probability, as the strategy says, that one of `rivals` is better by 1 %
    rivals: tuple[tuple[str, float], ...] = ()  # method and rate of runs of other methods


def best_of(replay: Replay, pairs: Sequence[tuple[str, float]], place: int = -1) -> tuple[str, float]:
    """Return the pair whose run was the best at a stop, by the metric; ties are broken by the loss."""

    def order(pair: tuple[str, float]) -> tuple[float, float]:
        scores = replay.scores(*pair, place)
        return replay.sign * scores.metric, scores.loss

    return min(pairs, key=order)
