"""How sure a choice is: what the runs of a selection say about those that were not made to the end.

A policy that predicts how runs end says it itself (`FreezeThaw`). For others it is read from the table. Runs of one
seed are compared at several lengths, and their order changes in between. How much it changes is measured on the table
itself. With v the metric of a run, v_0 that of the initial parameters and v_c(L) that of the chosen run, or, where that
was not made, of the best run of length L, let the gap of a run be

    g(L) = min(1, (v - v_c(L)) / |v_0 - v_c(L)|),    v - v_c(L) reversed in sign if more is better.

Runs that were made with two lengths, L and L', show the drift s^2 = mean of (g(L') - g(L))^2 / ln(L' / L). The gap
after a full run of N steps is then taken as normal, with the mean g(L) and the variance s^2 (ln(N / L) + 1): the 1 is
for another seed, whose effect is taken to be that of a run of e times the length. A method is better by 1 % if that gap
is below -0.01.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from lrx.tuning.selection.policy import Certainty, Observed, Rival, Run, Training

BETTER = 0.01  # of the gap between the initial metric and the chosen run's

_Runs = Mapping[tuple[str, float], Mapping[int, float]]  # (method, rate) to length to metric


def assess(observed: Observed, method: str, rate: float) -> Certainty:
    """Return how sure it is that no other method of the table is better by 1 %.

    Args:
      observed: all runs. Runs whose schedules end early and parts of longer runs count alike, by their lengths.
      method: the chosen method.
      rate: its rate.
    """
    runs = _metrics(observed)
    sign = 1.0 if observed.mode == "min" else -1.0
    gaps = _gaps(observed, runs, (method, rate), sign)
    drift = _drift(gaps)
    rivals: dict[str, Rival] = {}
    for (name, at), by_length in gaps.items():
        if name == method or not by_length:
            continue
        length = max(by_length)
        if not math.isfinite(by_length[length]):
            probability = 0.0
        else:
            deviation = drift * math.sqrt(math.log(max(observed.num_steps / length, 1.0)) + 1.0)
            probability = _below(-BETTER - by_length[length], deviation)
        if name not in rivals or probability > rivals[name].probability:
            rivals[name] = Rival(name, at, length, probability)
    known = sorted(rivals.values(), key=lambda rival: -rival.probability)
    if math.isnan(drift):
        return Certainty(0.0 if not known else math.nan, tuple(known), drift)
    return Certainty(1.0 - math.prod(1.0 - rival.probability for rival in known), tuple(known), drift)


def next_run(observed: Observed, certainty: Certainty, method: str, rate: float) -> Training:
    """Return the full run that would tell most about the choice.

    That is the most probable rival. If no rival is probable, or it was made to the end, it is the choice itself; with
    the next seed, which shows how much the seed matters, if it was made to the end too.
    """
    steps = observed.num_steps
    whole = {each.training.run[:3] for each in observed.runs if each.training.stop == steps}
    rival = certainty.rivals[0] if certainty.rivals else None
    if rival is not None and rival.probability > BETTER and (rival.method, rival.rate, observed.seed) not in whole:
        run = Run(rival.method, rival.rate, observed.seed, steps)
    else:
        seeds = (observed.seed_of(number) for number in itertools.count())
        run = Run(method, rate, next(seed for seed in seeds if (method, rate, seed) not in whole), steps)
    return Training(run, steps, evaluate_at=(steps,))


def _metrics(observed: Observed) -> _Runs:
    runs: dict[tuple[str, float], dict[int, float]] = {}
    for each in observed.runs:
        run = each.training.run
        if run.seed == observed.seed:
            found = runs.setdefault((run.method, run.rate), {})
            found |= {step: scores.metric for step, scores in each.scores.items()}
    return runs


def _gaps(observed: Observed, runs: _Runs, chosen: tuple[str, float], sign: float) -> _Runs:
    """Return the gap of each run at each of its lengths; infinite if it diverged."""
    first = observed.initial.metric if observed.initial is not None else _initial_loss(observed)
    lengths = {length for by_length in runs.values() for length in by_length}
    references = {}
    for length in lengths:
        at_length = [found[length] for found in runs.values() if math.isfinite(found.get(length, math.nan))]
        if at_length:
            own = runs.get(chosen, {}).get(length, math.nan)
            references[length] = own if math.isfinite(own) else sign * min(sign * value for value in at_length)
    gaps: dict[tuple[str, float], dict[int, float]] = {}
    for run, found in runs.items():
        gaps[run] = {}
        for length, value in found.items():
            if length in references and (span := abs(first - references[length])) > 0:
                gap = sign * (value - references[length]) / span
                gaps[run][length] = min(gap, 1.0) if math.isfinite(gap) else math.inf
    return gaps


def _initial_loss(observed: Observed) -> float:
    known = [each.initial_loss for each in observed.runs if math.isfinite(each.initial_loss)]
    return float(np.mean(known)) if known else math.nan


def _drift(gaps: _Runs) -> float:
    """Return s, NaN if no run but the chosen one was made with two lengths."""
    squares = []
    for found in gaps.values():
        lengths = sorted(length for length, gap in found.items() if math.isfinite(gap))
        for short, long in itertools.pairwise(lengths):
            # The reference has gaps of 0, and what has learnt nothing gaps of 1.
            if (found[short] or found[long]) and min(found[short], found[long]) < 1:
                squares.append((found[long] - found[short]) ** 2 / math.log(long / short))
    return math.sqrt(float(np.mean(squares))) if squares else math.nan


def _below(limit: float, deviation: float) -> float:
    """Return the probability that a normal number with mean 0 is below a limit."""
    if math.isnan(deviation):
        return math.nan
    if deviation == 0:
        return float(limit > 0)
    return 0.5 * math.erfc(-limit / (deviation * math.sqrt(2)))
