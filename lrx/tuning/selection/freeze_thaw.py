"""The policy that begins many runs, stops most of them early, and trains few to the end: freeze-thaw."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import ClassVar

import numpy as np

from lrx.tuning.selection.certainty import BETTER
from lrx.tuning.selection.experience import NEAR, PARTS, SHOWN, Configuration, Experience, Seen, phi, shipped
from lrx.tuning.selection.policy import (
    FREE_RUN_SECONDS,
    FREE_SECONDS,
    FREE_SHARE,
    Ask,
    Certainty,
    Choice,
    Observation,
    Observed,
    Rival,
    Run,
    Scores,
    Training,
)
from lrx.tuning.selection.portfolio import PORTFOLIO

NINTH, THIRD, HALF, END = range(len(PARTS))
USED = (  # `Observed.least_budget` from which on, and the parts of a run after which it may be stopped
    (0.0, (NINTH, THIRD, END)),
    (1.5, (NINTH, THIRD, HALF)),
    (2.0, (THIRD, HALF, END)),
)
SPREAD = 1.3  # of the regrets of other kinds of tasks, in predicted deviations, so that probabilities are calibrated
DRAWS = 4000  # of the regrets
SEEDS = 3  # of a configuration, at most
AGAIN = 5.0, 3  # least budget, and complete runs, with which a complete run may be made again with another seed
COST_POWER = 0.5  # of the steps of the next part of a run, by which its expected improvement is divided
EVALUATIONS = 5  # for each full run of the budget, about, if runs are evaluated at all parts that they pass


@dataclasses.dataclass(frozen=True, repr=False)
class FreezeThaw:
    """Train part after part, each time of the run from which most improvement is expected for its cost.

    Each run has the schedule of its full length, and parts of it are trained: none of them twice, and nothing depends
    on what a schedule would have done in a shorter run. `Experience` predicts from what was seen how every
    configuration ends, with an uncertainty. With m and s the predicted mean and deviation of phi of a regret, and m*
    the least mean of all, the expected improvement is E[max(m* - X, 0)] for X normal with m and s. With 5 full runs and
    more, the next part of a complete run is the first one of the same configuration with another seed, since the best
    of many single runs is often one that was lucky.

    A run is evaluated at each part that it passes, also where it cannot be stopped. If that takes too long
    (`Observed.free_evaluation_steps`), it is evaluated only where it may be stopped; what evaluations still take beyond
    that is taken from the steps. Evaluations that take less than a second are free. A step of a method that takes as
    long as k usual ones counts k (`Observed.step_costs`). Where runs may be stopped follows from the budget divided by
    the largest k. The expected improvement is divided by the square root of the steps alone: by that of the time,
    choices on the stored tasks were worse, since the method with the longest steps is often the best.

    The certainty of the choice follows from the joint distribution of all that has begun, with 1.3 times the predicted
    deviations.

    Attributes:
      experience: what is known from other tasks; None for what lrx ships.
    """

    experience: Experience | None = None
    counts_time: ClassVar[bool] = True

    def __repr__(self) -> str:
        """Tell what decides: two policies with equal texts ask for equal runs."""
        known = shipped() if self.experience is None else self.experience
        free = FREE_SHARE, FREE_SECONDS, FREE_RUN_SECONDS
        rules = known.to_json(), SHOWN, USED, AGAIN, SEEDS, COST_POWER, EVALUATIONS, free
        return f"FreezeThaw(rules={hashlib.sha256(repr(rules).encode()).hexdigest()[:16]})"

    @staticmethod
    def can_begin(num_steps: int, budget: float) -> bool:
        """Return whether a budget pays for the first part of a run."""
        return max(1, round(PARTS[0] * num_steps)) <= budget * num_steps

    def decide(self, observed: Observed) -> Ask | Choice:
        """Return the next part of a run, or the choice; see `Policy`.

        Raises:
          ValueError: if nothing that was trained can be chosen.
        """
        experience = shipped() if self.experience is None else self.experience
        new = [name for name in observed.portfolio if name not in PORTFOLIO]
        return _Race(observed, experience.extend(new)).decide()


class _Race:
    """The runs so far, and what they predict."""

    def __init__(self, observed: Observed, experience: Experience) -> None:
        self.observed, self.experience = observed, experience
        self.steps = [max(1, round(part * observed.num_steps)) for part in PARTS]
        self.used = [parts for least, parts in USED if least <= observed.least_budget + 1e-9][-1]
        self.sparse = EVALUATIONS * observed.budget * observed.least_evaluation_steps > observed.free_evaluation_steps
        self.latest = observed.latest()
        self.runs = {each: self._runs(each) for each in experience.configurations if each.method in observed.portfolio}
        self.begun = {each: runs[0] for each, runs in self.runs.items() if runs[0] in self.latest}
        complete = sum(self.latest[run].training.stop == run.length for run in self.begun.values())
        self.again = observed.budget >= AGAIN[0] and complete >= AGAIN[1]
        self.scores: dict[Run, dict[int, Scores]] = {}
        for each in observed.runs:
            self.scores.setdefault(each.training.run, {}).update(each.scores)
        self.means, self.covariances = experience.predict(self._seen())
        self.deviations = np.sqrt(np.diag(self.covariances))
        self.places = np.array([experience.places[each] for each in self.runs])
        diverged = np.array([self._diverged(each) for each in self.runs], bool)
        self.open = self.places[~diverged]  # of what can still be chosen

    def _runs(self, configuration: Configuration) -> tuple[Run, ...]:
        """Return the full runs of a configuration, one for each seed."""
        observed = self.observed
        first = Run(configuration.method, configuration.rate(observed.portfolio), observed.seed, observed.num_steps)
        return tuple(first._replace(seed=observed.seed_of(number)) for number in range(SEEDS))

    def _diverged(self, configuration: Configuration) -> bool:
        """Return whether a run of a configuration has diverged."""
        return any(run in self.latest and self.latest[run].diverged for run in self.runs[configuration])

    def decide(self) -> Ask | Choice:
        """Return the part of a run that promises most, or the choice if the budget pays for no further part."""
        # One run there must be, if possible with usual steps.
        attempts = ((True, True),) if self.begun else ((True, True), (False, True), (False, False))
        found = (self._most_promising(evaluations, costs) for evaluations, costs in attempts)
        training = next((each for each in found if each is not None), None)
        if training is None:
            return self._choose()
        title = TITLES[max(part for part, stop in enumerate(self.steps) if stop == training.stop)]
        if training.run.seed != self.observed.seed:
            title += " with another seed"
        return Ask(runs=(training,), title=title)

    def _most_promising(self, evaluations: bool, costs: bool) -> Training | None:
        """Return the part of a run that promises most for its steps; None if the budget pays for none.

        Args:
          evaluations: whether they count.
          costs: whether a long step counts more than a usual one.
        """
        improvement = self._expected_improvement()
        best: tuple[float, Training] | None = None
        for place, configuration in zip(self.places.tolist(), self.runs, strict=True):
            training = self._next(configuration, evaluations, costs)
            if training is None:
                continue
            worth = improvement[place] / ((training.stop - training.start) / training.run.length) ** COST_POWER
            if best is None or worth > best[0]:
                best = worth, training
        return None if best is None else best[1]

    def _expected_improvement(self) -> np.ndarray:
        """Return (n,) the expected improvement of phi by each configuration."""
        least = self.means[self.open].min() if len(self.open) else 0.0
        scaled = (least - self.means) / self.deviations
        below = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in scaled.tolist()])
        return np.asarray(self.deviations * (scaled * below + np.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)))

    def _next(self, configuration: Configuration, evaluations: bool, costs: bool) -> Training | None:
        """Return the next part of a run; None if all are made, one has diverged, or it costs more than is left."""
        if self._diverged(configuration):
            return None
        for run in self.runs[configuration] if self.again else self.runs[configuration][:1]:
            start = self.latest[run].training.stop if run in self.latest else 0
            stop = next((self.steps[part] for part in self.used if self.steps[part] > start), None)
            if stop is None:
                continue
            passed = tuple(sorted({step for step in self.steps if start < step <= stop}))
            evaluate_at = (stop,) if self.sparse else passed
            needed = (stop - start) * (self.observed.step_costs.get(run.method, 1.0) if costs else 1.0)
            if evaluations:
                evaluated = len(evaluate_at) * self.observed.evaluation_steps.get(run.method, 0.0)
                needed += self.observed.charged_evaluation_steps(evaluated)
            if needed + self.observed.excess_steps > self.observed.left + 1e-6:
                return None
            return Training(run, stop, start, stop if stop < run.length else 0, evaluate_at)
        return None

    def _seen(self) -> list[Seen]:
        """Return the gaps of all runs at all parts."""
        seen: list[Seen] = []
        for part in range(len(PARTS)):
            values = [(each, self._value(run, part)) for each in self.begun for run in self.runs[each]]
            known = [(each, value) for each, value in values if value is not None]
            best = min((value for _, value in known), default=math.inf)
            span = self._initial(part) - best if known else 0.0
            seen += [Seen(each, part, phi(_gap(value, best, span))) for each, value in known]
        return seen

    def _value(self, run: Run, part: int) -> float | None:
        """Return what runs are compared by, less being better: the metric of complete runs, the loss of others.

        It is infinite if the run had diverged, and None if it was not seen there.
        """
        scores = self.scores.get(run, {}).get(self.steps[part])
        if scores is None:
            return None
        if not math.isfinite(scores.metric) or not math.isfinite(scores.loss):
            return math.inf
        return self._compared(scores, part)

    def _compared(self, scores: Scores, part: int) -> float:
        if part < END:
            return scores.loss
        return scores.metric if self.observed.mode == "min" else -scores.metric

    def _initial(self, part: int) -> float:
        """Return the same of the initial parameters."""
        if self.observed.initial is not None:
            return self._compared(self.observed.initial, part)
        return next(iter(self.latest.values())).initial_loss

    def _choose(self) -> Choice:
        """Choose the run with the least expected regret, of those that have begun and have learnt something.

        The mean of exp(X), for X normal with m and s, is exp(m + s^2 / 2).
        """
        expected = self.means + self.deviations**2 / 2
        reached = sorted(self.begun, key=lambda each: expected[self.experience.places[each]])
        for each in reached:
            run = self.begun[each]
            learnt = any(self.latest[other].learnt for other in self.runs[each] if other in self.latest)
            if learnt and not self._diverged(each):
                return Choice(run.method, run.rate, doubts=self._doubts(), certainty=self._certainty(each))
        raise ValueError(_nothing(self.observed, list(self.latest.values())))

    def _doubts(self) -> tuple[str, ...]:
        """Say that evaluations and long steps left less time for runs, if they did."""
        observed, steps = self.observed, self.observed.num_steps
        evaluated, trained = observed.evaluated_steps / steps, observed.spent / steps
        doubts = []
        if charged := observed.charged_evaluation_steps():
            doubts.append(
                f"{observed.evaluations} evaluations took as long as {evaluated:.2g} full runs, so "
                f"{charged / steps:.2g} of {observed.budget:g} full runs were not trained: a smaller "
                "held-out set would leave time for more."
            )
        if observed.excess_steps:
            tried = {each.training.run.method for each in observed.runs}
            costs = [f"{name} counts {cost:g}" for name, cost in observed.step_costs.items() if name in tried]
            doubts.append(
                f"a step of {', of '.join(costs)}, since it takes as long as so many of most methods; {trained:.2g} "
                f"full runs were trained in the time of {trained + observed.excess_steps / steps:.2g}."
            )
        return tuple(doubts)

    def _certainty(self, chosen: Configuration) -> Certainty:
        """Return how probable it is that another method is better, by draws of the regrets of all that has begun."""
        begun = list(self.begun)
        places = [self.experience.places[each] for each in begun]
        covariances = self.covariances[np.ix_(places, places)] * SPREAD**2
        values, vectors = np.linalg.eigh(covariances)
        normal = np.random.default_rng(0).standard_normal((DRAWS, len(places)))
        drawn = self.means[places] + normal * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        regrets = np.clip(np.exp(drawn) - NEAR, 0.0, 1.0)
        better = regrets < regrets[:, [begun.index(chosen)]] - BETTER
        others = [place for place, each in enumerate(begun) if each.method != chosen.method]
        rivals: dict[str, Rival] = {}
        for place in others:
            run = self.begun[begun[place]]
            found = Rival(run.method, run.rate, self.latest[run].training.stop, float(better[:, place].mean()))
            rivals[run.method] = max(found, rivals.get(run.method, found), key=lambda rival: rival.probability)
        known = sorted(rivals.values(), key=lambda rival: -rival.probability)
        return Certainty(float(better[:, others].any(axis=1).mean()), tuple(known))


TITLES = ("a ninth of a run", "a third of a run", "more of a run", "a full run")


def _gap(value: float, best: float, span: float) -> float:
    if not math.isfinite(value):
        return math.inf
    return (value - best) / span if span > 0 else float(value > best)


def _nothing(observed: Observed, runs: list[Observation]) -> str:
    """Say that nothing was learnt, and the way out."""
    if runs and all(each.diverged for each in runs):
        return (
            f"every run diverged within {observed.num_steps:,} steps: look at the data, or add a method with lower "
            "rates to the portfolio."
        )
    longest = max((each.training.stop for each in runs), default=0)
    return (
        f"nothing was learnt: after {longest:,} steps no run has a training loss below that of the initial parameters. "
        "Give a longer run, num_steps, or a portfolio of methods with other rates; or look at the gradients, which may "
        "be zero where training starts."
    )
