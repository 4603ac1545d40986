"""What decides in `select`: a policy, which asks for runs, sees what they gave, and chooses.

A policy is data and rules. It trains nothing and remembers nothing: the same observations always give the same
decision. So one policy serves the live selection, which trains what is asked for, a selection that is resumed, and a
replay, which looks it up in stored curves.

A loop around a policy is short:

    observed = Observed(num_steps, budget, portfolio, seed=seed)
    while not isinstance(decision := policy.decide(observed), Choice):
        observed = observed.extend(decision, answer(decision))

A request names a run by method, rate, seed and *length*, the step at which its schedule ends. A policy that trains runs
of full length in parts (freeze-thaw) asks for the next part of the same run. A policy whose runs end at each rung asks
for runs of increasing length, and continues each from the part that does not depend on the length
(`Method.reusable_fraction`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from lrx.tuning.initial_loss import is_below
from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.portfolio import MIN_RATE, Method

NUM_SEEDS = 2**31  # seeds are below it
FREE_SECONDS = 1.0  # of an evaluation; one that takes less is free
FREE_RUN_SECONDS = 1.0  # of a full run; where it takes less, the steps of all methods count alike
FREE_SHARE = 0.15  # of the budget, for evaluations beside the steps; with compilation, a selection takes 1.3 of it


class Run(NamedTuple):
    """A run; equal ones have equal numbers."""

    method: str
    rate: float  # a float32 value
    seed: int
    length: int  # steps; its schedule ends there


class Training(NamedTuple):
    """A request: train a run up to a step.

    It costs `stop - start` steps. At `start` it continues from a state that an earlier request for the same method,
    rate and seed has kept there; if that request was for another length, both runs must agree up to `start`.
    """

    run: Run
    stop: int  # at most `run.length`
    start: int = 0
    keep: int = 0  # the step, from `start` to `stop`, whose state is kept in place of an earlier one; 0 for none
    evaluate_at: tuple[int, ...] = ()  # steps after `start`, up to `stop`, in increasing order


class RangeProbe(NamedTuple):
    """A request: test the rates of a method's optimizer, `Method.range_test_of`."""

    method: str
    seed: int
    num_steps: int
    min_rate: float = MIN_RATE
    max_rate: float = 10.0
    extend: bool = False  # whether the ladder may continue if no rate makes a difference, for as many steps again


class Ask(NamedTuple):
    """A decision: these requests are to be answered, in any order."""

    range_tests: tuple[RangeProbe, ...] = ()
    runs: tuple[Training, ...] = ()
    title: str = ""  # of this round, for the progress


class Rival(NamedTuple):
    """A run of another method."""

    method: str
    rate: float
    length: int  # its longest
    probability: float  # that its method is better by 1 % after a full run


class Certainty(NamedTuple):
    """How sure a choice is."""

    probability: float  # that some other method of the table is better by 1 %; NaN if the runs do not show it
    rivals: tuple[Rival, ...]  # the best run of each other method, the most probable first
    drift: float = math.nan  # s of `lrx.tuning.selection.certainty`, where that was used


class Choice(NamedTuple):
    """A decision: this is the answer."""

    method: str
    rate: float
    reasons: tuple[str, ...] = ()  # sentences
    doubts: tuple[str, ...] = ()  # sentences: what is not known
    next_run: Training | None = None  # the full run that would tell most
    certainty: Certainty | None = None  # how sure it is; None to read it from the table


class Scores(NamedTuple):
    """Results of an evaluation. A run that diverged has an infinite loss and the worst metric."""

    loss: float  # the "loss" of the evaluation; if it has none, the metric, negated if more is better
    metric: float  # what is compared by; if nothing is evaluated, the training loss of the last tenth of the steps


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """What a run showed up to the last step of a request.

    Attributes:
      training: the request.
      losses: (bins,) float32, means of the training loss over `bin_steps` steps each, from the first step of the run on
        (also of steps that were made for an earlier request); NaN where no step was made.
      bin_steps: steps of a bin; the same for all runs of a selection.
      scores: step to the results of the evaluation there, for each of `training.evaluate_at`.
      final_loss: mean training loss of the last tenth of the steps made, infinite if the run diverged.
      initial_loss: mean training loss of the initial parameters on the same minibatches.
      diverged: whether a loss was not finite.
      seconds: of the steps alone; NaN if they were not measured.
      noise: two standard errors of `initial_loss - final_loss`, from the differences of the steps that they average; 0
        if these are fewer than three, or not known.
    """

    training: Training
    losses: np.ndarray
    bin_steps: int
    scores: Mapping[int, Scores]
    final_loss: float
    initial_loss: float
    diverged: bool
    seconds: float = math.nan
    noise: float = 0.0

    @property
    def last(self) -> Scores:
        """The results of the last evaluation; NaN if there was none."""
        return self.scores[max(self.scores)] if self.scores else Scores(math.nan, math.nan)

    @property
    def learnt(self) -> bool:
        """Whether the training loss is below that of the initial parameters on the same minibatches beyond noise."""
        below = bool(is_below(self.initial_loss, self.final_loss))
        return below and not self.initial_loss - self.final_loss <= self.noise


