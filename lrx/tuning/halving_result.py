"""The result of `successive_halving`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class HalvingResult:
    """The losses of all members of a successive halving, and the best of them.

    Members are in the order of the grid or of the samples, bracket by bracket.

    Attributes:
      members: hyperparameter to its values, (members,).
      bracket: (members,) int, the bracket of each.
      steps_made: (members,) int, the steps of each.
      final_loss: (members, seeds) float32, the mean training loss of the last tenth of those; infinite if a run
        diverged.
      initial_loss: (members, seeds) float32, the mean loss of the initial parameters on the same minibatches.
      metric: (members,) float32, what members were compared by, at the end of their last rung.
      losses: (members, seeds, points) float32, the curves; NaN where no step was made.
      steps: (points,) the step in the middle of each point of a curve.
      cost: steps of all members, in runs of full length of one member.
      best: hyperparameters of the best member that was trained to the end.
      params: its parameters, with the first seed.
      model_state: its model state.
      mode: "min" or "max", which metric is better.
    """

    members: dict[str, np.ndarray]
    bracket: np.ndarray
    steps_made: np.ndarray
    final_loss: np.ndarray
    initial_loss: np.ndarray
    metric: np.ndarray
    losses: np.ndarray
    steps: np.ndarray
    cost: float
    best: dict[str, float]
    params: Any
    model_state: Any
    mode: str

    def __repr__(self) -> str:
        best = ", ".join(f"{name}={value:.6g}" for name, value in self.best.items())
        return f"HalvingResult({len(self.steps_made)} members of {', '.join(self.members)}; best: {best})"

    def plot(self) -> Figure:
        """Draw the loss of every member over the steps that it was given; needs matplotlib."""
        from lrx.tuning.figures import halving_curves

        shown = np.where(np.isfinite(self.losses), self.losses, np.nan)
        return halving_curves(self.steps, shown.mean(axis=1), self.members)
