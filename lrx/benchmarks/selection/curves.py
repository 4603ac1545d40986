"""Stored curves: what every method reached from every rate on one task."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from lrx.records import write_atomically

CHOOSING = (300, 301, 302)  # seeds with which everything chooses; no rule was tried with them before
HELD_OUT = tuple(range(400, 410))  # seeds that judge every choice, and the oracle
PARTS = tuple(3.0**-power for power in (3, 2, 1, 0.5, 0))  # of a run, after which it is evaluated
BINS_PER_FACTOR = 6  # bins of a training curve in a factor of three of the time
BINS = 32
MANTISSA = 10  # bits that a curve keeps; values of the last evaluation keep all


def stops_of(num_steps: int, grain: int) -> list[int]:
    """Return the steps after which a run is evaluated, increasing; each but the last is a multiple of `grain`."""
    return [*(max(grain, round(part * num_steps / grain) * grain) for part in PARTS[:-1]), num_steps]


def bin_edges(num_steps: int, grain: int) -> np.ndarray:
    """Return (bins + 1,) int: the steps between which the bins of a training curve lie, geometric in time."""
    powers = np.arange(BINS, -1, -1) / BINS_PER_FACTOR
    edges = np.maximum(np.round(num_steps * 3.0**-powers / grain) * grain, 0).astype(int)
    edges[0], edges[-1] = 0, num_steps
    return edges


def coarsen(losses: np.ndarray, num_steps: int, grain: int) -> np.ndarray:
    """Return (runs, bins) float32: the means of fine bins of `grain` steps between `bin_edges`; NaN where none are."""
    edges = -(-bin_edges(num_steps, grain) // grain)
    coarse = np.full((len(losses), BINS), np.nan, np.float32)
    for place, (low, high) in enumerate(itertools.pairwise(edges)):
        if high > low:
            coarse[:, place] = losses[:, low:high].mean(axis=1)
    return coarse


def shorten(values: np.ndarray) -> np.ndarray:
    """Round float32 values to `MANTISSA` bits, so that they compress."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    drop = 23 - MANTISSA
    rounded = (bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(np.float32)


@dataclasses.dataclass(eq=False)
class MethodCurves:
    """The runs of one method: (rates, seeds) each, with the choosing seeds.

    Attributes:
      rates: (rates,) float32, increasing.
      losses: (rates, seeds, bins) float32 training losses; NaN after a divergence.
      evaluations: name to (rates, seeds, stops) float32; NaN after a divergence.
      held_out: name to (rates, held-out seeds) float32 at the end of the run; NaN for a run that diverged.
      judged: (rates,) bool: which rates were trained with the held-out seeds.
      cpu_seconds: of one run, with its evaluations.
    """

    rates: np.ndarray
    losses: np.ndarray
    evaluations: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    judged: np.ndarray
    cpu_seconds: float

    def extend(self, other: MethodCurves) -> MethodCurves:
        """Return the curves at the rates of both, which have none in common."""
        rates = np.concatenate([self.rates, other.rates])
        order = np.argsort(rates)

        def both(one: np.ndarray, two: np.ndarray) -> np.ndarray:
            return np.concatenate([one, two])[order]

        return MethodCurves(
            rates[order],
            both(self.losses, other.losses),
            {name: both(values, other.evaluations[name]) for name, values in self.evaluations.items()},
            {name: both(values, other.held_out[name]) for name, values in self.held_out.items()},
            both(self.judged, other.judged),
            self.cpu_seconds,
        )

    def place(self, rate: float) -> int:
        """Return the place of the rate that is nearest in the logarithm."""
        return int(np.argmin(np.abs(np.log(self.rates.astype(float)) - math.log(rate))))


@dataclasses.dataclass(eq=False)
class TaskCurves:
    """All runs of one task.

    Attributes:
      name: of the task.
      num_steps: length of a run.
      grain: steps of which all stops but the last are multiples.
      metric: what counts.
      mode: "min" or "max".
      kind: kind of the task.
      fingerprint: of the task's data and programs.
      initial: name to (choosing seeds,) float32: the evaluation of the initial parameters.
      methods: name to its runs.
      suggestions: "sgd" or "adamw" to (choosing seeds,) float32: what a range test suggests; NaN if it saw no fall.
    """

    name: str
    num_steps: int
    grain: int
    metric: str
    mode: str
    kind: str
    fingerprint: str
    initial: dict[str, np.ndarray]
    methods: dict[str, MethodCurves] = dataclasses.field(default_factory=dict)
    suggestions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def stops(self) -> list[int]:
        """The steps after which runs are evaluated; before these there is the initial evaluation."""
        return stops_of(self.num_steps, self.grain)

    @property
    def worst(self) -> float:
        """The metric of a run that diverged."""
        return math.inf if self.mode == "min" else -math.inf

    def is_judged(self, method: str, rate: float) -> bool:
        """Return whether a method was trained with the held-out seeds, from the nearest rate of its grid."""
        curves = self.methods[method]
        return bool(curves.judged[curves.place(rate)])

    def judged(self, method: str, rate: float) -> np.ndarray:
        """Return (held-out seeds,) float64: the metric at the end; infinitely bad where a run diverged.

        Raises:
          KeyError: if these runs were not made.
        """
        curves = self.methods[method]
        place = curves.place(rate)
        if not curves.judged[place]:
            raise KeyError(f"{self.name}: {method} at {rate:.3g} was not trained with the held-out seeds.")
        values = curves.held_out[self.metric][place].astype(np.float64)
        return np.where(np.isfinite(values), values, self.worst)

    def chosen_by(self, method: str) -> np.ndarray:
        """Return (rates, choosing seeds) float64: the metric at the end of full runs; infinitely bad if diverged."""
        values = self.methods[method].evaluations[self.metric][..., -1].astype(np.float64)
        return np.where(np.isfinite(values), values, self.worst)

    def save(self, path: Path) -> Path:
        """Write the curves, whole or not at all."""
        head = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("initial", "methods", "suggestions")
        }
        head["cpu_seconds"] = {name: round(curves.cpu_seconds, 4) for name, curves in self.methods.items()}
        arrays: dict[str, Any] = {f"initial/{name}": values for name, values in self.initial.items()}
        arrays |= {f"suggestions/{name}": values for name, values in self.suggestions.items()}
        for name, curves in self.methods.items():
            arrays |= {f"{name}/rates": curves.rates, f"{name}/losses": shorten(curves.losses)}
            arrays[f"{name}/judged"] = curves.judged
            arrays |= {f"{name}/evaluations/{key}": values for key, values in curves.evaluations.items()}
            arrays |= {f"{name}/held_out/{key}": values for key, values in curves.held_out.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, head=np.array(json.dumps(head)), **arrays)
        return write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> TaskCurves:
        """Read what `save` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop("head")))
        seconds = head.pop("cpu_seconds")

        def named(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}

        methods = {
            name: MethodCurves(
                arrays[f"{name}/rates"],
                arrays[f"{name}/losses"],
                named(f"{name}/evaluations/"),
                named(f"{name}/held_out/"),
                arrays[f"{name}/judged"],
                each,
            )
            for name, each in seconds.items()
        }
        return cls(**head, initial=named("initial/"), methods=methods, suggestions=named("suggestions/"))


def load_all(folder: Path) -> dict[str, TaskCurves]:
    """Load the curves of all tasks that a folder holds, by name."""
    return {path.stem: TaskCurves.load(path) for path in sorted(folder.glob("*.npz"))}