class Answer(NamedTuple):
    """The answers to the requests of one `Ask`, in their order."""

    range_tests: tuple[RangeTest, ...] = ()
    runs: tuple[Observation, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """All that a policy knows.

    Attributes:
      num_steps: length of a full run.
      budget: upper bound of the steps of all requests, in full runs; a policy may ask for fewer, since evaluations and
        long steps take time.
      portfolio: name to method.
      metric: name of what is compared by.
      mode: "min" or "max", which metric is better.
      seed: seed of the selection; a policy may use others beside it.
      initial: the results of an evaluation of the initial parameters; None if nothing is evaluated.
      range_tests: the range tests asked for so far, each with its result.
      rounds: the observations of each earlier `Ask` that had runs.
      evaluation_steps: method to how many steps take as long as an evaluation of its runs, as measured before the first
        request; a method is missing if that takes less than `FREE_SECONDS`.
      step_costs: method to how many usual steps take as long as one of its own, likewise; a method is missing if that
        is about one, and all are if a full run takes less than `FREE_RUN_SECONDS`.
    """

    num_steps: int
    budget: float
    portfolio: Mapping[str, Method]
    metric: str = "loss"
    mode: str = "min"
    seed: int = 0
    initial: Scores | None = None
    range_tests: tuple[tuple[RangeProbe, RangeTest], ...] = ()
    rounds: tuple[tuple[Observation, ...], ...] = ()
    evaluation_steps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    step_costs: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def allowed(self) -> int:
        """Upper bound of the steps of all requests."""
        return math.floor(self.budget * self.num_steps + 1e-6)

    @property
    def runs(self) -> list[Observation]:
        """The observations of all rounds, in order."""
        return [each for round_ in self.rounds for each in round_]

    @property
    def spent(self) -> int:
        """Steps of all requests so far."""
        trained = sum(each.training.stop - each.training.start for each in self.runs)
        return trained + sum(len(test.rates) for _, test in self.range_tests)

    @property
    def left(self) -> int:
        """Steps that may still be asked for."""
        return self.allowed - self.spent

    @property
    def evaluations(self) -> int:
        """Number of evaluations so far. That of the initial parameters is repeated where it takes long.

        A run that has diverged is not evaluated.
        """
        return sum(_evaluated(each) for each in self.runs) + self._initial_evaluations

    @property
    def evaluated_steps(self) -> float:
        """The steps that take as long as all evaluations so far."""
        costs = [self.evaluation_steps.get(each.training.run.method, 0.0) * _evaluated(each) for each in self.runs]
        return sum(costs) + self.least_evaluation_steps * self._initial_evaluations

    @property
    def least_evaluation_steps(self) -> float:
        """The steps that take as long as an evaluation with the method where that takes least."""
        return min((self.evaluation_steps.get(method, 0.0) for method in self.portfolio), default=0.0)

    @property
    def free_evaluation_steps(self) -> float:
        """The steps that take as long as what evaluations may take beside the steps of the budget.

        A full run ends with an evaluation, so that is one for each full run, and `FREE_SHARE` of the whole.
        """
        each = self.least_evaluation_steps
        return self.budget * (each + FREE_SHARE * (self.num_steps + each))

    @property
    def excess_steps(self) -> float:
        """The usual steps by which the steps of all requests so far have taken longer than as many usual ones."""
        made = [(each.training.run.method, each.training.stop - each.training.start) for each in self.runs]
        return sum((self.step_costs.get(method, 1.0) - 1.0) * steps for method, steps in made)

    @property
    def least_budget(self) -> float:
        """The budget in full runs of the method whose steps take longest."""
        return self.budget / max(self.step_costs.values(), default=1.0)

    def charged_evaluation_steps(self, more: float = 0.0) -> float:
        """Return the steps that evaluations take from `left` in a policy that counts them.

        Args:
          more: the steps that take as long as evaluations to come.
        """
        return max(0.0, self.evaluated_steps + more - self.free_evaluation_steps)

    @property
    def _initial_evaluations(self) -> int:
        return 0 if self.initial is None else 1 + (self.least_evaluation_steps > 0)

    def seed_of(self, number: int) -> int:
        """Return the seed of a method's run number 0, 1, ... at one rate: from the selection's own on, then from 0."""
        return (self.seed + number) % NUM_SEEDS

    def latest(self) -> dict[Run, Observation]:
        """Return each run with its last observation, in the order in which they were first asked for."""
        return {each.training.run: each for each in self.runs}

    def extend(self, ask: Ask, answer: Answer) -> Observed:
        """Return what is known after an answer."""
        tests = tuple(zip(ask.range_tests, answer.range_tests, strict=True))
        rounds = (answer.runs,) if answer.runs else ()
        return dataclasses.replace(self, range_tests=self.range_tests + tests, rounds=self.rounds + rounds)


def _evaluated(run: Observation) -> int:
    return sum(math.isfinite(found.loss) for found in run.scores.values())


class Policy(Protocol):
    """The rules by which `select` spends its budget; a frozen dataclass, so that a checkpoint can tell two apart.

    A policy with an attribute `counts_time` that is true sees `Observed.evaluation_steps` and `Observed.step_costs`;
    for others the time is saved that it takes to measure them.
    """

    def decide(self, observed: Observed) -> Ask | Choice:
        """Return what to train next, or the choice.

        Raises:
          ValueError: if the budget is too small, or nothing that was trained can be chosen.
        """
        ...
