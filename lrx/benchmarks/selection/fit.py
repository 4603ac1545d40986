"""Fit what `select` knows from other tasks: `lrx.tuning.selection.experience`, from stored curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from lrx.benchmarks.selection.candidates import METHODS
from lrx.benchmarks.selection.curves import CHOOSING, TaskCurves
from lrx.benchmarks.selection.regret import mean_regrets
from lrx.benchmarks.selection.replay import Replay
from lrx.tuning.selection.experience import Configuration, Experience, phi
from lrx.tuning.selection.portfolio import PORTFOLIO

KNOWN = {  # methods that are fitted: those of the portfolio that are ever the best
    name: PORTFOLIO[name]
    for name in PORTFOLIO
    if name
    not in ("cocob", "dog", "momo", "hypergradient_adam", "sgd, relative_adaptation", "adamw, reduce_on_plateau")
}
STOPS = (1, 2, 3, 4)  # places among the stored stops of `PARTS`
REFERENCE = 20  # configurations with the least means: gaps are to the best of them
FEWEST = 0.5  # of the tasks that have a configuration, at least
OWN = 0.5  # weight of the variance of a configuration's own values beside the mean of all variances
TELLING = 80  # configurations with the least means, from which the correlations of the parts are taken
WIDENED = 1.15  # factor of the deviations: tasks of new kinds differ more than those of known ones
NOISE = 0.5  # part of the variance between seeds that counts as noise of a gap


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
            regrets = {configuration(*pair): regret for pair, regret in mean_regrets(task).items()}
            found.append([phi(regrets.get(each, math.inf)) for each in self.configurations])
        self.phi = np.array(found)

    def gaps(self, stop: int) -> np.ndarray:
        """Return (tasks, seeds, configurations) phi of the gap to the best of `REFERENCE` configurations at a stop."""
        means = self.weights @ self.phi
        reference = [self.configurations[place] for place in np.argsort(means)[:REFERENCE]]
        ends = stop == STOPS[-1]
        found = np.empty((len(self.tasks), len(CHOOSING), len(self.configurations)))
        for number, (task, places) in enumerate(zip(self.tasks, self.places, strict=True)):
            for place, seed in enumerate(CHOOSING):
                replay = Replay(task, seed)
                initial = replay.value(replay.initial(), ends)
                losses = {
                    each: replay.value(replay.scores(each.method, places[each], stop), ends)
                    for each in self.configurations
                    if each in places
                }
                best = min(losses[each] for each in reference if each in losses)
                span = initial - best
                gaps = {each: (loss - best) / span if span > 0 else float(loss > best) for each, loss in losses.items()}
                found[number, place] = [phi(gaps.get(each, math.inf)) for each in self.configurations]
        return found


def configuration(method: str, rate: float) -> Configuration:
    """Return the configuration of a method at a rate of its grid."""
    return Configuration(method, round(2 * math.log10(rate / METHODS[method].default)))


def _configurations(task: TaskCurves) -> dict[Configuration, float]:
    """Return the configurations of which a task has curves, with their rates."""
    return {
        configuration(name, float(rate)): float(rate) for name, curves in task.methods.items() for rate in curves.rates
    }


def fit(tasks: Sequence[TaskCurves], methods: Collection[str]) -> Experience:
    """Fit everything to the curves of tasks.

    Args:
      tasks: their curves.
      methods: names of the methods to consider.
    """
    table = Table(tasks, methods)
    regrets = np.repeat(table.phi[:, None], len(CHOOSING), axis=1)
    values = np.stack([*(table.gaps(stop) for stop in STOPS), regrets])  # (parts + 1, tasks, seeds, configurations)
    means = np.einsum("t,ptsc->pc", table.weights, values) / len(CHOOSING)
    excess = values - means[:, None, None]
    variances = np.einsum("t,ptsc->pc", table.weights, excess**2) / len(CHOOSING)
    deviations = np.sqrt(OWN * variances + (1 - OWN) * variances.mean(axis=1, keepdims=True))
    between_seeds = np.einsum("t,ptc->pc", table.weights, excess.var(axis=2, ddof=1)).mean(axis=1)
    scaled = excess / deviations[:, None, None]
    telling = np.argsort(means[-1])[:TELLING]
    between = np.einsum("t,ptsc,qtsc->pq", table.weights, scaled[..., telling], scaled[..., telling])
    profiles = np.sqrt(table.weights)[:, None] * scaled.mean(axis=2)
    norms = np.linalg.norm(profiles, axis=1, keepdims=True)
    return Experience(
        tuple(table.configurations),
        means,
        WIDENED * deviations,
        profiles / np.where(norms > 0, norms, 1.0),
        between / np.sqrt(np.outer(np.diag(between), np.diag(between))),
        NOISE * between_seeds[:-1],
    )
