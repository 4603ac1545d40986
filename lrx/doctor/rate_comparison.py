"""The result of `compare_rates`: a table, and one picture of the paths and the losses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from lrx.diagnostics.landscape_result import Landscape, draw_contours
from lrx.figures import DARK, PALETTE, panels, scale_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGHEST = 3.0  # of the first loss: higher ones are beyond the picture


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RateComparison:
    """Runs at several rates: their losses, and their paths on one plane.

    Attributes:
      plane: the `Landscape`, through the final parameters of the best run.
      rates: name to rate.
      losses: name to (steps,) float32, the training losses; NaN after a run diverged.
      final_loss: name to the mean loss of the last tenth of the steps; infinite if the run diverged.
      diverged: name to whether a loss was not finite.
      best: the name with the lowest final loss.
      paths: name to (points, 2), the coordinates of the path's projection on the plane.
      path_steps: (points,) the number of steps made at each point of the paths.
      distances: name to (points,) the distance from the start in the space of all parameters.
      lengths: name to the length of the path from point to point; much more than the last distance if the run turns
        back again and again.
    """

    plane: Landscape
    rates: dict[str, float]
    losses: dict[str, np.ndarray]
    final_loss: dict[str, float]
    diverged: dict[str, bool]
    best: str
    paths: dict[str, np.ndarray]
    path_steps: np.ndarray
    distances: dict[str, np.ndarray]
    lengths: dict[str, float]

    def __repr__(self) -> str:
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in self.rates.items())
        return f"RateComparison({rates}; {self.path_steps[-1]:,} steps, lowest final loss: {self.best})"

    def __str__(self) -> str:
        width = max(map(len, self.rates))
        heads = ["rate", "first loss", "final loss", "distance", "path length"]
        rows = [f"{'':{width}}  " + "  ".join(f"{head:>11}" for head in heads)]
        for name, rate in self.rates.items():
            final = f"{self.final_loss[name]:.4g}" if not self.diverged[name] else f"diverged {self._last_step(name):,}"
            cells = [f"{rate:.3g}", f"{self.losses[name][0]:.4g}", final]
            cells += [f"{self.distances[name][-1]:.4g}", f"{self.lengths[name]:.4g}"]
            rows.append(f"{name:{width}}  " + "  ".join(f"{cell:>11}" for cell in cells))
        return "\n".join(rows)

    def _last_step(self, name: str) -> int:
        """Return the number of steps that a run made."""
        return int(np.isfinite(self.losses[name]).sum())

    def plot(self, *, title: str = "") -> Figure:
        """Draw the paths on the contours of the loss, and the losses over the steps below; needs matplotlib.

        Args:
          title: what was trained, such as "digits: sgd".

        Raises:
          ImportError: if matplotlib is not installed.
        """
        figure, (above, below) = panels(rows=2, size=(7.4, 8.4), grid=False, height_ratios=[1.7, 1])
        draw_contours(figure, above, self.plane, colors="Greys")
        window = max(1, len(next(iter(self.losses.values()))) // 50)
        for (name, rate), color in zip(self.rates.items(), PALETTE * len(self.rates), strict=False):
            label = f"{name}: {rate:.3g}" + (", diverged" if self.diverged[name] else "")
            above.plot(*self.paths[name].T, "o-", color=color, ms=3, lw=1.3, label=label)
            above.plot(*self.paths[name][-1], "X" if self.diverged[name] else "o", color=color, mec="white", ms=9)
            losses = self.losses[name]
            below.plot(losses, color=color, lw=0.6, alpha=0.35 if window > 1 else 1)
            if window > 1:
                below.plot(*_means(losses, window), color=color, lw=1.8)
            if self.diverged[name]:
                last = self._last_step(name) - 1
                below.plot(last, losses[last], "X", color=color, mec="white", ms=9)
        above.plot(*self.paths[self.best][0], "s", color=DARK, mec="white", ms=9, label="start")
        above.legend(loc="best", frameon=True, facecolor="white", framealpha=0.9, fontsize=8)
        above.set_title(title, loc="left", fontsize=10)
        below.grid(True)
        below.set_xlabel("step")
        below.set_ylabel("training loss")
        # A loss that explodes would hide all others.
        first = max(abs(float(losses[0])) for losses in self.losses.values())
        every = np.concatenate(list(self.losses.values()))
        shown = every[np.isfinite(every) & (every <= HIGHEST * first)]
        scale_axis(below, "y", shown)
        if len(shown) and shown.max() > shown.min():
            low, high = float(shown.min()), float(shown.max())
            if below.get_yscale() == "log":
                below.set_ylim(low / 1.2, high * 1.2)
            else:
                below.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        return figure


def _means(losses: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle and the mean of each window of steps, without those that hold a NaN."""
    number = len(losses) // window
    means = losses[: number * window].reshape(number, window).mean(axis=1)
    return (np.arange(number) + 0.5) * window - 0.5, means
