"""Curves of a run on the host: a number for each step, and the evaluations."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


class Curves:
    """The curves of a run, in pieces, with the evaluations on the way.

    Args:
      recorded: what `arrays` has returned of the run so far.
    """

    def __init__(self, recorded: dict[str, np.ndarray] | None = None) -> None:
        recorded = dict(recorded or {})
        self.evaluation_steps = [int(step) for step in recorded.pop("evaluation_steps", ())]
        self.evaluations: dict[str, list[float]] = {}
        self._pieces: dict[str, list[np.ndarray]] = {}
        self._segments = 0  # pieces added
        self._read: dict[int, int] = {}  # reader to the pieces that it has seen
        for name, values in recorded.items():
            if name.startswith("evaluations/"):
                self.evaluations[name.removeprefix("evaluations/")] = values.tolist()
            else:
                self._pieces[name] = [values]

    def extend(self, recorded: dict[str, np.ndarray], number: int) -> None:
        """Append the first `number` values that a segment has recorded."""
        for name, values in recorded.items():
            self._pieces.setdefault(name, []).append(values[:number].copy())
        self._segments += 1

    def recent(self, reader: int = 0) -> dict[str, np.ndarray]:
        """Return what has been recorded since this reader has asked last."""
        new = self._segments - self._read.get(reader, 0)
        self._read[reader] = self._segments
        return {name: np.concatenate(pieces[-new:]) for name, pieces in self._pieces.items()} if new else {}

    def latest(self, name: str) -> np.ndarray:
        """Return the latest piece of a curve."""
        return self._pieces[name][-1]

    def is_evaluated(self, step: int) -> bool:
        """Return whether the latest evaluation was after `step` steps."""
        return bool(self.evaluation_steps) and self.evaluation_steps[-1] == step

    def latest_evaluation(self) -> dict[str, float]:
        """Return the results of the latest evaluation; empty before the first."""
        return {name: values[-1] for name, values in self.evaluations.items()}

    def evaluate(self, step: int, results: dict[str, Any]) -> None:
        """Append the results of an evaluation.

        Raises:
          ValueError: if the names are others than before, or a result is not a scalar.
        """
        if self.evaluation_steps and results.keys() != self.evaluations.keys():
            raise ValueError(
                f"evaluate must always return the same names, got {sorted(results)} after {sorted(self.evaluations)}."
            )
        for name, value in results.items():
            if np.ndim(value) != 0:
                raise ValueError(
                    f"evaluate must return scalars, got {name!r} of shape {np.shape(value)}: take the mean."
                )
        for name, value in jax.device_get(results).items():
            self.evaluations.setdefault(name, []).append(float(np.float32(value)))
        self.evaluation_steps.append(step)

    def drop_last_evaluation(self) -> None:
        """Forget the latest evaluation."""
        self.evaluation_steps.pop()
        for values in self.evaluations.values():
            values.pop()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all as arrays: "loss", "rate", "metrics/...", "evaluations/..." and "evaluation_steps"."""
        recorded = {name: np.concatenate(pieces) for name, pieces in self._pieces.items()}
        for name, values in self.evaluations.items():
            recorded[f"evaluations/{name}"] = np.asarray(values, np.float32)
        recorded["evaluation_steps"] = np.asarray(self.evaluation_steps, np.int32)
        return recorded


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin so, without the beginning."""
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
