"""Fit what `select` knows from other tasks: `lrx.tuning.selection.experience`, from stored curves.

The plans are chosen by replay on tasks whose kinds were left out of the rest of the fit. So what is measured on a fold
of kinds has used nothing of that fold.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from lrx.benchmarks.selection.candidates import METHODS
from lrx.benchmarks.selection.curves import CHOOSING, TaskCurves
from lrx.benchmarks.selection.regret import mean_regrets
from lrx.benchmarks.selection.replay import Replay
from lrx.benchmarks.selection.strategies import BUDGETS
from lrx.tuning.selection.experience import PARTS, Configuration, Experience, Plan, phi
from lrx.tuning.selection.freeze_thaw import FreezeThaw
from lrx.tuning.selection.portfolio import PORTFOLIO, Method

KNOWN = {  # methods that are fitted: those of the portfolio that are ever the best
    name: PORTFOLIO[name]
    for name in PORTFOLIO
    if name
    not in ("cocob", "dog", "momo", "hypergradient_adam", "sgd, relative_adaptation", "adamw, reduce_on_plateau")
}
STOPS = (1, 2, 3, 4)  # places among the stored stops of `PARTS`
ORDERED = 30  # configurations in `Experience.order`
SOFT = 0.1  # of phi: how far the second best of a set counts beside the best
FEWEST = 0.5  # of the tasks that have a configuration, at least
PLANS: Mapping[float, tuple[Plan, ...]] = {
    budget: tuple(Plan(*numbers) for numbers in plans)
    for budget, plans in {
        1.0: [
            (0, 0, 0, 0, 1),
            (0, 3, 0, 0, 0),
            (9, 0, 0, 0, 0),
            (3, 1, 1, 0, 0),
            (4, 2, 0, 0, 0),
            (5, 2, 0, 0, 0),
            (6, 1, 0, 0, 0),
        ],
        1.5: [(0, 4, 0, 0, 0), (7, 3, 0, 0, 0), (9, 2, 0, 0, 0), (6, 2, 1, 0, 0), (5, 1, 2, 0, 0), (8, 1, 1, 0, 0)],
        2.0: [
            (10, 4, 0, 0, 0),
            (9, 3, 1, 0, 0),
            (9, 1, 2, 0, 0),
            (6, 3, 2, 0, 0),
            (6, 3, 0, 0, 1),
            (8, 3, 1, 0, 0),
            (0, 4, 2, 0, 0),
        ],
        3.0: [
            (9, 3, 2, 0, 1),
            (9, 4, 3, 0, 0),
            (9, 5, 2, 0, 0),
            (9, 3, 0, 0, 2),
            (9, 4, 2, 1, 0),
            (9, 3, 2, 2, 0),
            (12, 4, 2, 0, 0),
            (12, 5, 1, 0, 0),
            (9, 4, 0, 2, 1),
            (6, 3, 2, 2, 0),
            (0, 5, 2, 2, 0),
        ],
        5.0: [
            (14, 6, 2, 3, 1),
            (14, 6, 0, 0, 3),
            (0, 9, 0, 0, 3),
            (12, 6, 2, 2, 2),
            (15, 6, 2, 0, 2),
            (18, 8, 2, 2, 0),
            (0, 9, 2, 3, 1),
        ],
        10.0: [(20, 10, 2, 6, 4), (24, 12, 2, 6, 3), (0, 15, 2, 6, 4), (24, 10, 2, 0, 5), (0, 18, 2, 4, 3)],
    }.items()
}


class Table:
    """The regrets of all configurations on some tasks, (tasks, configurations).

    Args:
      tasks: curves of the tasks.
      methods: names of the methods to consider.
    """

    def __init__(self, tasks: Sequence[TaskCurves], methods: Collection[str]) -> None:
        self.tasks = list(tasks)
        per_kind = Counter(task.kind for task in self.tasks)
        weights = np.array([1 / per_kind[task.kind] for task in self.tasks])
        self.weights = weights / weights.sum()  # each kind counts alike
        self.places = [_configurations(task) for task in self.tasks]
        counts = Counter(each for places in self.places for each in places)
        self.configurations = sorted(
            each for each, count in counts.items() if each.method in methods and count >= FEWEST * len(self.tasks)
        )
        found = []
        for task in self.tasks:
            regrets = _regrets(task)
            found.append([phi(regrets.get(each, math.inf)) for each in self.configurations])
        self.phi = np.array(found)

    def order(self, number: int = ORDERED) -> list[Configuration]:
        """Return configurations of which each adds most to those before: to a soft minimum of phi."""
        chosen: list[int] = []
        reached = np.full(len(self.tasks), np.inf)
        for _ in range(min(number, len(self.configurations))):
            both = -SOFT * np.logaddexp(-self.phi / SOFT, -reached[:, None] / SOFT)
            total = self.weights @ both
            total[chosen] = np.inf
            chosen.append(int(total.argmin()))
            reached = both[:, chosen[-1]]
        return [self.configurations[each] for each in chosen]

    def gaps(self, order: Sequence[Configuration], stop: int) -> np.ndarray:
        """Return (tasks x seeds, configurations) phi of the gap to the best of the first of an order, at a stop."""
        rows = []
        ends = stop == STOPS[-1]
        for task, places in zip(self.tasks, self.places, strict=True):
            for seed in CHOOSING:
                replay = Replay(task, seed)
                initial = replay.value(replay.initial(), ends)
                losses = {
                    each: replay.value(replay.scores(each.method, places[each], stop), ends)
                    for each in self.configurations
                    if each in places
                }
                best = min(losses[each] for each in order if each in losses)
                span = initial - best
                gaps = {each: (loss - best) / span if span > 0 else math.inf for each, loss in losses.items()}
                rows.append([phi(gaps.get(each, math.inf)) for each in self.configurations])
        return np.array(rows)


def configuration(method: str, rate: float) -> Configuration:
    """Return the configuration of a method at a rate of its grid."""
    return Configuration(method, round(2 * math.log10(rate / METHODS[method].default)))


def _configurations(task: TaskCurves) -> dict[Configuration, float]:
    """Return the configurations of which a task has curves, with their rates."""
    return {
        configuration(name, float(rate)): float(rate) for name, curves in task.methods.items() for rate in curves.rates
    }


def _regrets(task: TaskCurves) -> dict[Configuration, float]:
    return {configuration(*pair): regret for pair, regret in mean_regrets(task).items()}


def fit_without_plans(tasks: Sequence[TaskCurves], methods: Collection[str], plans: Mapping[float, Plan]) -> Experience:
    """Fit everything to the curves of tasks but the plans, which are given."""
    table = Table(tasks, methods)
    order = table.order()
    means = table.weights @ table.phi
    excess = np.repeat(table.phi - means, len(CHOOSING), axis=0)
    weights = np.repeat(table.weights, len(CHOOSING)) / len(CHOOSING)
    usual, slopes = [], []
    for stop in STOPS:
        gaps = table.gaps(order[:9], stop)
        usual.append(weights @ gaps)
        shift = gaps - usual[-1]
        slopes.append(float((weights[:, None] * shift * excess).sum() / (weights[:, None] * shift**2).sum()))
    rows = np.array(usual).T
    return Experience(
        tuple(order),
        dict(zip(table.configurations, means.tolist(), strict=True)),
        {each: tuple(row) for each, row in zip(table.configurations, rows.tolist(), strict=True)},
        tuple(slopes),
        tuple(sorted(plans.items())),
    )


def choose_plans(
    tasks: Sequence[TaskCurves], folds: Iterable[Sequence[str]], portfolio: Mapping[str, Method]
) -> dict[float, Plan]:
    """Choose the plan of each budget by replay, fold by fold, with what was fitted to the other folds."""
    totals: dict[tuple[float, Plan], list[float]] = {}
    for fold in folds:
        left_out = [task for task in tasks if task.kind in fold]
        others = [task for task in tasks if task.kind not in fold]
        if not left_out or not others:
            continue
        fitted = fit_without_plans(others, portfolio, {})
        regrets = {task.name: _regrets(task) for task in left_out}
        replays = [Replay(task, seed) for task, seed in itertools.product(left_out, CHOOSING)]
        for budget, plans in PLANS.items():
            for plan, replay in itertools.product(plans, replays):
                policy = FreezeThaw(_with_plan(fitted, plan))
                try:
                    choice, _ = replay.choose(policy, budget, portfolio)
                except ValueError:  # nothing was learnt
                    regret = math.inf
                else:
                    rate = replay.rate(choice.method, choice.rate)
                    regret = regrets[replay.curves.name][configuration(choice.method, rate)]
                totals.setdefault((budget, plan), []).append(phi(regret))
    return {
        budget: min(plans, key=lambda plan: float(np.mean(totals[budget, plan]))) for budget, plans in PLANS.items()
    }


def _with_plan(experience: Experience, plan: Plan) -> Experience:
    return Experience(experience.order, experience.means, experience.usual, experience.slopes, ((0.0, plan),))


def fit(tasks: Sequence[TaskCurves], folds: Sequence[Sequence[str]], portfolio: Mapping[str, Method]) -> Experience:
    """Fit everything to the curves of tasks.

    Args:
      tasks: their curves.
      folds: kinds that are left out together where the plans are chosen.
      portfolio: the methods that plans are replayed with.
    """
    plans = choose_plans(tasks, folds, portfolio)
    assert set(plans) == set(BUDGETS)
    return fit_without_plans(tasks, portfolio, plans)


def cost(plan: Plan) -> float:
    """Return what a plan costs, in full runs, if no run diverges."""
    begun, third, half = PARTS[0], PARTS[1], PARTS[2]
    total, reached = plan.first * begun, begun if plan.first else 0.0
    if plan.second:
        total, reached = total + plan.second * (third - reached), third
    total += plan.neighbors * third
    if plan.third:
        total, reached = total + plan.third * (half - reached), half
    return total + plan.last * (1 - reached)
