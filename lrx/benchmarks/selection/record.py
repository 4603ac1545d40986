"""Record the curves of one task: train what is missing, and keep it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from lrx.benchmarks.selection.candidates import FAMILIES, METHODS, Family
from lrx.benchmarks.selection.curves import CHOOSING, HELD_OUT, MethodCurves, TaskCurves, coarsen, stops_of
from lrx.benchmarks.selection.lanes import FINEST, Evaluator, Lanes
from lrx.optimizers import adamw
from lrx.training.identity import run_identity
from lrx.training.workload import Workload
from lrx.tuning.range_test import range_test
from lrx.tuning.selection.portfolio import momentum_sgd
from lrx.workloads.suite import Task

WIDTH = 15  # runs at a time: 5 rates x 3 seeds
RANGE_TESTED: dict[str, Callable[[Any], optax.GradientTransformation]] = {"sgd": momentum_sgd, "adamw": adamw}
PROMISING, DEAR = 0.04, 0.05  # regret up to which pairs are judged at once; CPU-seconds of a run with fewer
STRIDE = 4  # half decades by which a grid is extended where the best rate is at its edge
EXTENSIONS = 3  # of a grid, at most


def fingerprint(workload: Workload, num_steps: int) -> str:
    """Return a digest of everything that determines the runs of a task, except for the methods and the versions."""
    known = run_identity(workload, optax.identity(), steps=num_steps)
    known.pop("versions")
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Recorder:
    """The curves of one task, and the programs that record them.

    Args:
      name: of the task.
      task: the task.
      path: file of the curves; what it holds of the same task is kept.
      data_dir: folder of the data files.
      report: called with a line for each family that is recorded.
    """

    def __init__(
        self, name: str, task: Task, path: Path, data_dir: Path | None = None, report: Callable[[str], None] = print
    ) -> None:
        self.name, self.task, self.path, self.report = name, task, path, report
        self.workload = task.make(data_dir)
        grain = -(-task.steps // min(FINEST, task.steps))
        digest = fingerprint(self.workload, task.steps)
        kept = TaskCurves.load(path) if path.exists() else None
        if kept is not None and kept.fingerprint != digest:
            report(f"{name}: the task has changed, its curves are recorded again")
            kept = None
        self.curves = kept or TaskCurves(name, task.steps, grain, task.metric, task.mode, task.kind, digest, {})
        self._lanes: dict[int, Lanes] = {}
        self._evaluator = Evaluator(self.workload)
        self._together: bool | None = None

    def _lanes_of(self, family: Family) -> Lanes:
        if id(family) not in self._lanes:
            lanes = Lanes(self.workload, family, self.task.steps, WIDTH, self._together, self._evaluator)
            self._lanes[id(family)], self._together = lanes, lanes.together
        return self._lanes[id(family)]

    def record(self, families: Iterable[Family] = FAMILIES) -> None:
        """Train every method from every rate of its grid with the choosing seeds.

        Where the best rate of a method is the lowest or the highest of the grid, the grid of its family is extended.
        """
        for family in families:
            began, extended = time.process_time(), 0
            seconds: list[float] = []
            while len(rates := self._missing(family, extended)):
                seconds.append(self._record(family, rates))
                extended += 1
            if seconds:
                self.judge(
                    self.promising(list(family.schedules), PROMISING if np.mean(seconds) < DEAR else PROMISING / 4)
                )
                lanes, spent = self._lanes_of(family), time.process_time() - began
                self.report(
                    f"{self.name}: {np.mean(seconds):.4f} CPU-s a run, {spent:.1f} in all, {extended} grids, "
                    f"{'together' if lanes.together else 'one by one'}; " + "; ".join(map(self._best, family.schedules))
                )

    def _missing(self, family: Family, extended: int) -> np.ndarray:
        """Return the rates at which a family is still to be trained."""
        methods = [self.curves.methods.get(name) for name in family.schedules]
        if any(curves is None for curves in methods):
            return family.rates
        rates = methods[0].rates  # type: ignore[union-attr]
        if extended > EXTENSIONS or len(family.rates) == 1 or len(rates) > len(family.rates) + EXTENSIONS * STRIDE:
            return rates[:0]
        places = {self._best_place(name) for name in family.schedules}
        steps = 10.0 ** (np.arange(1, STRIDE + 1) / 2)
        below = rates[0] / steps[::-1] if 0 in places else rates[:0]
        above = rates[-1] * steps if len(rates) - 1 in places else rates[:0]
        return np.concatenate([below, above]).astype(np.float32)

    def _record(self, family: Family, rates: np.ndarray) -> float:
        """Train a family at new rates; return the CPU-seconds of a run."""
        lanes, curves = self._lanes_of(family), self.curves
        lanes.warm_up()
        began = time.process_time()
        methods = len(family.schedules)
        places, each, seeds = np.meshgrid(np.arange(methods), rates, CHOOSING, indexing="ij")
        stops = [0, *stops_of(self.task.steps, curves.grain)]
        found = lanes.record(each.ravel(), places.ravel(), seeds.ravel().astype(int), stops)
        seconds = (time.process_time() - began) / each.size
        shape = methods, len(rates), len(CHOOSING)
        losses = coarsen(found.losses, self.task.steps, curves.grain).reshape(*shape, -1)
        evaluations = {name: values.reshape(*shape, -1) for name, values in found.evaluations.items()}
        if not curves.initial:
            curves.initial = {name: values[0, 0, :, 0] for name, values in evaluations.items()}
        for place, name in enumerate(family.schedules):
            made = MethodCurves(
                rates,
                losses[place],
                {key: values[place, ..., 1:] for key, values in evaluations.items()},
                {key: np.full((len(rates), len(HELD_OUT)), np.nan, np.float32) for key in evaluations},
                np.zeros(len(rates), bool),
                seconds,
            )
            curves.methods[name] = curves.methods[name].extend(made) if name in curves.methods else made
        curves.save(self.path)
        return seconds

    def _best_place(self, method: str) -> int:
        means = self.curves.chosen_by(method).mean(axis=1)
        return int(means.argmin() if self.task.mode == "min" else means.argmax())

    def _best(self, method: str) -> str:
        means, place = self.curves.chosen_by(method).mean(axis=1), self._best_place(method)
        return f"{method} {means[place]:.4g} at {self.curves.methods[method].rates[place]:.2g}"

    def test_ranges(self) -> None:
        """Run the range tests of SGD and of AdamW with the choosing seeds, and keep what they suggest."""
        for name, optimizer in RANGE_TESTED.items():
            if name not in self.curves.suggestions:
                tests = [range_test(self.workload, optimizer, seeds=[seed], progress=False) for seed in CHOOSING]
                found = [test.suggestions["minimum"] for test in tests]
                rates = [math.nan if rate is None else rate for rate in found]
                self.curves.suggestions[name] = np.array(rates, np.float32)
                self.curves.save(self.path)

    def promising(self, methods: Sequence[str], regret: float) -> list[tuple[str, float]]:
        """Return the pairs that a strategy is likely to choose.

        These are the best rate of each method, its default, and what is near the best of all by the choosing seeds.

        Args:
          methods: names of the methods, which have been recorded.
          regret: what counts as near.
        """
        curves, sign = self.curves, 1 if self.task.mode == "min" else -1
        means = {name: sign * curves.chosen_by(name).mean(axis=1) for name in curves.methods}
        best = min(float(values.min()) for values in means.values())
        initial = sign * float(np.mean(curves.initial[self.task.metric]))
        pairs = []
        for name in methods:
            values = means[name]
            rates, own = curves.methods[name].rates, {self._best_place(name)}
            own.add(curves.methods[name].place(METHODS[name].default))
            own |= set(np.flatnonzero(values <= best + regret * (initial - best)).tolist())
            pairs += [(name, float(rates[place])) for place in sorted(own)]
        return pairs

    def judge(self, pairs: Iterable[tuple[str, float]]) -> None:
        """Train methods at rates of the grid with the held-out seeds, where that was not done before."""
        wanted: dict[int, set[tuple[str, int]]] = {}
        for method, rate in pairs:
            curves = self.curves.methods[method]
            place = curves.place(rate)
            if not curves.judged[place]:
                wanted.setdefault(FAMILIES.index(METHODS[method]), set()).add((method, place))
        for number, configurations in wanted.items():
            family = FAMILIES[number]
            lanes, names = self._lanes_of(family), list(family.schedules)
            each = sorted(configurations)
            rates = np.array([self.curves.methods[method].rates[place] for method, place in each])
            schedules = np.array([names.index(method) for method, _ in each])
            seeds = np.tile(HELD_OUT, len(each))
            repeats = len(HELD_OUT)
            found = lanes.record(np.repeat(rates, repeats), np.repeat(schedules, repeats), seeds, [self.task.steps])
            for row, (method, place) in enumerate(each):
                curves = self.curves.methods[method]
                curves.judged[place] = True
                for key, values in found.evaluations.items():
                    curves.held_out[key][place] = values[row * repeats : (row + 1) * repeats, -1]
            self.curves.save(self.path)
