"""The result of `critical_batch_size`: the loss of each branch, as a table and a figure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from lrx.diagnostics.noise_scale import NoiseScale
from lrx.figures import BLUE, DARK, GREEN, PALETTE, VERMILION, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CriticalBatchSize:
    """The losses of branches with larger batches, and the largest batch that loses nothing.

    Attributes:
      noise: the gradient `NoiseScale` at the start, for comparison.
      multiples: (branches,) int, k, the multiples of the batch size.
      factors: (branches,) float32, by which the rate was multiplied.
      examples: examples in a batch of k = 1.
      losses: (branches, seeds) float32, the loss of each branch over its last quarter, on the same minibatches;
        infinite if it diverged.
      tolerance: how far a loss may be above that of k = 1, relative to its magnitude.
      curves: (branches, seeds, points) float32, the training losses of the minibatches; NaN after a branch diverged.
      steps: (points,) the minibatch in the middle of each point of the curves.
      rule: "sqrt" or "linear".
    """

    noise: NoiseScale
    multiples: np.ndarray
    factors: np.ndarray
    examples: int
    losses: np.ndarray
    tolerance: float
    curves: np.ndarray
    steps: np.ndarray
    rule: str

    @property
    def excess(self) -> np.ndarray:
        """(branches,) float64: by how much the mean loss is above that of k = 1, relative to its magnitude."""
        means = self.losses.mean(axis=1, dtype=np.float64)
        return (means - means[0]) / max(abs(means[0]), 1e-30)

    @property
    def excess_error(self) -> np.ndarray:
        """(branches,) float64: the standard error of `excess` over the seeds; NaN with one seed."""
        number = self.losses.shape[1]
        if number < 2:
            return np.full(len(self.multiples), np.nan)
        with np.errstate(invalid="ignore"):
            differences = self.losses.astype(np.float64) - self.losses[:1]
            spread = differences.std(axis=1, ddof=1) / np.sqrt(number)
        return spread / max(abs(float(self.losses[0].mean())), 1e-30)

    @property
    def multiple(self) -> int:
        """The largest k such that no branch up to it is above the tolerance; 1 if that of the second is."""
        within = np.logical_and.accumulate(self.excess <= self.tolerance)
        return int(self.multiples[max(int(np.sum(within)) - 1, 0)])

    @property
    def batch_size(self) -> int:
        """The critical batch size in examples, as far as the multiples show it: `multiple` times `examples`."""
        return self.multiple * self.examples

    @property
    def is_reached(self) -> bool:
        """Whether a branch was above the tolerance; otherwise the critical batch size may be larger."""
        return self.multiple < int(self.multiples[-1])

    def __repr__(self) -> str:
        return f"CriticalBatchSize({self._size()}, {self.multiple} times the batch size of {self.examples:,})"

    def _size(self) -> str:
        return f"{'' if self.is_reached else 'at least '}{self.batch_size:,} examples"

    def __str__(self) -> str:
        seeds = self.losses.shape[1]
        heads = ("multiple", "batch", "rate times", "loss", "excess", "+-")
        rows = ["  ".join(f"{head:>10}" for head in heads)]
        for place, multiple in enumerate(self.multiples):
            loss = self.losses[place].mean()
            known = bool(np.isfinite(loss))
            cells = [f"{multiple}", f"{multiple * self.examples:,}", f"{self.factors[place]:.3g}"]
            cells += [f"{loss:.4g}" if known else "diverged", f"{100 * self.excess[place]:+.2f} %" if known else ""]
            cells += [f"{100 * self.excess_error[place]:.2f} %" if known and seeds > 1 else ""]
            rows.append("  ".join(f"{cell:>10}" for cell in cells))
        rows.append(
            f"critical batch size: {self._size()} (excess up to {100 * self.tolerance:g} %, "
            f"{seeds} seed{'s' if seeds > 1 else ''})"
        )
        low, high = self.noise.interval
        rows.append(
            f"noise scale:         {self.noise.noise_scale:,.3g} examples (95 % from {low:,.3g} to {high:,.3g})"
            if self.noise.resolved
            else f"noise scale:         not resolved, above {low:,.3g} examples"
        )
        return "\n".join(rows)

    def plot(self, *, title: str = "") -> Figure:
        """Draw the training losses over the examples, and the excess over the batch size; needs matplotlib.

        Args:
          title: what was trained, such as "digits: adam, after 1,000 steps".

        Raises:
          ImportError: if matplotlib is not installed.
        """
        figure, (left, right) = panels(2, size=(10.5, 4.2))
        for place, (multiple, color) in enumerate(zip(self.multiples, PALETTE * len(self.multiples), strict=False)):
            seen, losses = self.steps * self.examples, self.curves[place].mean(axis=0)
            left.plot(seen, losses, color=color, lw=1.4, label=f"{multiple * self.examples:,}")
        left.set_xlabel("examples since the branches began")
        left.set_ylabel("training loss")
        left.legend(title="batch size", fontsize=8, ncols=2)
        sizes = self.multiples * self.examples
        known = np.isfinite(self.excess)
        excess, error = 100 * self.excess[known], 100 * np.nan_to_num(self.excess_error[known])
        right.errorbar(sizes[known], excess, error, fmt="o-", color=BLUE, capsize=3)
        allowed = 100 * self.tolerance
        right.axhline(allowed, color=VERMILION, ls="--", lw=1.2, label=f"tolerance, {allowed:g} %")
        right.axvline(self.batch_size, color=DARK, lw=0.8, alpha=0.6, label=f"critical: {self._size()}")
        if self.noise.resolved:
            low, high = self.noise.interval
            right.axvspan(low, high, color=GREEN, alpha=0.18, lw=0, label="noise scale, 95 %")
        right.set_xscale("log", base=2)
        right.set_xticks(sizes, [f"{size:,}" for size in sizes])
        right.set_xlabel("batch size")
        right.set_ylabel("loss above that of the first, %")
        right.legend(fontsize=8)
        right.set_title(title, loc="left", fontsize=10)
        return figure
