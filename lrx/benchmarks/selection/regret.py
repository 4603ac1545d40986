"""Regret: how much of what the oracle's choice learns a choice does not learn, on seeds that chose neither."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lrx.benchmarks.selection.curves import TaskCurves

NEAR = 0.01  # regret that counts as reaching the oracle
FAR = 0.01  # regret by the choosing seeds, above which a choice is not trained again
CANDIDATES = 5  # pairs of method and rate, the best by the choosing seeds, of which the oracle is one


class Judgement(NamedTuple):
    """A choice, measured on the held-out seeds."""

    regret: float  # 0 for the oracle's value, 1 for that of the initial parameters; infinite if a run diverged
    error: float  # standard error of the regret, from the differences of the seeds
    near: bool  # within `NEAR`, or within one standard error, of the oracle


def judge(values: np.ndarray, oracle: np.ndarray, initial: float) -> Judgement:
    """Compare a choice with the oracle: (value - oracle) / (initial - oracle).

    The formula serves losses and rewards, since its sign is that of the learning: it is defined near a loss of 0, and
    for metrics that are negative.

    Args:
      values: (seeds,) metric of the choice at the end of runs; infinite where one diverged.
      oracle: (seeds,) metric of the oracle, with the same seeds.
      initial: mean metric of the initial parameters.

    Raises:
      ValueError: if the oracle is as good as the initial parameters: there is nothing to learn.
    """
    span = initial - float(np.mean(oracle))
    if span == 0 or not math.isfinite(span):
        raise ValueError(f"the oracle's mean must differ from the initial value, got {initial:g} for both.")
    if not np.isfinite(values).all():
        return Judgement(math.inf, math.nan, False)
    differences = (np.asarray(values, np.float64) - np.asarray(oracle, np.float64)) / span
    regret = float(differences.mean())
    error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    return Judgement(regret, error, regret <= max(NEAR, error))


def best_pairs(curves: TaskCurves, number: int = CANDIDATES) -> list[tuple[str, float]]:
    """Return the best pairs of method and rate by the mean of the choosing seeds, the best first."""
    sign = 1 if curves.mode == "min" else -1
    ranked = [
        (sign * value, name, float(rate))
        for name, method in curves.methods.items()
        for rate, value in zip(method.rates, curves.chosen_by(name).mean(axis=1), strict=True)
    ]
    return [(name, rate) for _, name, rate in sorted(ranked)[:number]]


def oracle_values(chosen: np.ndarray, judged: np.ndarray, mode: str) -> np.ndarray:
    """Return (held-out seeds,) the metric of the oracle, chosen for each seed without that seed.

    For each held-out seed the oracle is the candidate with the best mean over the choosing seeds and all other held-out
    seeds.

    Args:
      chosen: (candidates, choosing seeds) metric.
      judged: (candidates, held-out seeds) metric.
      mode: "min" or "max".
    """
    sign = 1 if mode == "min" else -1
    found = []
    for seed in range(judged.shape[1]):
        others = np.concatenate([chosen, np.delete(judged, seed, axis=1)], axis=1)
        found.append(judged[int(np.argmin(sign * others.mean(axis=1))), seed])
    return np.array(found)


def mean_regrets(curves: TaskCurves) -> dict[tuple[str, float], float]:
    """Return the regret of every method at every rate, by the mean of all seeds with which it was trained.

    It is that to the least mean, so it is never negative. It serves where not every pair was judged.
    """
    sign = 1 if curves.mode == "min" else -1
    means = {}
    for name, runs in curves.methods.items():
        for place, rate in enumerate(runs.rates.astype(float)):
            values = curves.chosen_by(name)[place]
            if runs.judged[place]:
                values = np.concatenate([values, curves.judged(name, rate)])
            means[name, float(rate)] = sign * float(np.mean(values))
    best = min(means.values())
    span = sign * float(np.mean(curves.initial[curves.metric], dtype=np.float64)) - best
    return {pair: (mean - best) / span for pair, mean in means.items()}


def is_far(curves: TaskCurves, method: str, rate: float) -> bool:
    """Return whether the choosing seeds show a pair to be more than `FAR` worse than the best."""
    sign = 1 if curves.mode == "min" else -1
    best = min(float((sign * curves.chosen_by(name)).mean(axis=1).min()) for name in curves.methods)
    span = sign * float(np.mean(curves.initial[curves.metric], dtype=np.float64)) - best
    values = curves.chosen_by(method)[curves.methods[method].place(rate)]
    return bool((sign * float(values.mean()) - best) / span > FAR)


class Judge:
    """The oracle of one task, and the regret of any choice.

    Args:
      curves: of the task; the oracle's candidates must have been trained with the held-out seeds.
    """

    def __init__(self, curves: TaskCurves) -> None:
        self.curves = curves
        self.candidates = best_pairs(curves)
        chosen = np.stack([curves.chosen_by(name)[curves.methods[name].place(rate)] for name, rate in self.candidates])
        held_out = np.stack([curves.judged(name, rate) for name, rate in self.candidates])
        self.oracle = oracle_values(chosen, held_out, curves.mode)
        sign = 1 if curves.mode == "min" else -1
        both = np.concatenate([chosen, held_out], axis=1).mean(axis=1)
        self.best = self.candidates[int(np.argmin(sign * both))]  # to name one
        self.initial = float(np.mean(curves.initial[curves.metric], dtype=np.float64))

    def __call__(self, method: str, rate: float) -> Judgement:
        """Return the regret of a choice; its rate is that of the grid which is nearest.

        If the choosing seeds show it to be far from the best, and it was not trained with the others, they judge it.
        """
        if not self.curves.is_judged(method, rate) and is_far(self.curves, method, rate):
            values = self.curves.chosen_by(method)[self.curves.methods[method].place(rate)]
            regret = (float(values.mean()) - float(self.oracle.mean())) / (self.initial - float(self.oracle.mean()))
            return Judgement(regret if math.isfinite(regret) else math.inf, math.nan, False)
        return judge(self.curves.judged(method, rate), self.oracle, self.initial)
