"""The policy that begins many runs, stops most of them early, and trains few to the end: freeze-thaw."""

from __future__ import annotations

import dataclasses
import math

from lrx.tuning.selection.experience import PARTS, Configuration, Experience, Plan, shipped
from lrx.tuning.selection.policy import Ask, Choice, Observation, Observed, Run, Scores, Training

NINTH, THIRD, HALF, END = range(len(PARTS))


@dataclasses.dataclass(frozen=True)
class FreezeThaw:
    """Begin the configurations that did best on other tasks, and go on with those that are predicted to end best.

    All runs are full ones, of which parts are trained: no part is trained twice, and nothing depends on what a schedule
    would have done in a shorter run. `Experience` has the predictions, and how many runs there are of each length.

    Attributes:
      experience: what is known from other tasks; None for what lrx ships.
    """

    experience: Experience | None = None

    def decide(self, observed: Observed) -> Ask | Choice:
        """Return the next parts of runs, or the choice; see `Policy`.

        Raises:
          ValueError: if nothing that was trained can be chosen.
        """
        return _Race(observed, shipped() if self.experience is None else self.experience).decide()


class _Race:
    """The runs so far, followed stage by stage from the first one on."""

    def __init__(self, observed: Observed, experience: Experience) -> None:
        self.observed, self.experience = observed, experience
        self.plan: Plan = experience.plan(observed.budget)
        self.steps = [max(1, round(part * observed.num_steps)) for part in PARTS]
        self.scores: dict[Run, dict[int, Scores]] = {}
        for each in observed.runs:
            self.scores.setdefault(each.training.run, {}).update(each.scores)
        self.latest = observed.latest()

    def run(self, configuration: Configuration) -> Run:
        """Return the full run of a configuration."""
        observed = self.observed
        rate = configuration.rate(observed.portfolio)
        return Run(configuration.method, rate, observed.seed, observed.num_steps)

    def decide(self) -> Ask | Choice:
        """Follow the stages, and stop at the first one that needs runs that were not made."""
        plan, experience = self.plan, self.experience
        configurations = experience.known(self.observed.portfolio)
        going = configurations[: max(plan)]
        part = END
        for stage, (number, title) in enumerate(zip(_numbers(plan), TITLES, strict=True)):
            if not number:
                continue
            if stage > 0 and part < END:
                going = self._best(going, part)
            going, part = going[:number], stage
            if ask := self._ask(going, part, title):
                return ask
            if stage == THIRD and plan.neighbors:
                leader = self._best(going, part)[0]
                added = experience.neighbors(leader, going)[: plan.neighbors]
                if ask := self._ask(added, part, "the next rates of the leader"):
                    return ask
                going = [*going, *added]
        return self._choose(going, part)

    def _best(self, going: list[Configuration], part: int) -> list[Configuration]:
        """Return configurations by their predictions after a part of their runs, the best first."""
        values = {each: self._value(self._score(each, part), part) for each in going}
        predicted = self.experience.predict(values, self._initial(part), part)
        return sorted(going, key=lambda each: (predicted[each], values[each]))

    def _value(self, scores: Scores, part: int) -> float:
        """Return what runs are compared by, so that less is better: the metric of complete runs, the loss of others."""
        if part < END:
            return scores.loss
        return scores.metric if self.observed.mode == "min" else -scores.metric

    def _initial(self, part: int) -> float:
        """Return the same of the initial parameters."""
        if self.observed.initial is not None:
            return self._value(self.observed.initial, part)
        return next(iter(self.latest.values())).initial_loss

    def _score(self, configuration: Configuration, part: int) -> Scores:
        """Return the scores of a run after a part; infinitely bad if it had diverged before."""
        run = self.run(configuration)
        worst = Scores(math.inf, math.inf if self.observed.mode == "min" else -math.inf)
        return self.scores.get(run, {}).get(self.steps[part], worst)

    def _ask(self, going: list[Configuration], part: int, title: str) -> Ask | None:
        """Return the requests by which runs reach a part; None if all have, or diverged, or the budget is spent."""
        stop, left, requests = self.steps[part], self.observed.left, []
        for each in going:
            run = self.run(each)
            last = self.latest.get(run)
            start = 0 if last is None else last.training.stop
            if start >= stop or (last is not None and last.diverged):
                continue
            if left < stop - start:
                break
            left -= stop - start
            requests.append(Training(run, stop, start, stop if stop < run.length else 0, (stop,)))
        return Ask(runs=tuple(requests), title=title) if requests else None

    def _choose(self, going: list[Configuration], part: int) -> Choice:
        """Choose the run of the last stage with the best prediction that has learnt something."""
        reached = [each for each in going if self.run(each) in self.latest]
        ranked = self._best(reached, part)
        for each in ranked:
            run = self.run(each)
            if self.latest[run].learnt:
                return Choice(run.method, run.rate)
        raise ValueError(_nothing(self.observed, [self.latest[self.run(each)] for each in reached]))


def _numbers(plan: Plan) -> tuple[int, int, int, int]:
    """Return how many runs there are in each stage."""
    return plan.first, plan.second, plan.third, plan.last


TITLES = ("a ninth of the runs", "a third of the best", "more of the best", "full runs")


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
