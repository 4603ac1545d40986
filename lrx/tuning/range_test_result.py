"""The result of a range test: the losses at the rates of a ladder, and the rates that they suggest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lrx.figures import DARK, LIGHT, PALETTE, STROKES, legend, panels
from lrx.tuning.ladder import FEWEST_STEPS
from lrx.tuning.suggestions import RULE_TITLES, RULES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("rates", "losses", "smoothed", "losses_by_seed", "gains")


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """The losses at the rates of a ladder, and the rates that they suggest.

    Attributes:
      rates: (steps,) float32, the ladder.
      losses: (steps,) float32, the loss at each rate, the median over seeds; NaN after divergence.
      smoothed: (steps,) float32, the same, smoothed separately before and after the loss rises for good; NaN after
        divergence.
      losses_by_seed: (seeds, steps) float32.
      gains: (steps,) float32, by how much the loss at each rate is below that of the initial parameters on the same
        minibatch, the median over seeds; NaN after divergence.
      gain: the maximum of the smoothed gains.
      noise: how far above zero `gain` may lie by chance, at least a thousandth of the loss. If `gain` is not above it,
        nothing was learnt at any rate, and no rule suggests one.
      diverged_at: the rate of the step after which the loss was too high for good, the median over seeds; None if it
        never was.
      suggestions: rule to rate, None if a rule finds none: "steepest", where the smoothed loss falls fastest in the
        logarithm of the rate; "valley", the middle of its longest descent, from a tenth to nine tenths of the fall;
        "minimum", a tenth of the rate at its minimum; "slide", the left end of an interval that slides from the
        minimum to the left until the slopes at its ends are alike; "divergence", a tenth of `diverged_at`.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    losses_by_seed: np.ndarray
    gains: np.ndarray
    gain: float
    noise: float
    diverged_at: float | None
    suggestions: dict[str, float | None]

    @property
    def suggestion(self) -> float:
        """One rate to start with: a tenth of the rate at the minimum, or else the first rate that another rule finds.

        Raises:
          ValueError: if no rule finds one, because nothing was learnt at any rate.
        """
        for rule in ("minimum", *RULES):
            rate = self.suggestions[rule]
            if rate is not None:
                return rate
        tried = f"no rate from {self.rates[0]:g} to {self.rates[-1]:g}"
        if self.diverged_at is not None:
            raise ValueError(
                f"{tried} made the loss fall before it diverged at {self.diverged_at:.2g}: give more num_steps, so "
                "that each rate has longer, or a smaller min_rate if it rises from the start, and look at the "
                "gradients, which may be zero where training starts."
            )
        if self.is_flat():
            raise ValueError(
                f"{tried} changed the loss: give more num_steps or a larger max_rate, or look at the gradients, which "
                "may be zero where training starts."
            )
        raise ValueError(
            f"{tried} made the loss fall, and higher ones made it rise: give more num_steps or a smaller min_rate, or "
            "look at the gradients."
        )

    def is_flat(self) -> bool:
        """Return whether the loss neither fell nor rose, compared on the same minibatches."""
        known = self.gains[np.isfinite(self.gains)]
        rise = -float(np.median(known[-FEWEST_STEPS:])) if len(known) else 0.0
        return self.diverged_at is None and max(self.gain, rise) <= self.noise

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays, for a checkpoint."""
        numbers = {name: np.array([getattr(self, name)]) for name in ("gain", "noise")}
        numbers["diverged_at"] = np.array([np.nan if self.diverged_at is None else self.diverged_at])
        return (
            numbers
            | {name: getattr(self, name) for name in CURVES}
            | {
                f"suggestions/{rule}": np.array([np.nan if rate is None else rate])
                for rule, rate in self.suggestions.items()
            }
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RangeTest:
        """Build a range test from what `to_arrays` returned."""
        numbers = {name: float(values[0]) for name, values in arrays.items() if name not in CURVES}
        known = {name: None if np.isnan(number) else number for name, number in numbers.items()}
        return cls(
            **{name: arrays[name] for name in CURVES},
            gain=numbers["gain"],
            noise=numbers["noise"],
            diverged_at=known["diverged_at"],
            suggestions={rule: known[f"suggestions/{rule}"] for rule in RULES},
        )

    def plot(self, *, title: str = "") -> Figure:
        """Draw the loss over the rates, with the spread over seeds and the suggestions; needs matplotlib.

        Args:
          title: what was tested, such as "digits: sgd".
        """
        figure, (axes,) = panels(size=(8.0, 4.5))
        if len(self.losses_by_seed) > 1:
            by_seed = np.where(np.isfinite(self.losses_by_seed), self.losses_by_seed, np.inf)
            axes.fill_between(
                self.rates,
                by_seed.min(axis=0),
                by_seed.max(axis=0),
                color="#B8C4CE",
                alpha=0.6,
                lw=0,
                label="range over seeds",
            )
        axes.plot(self.rates, self.losses, color=LIGHT, lw=0.8, label="loss")
        axes.plot(self.rates, self.smoothed, color=DARK, lw=2, label="smoothed")
        known = self.smoothed[np.isfinite(self.smoothed)]
        low, first = float(np.nanmin(self.losses)), float(known[0])
        margin = 0.1 * max(first - low, 0.1 * abs(first), 1e-12)
        axes.set_ylim(low - margin, max(first, float(np.nanmax(self.losses[: len(known) // 2 + 1]))) + 5 * margin)
        for rule, color, stroke in zip(RULES, PALETTE, STROKES, strict=False):
            rate = self.suggestions[rule]
            if rate is not None:
                axes.axvline(rate, color=color, ls=stroke, lw=1.5, label=f"{RULE_TITLES.get(rule, rule)}: {rate:.2g}")
        if self.diverged_at is not None:
            axes.axvline(self.diverged_at, color=DARK, lw=0.8, alpha=0.5, label=f"diverged: {self.diverged_at:.2g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        nothing = "" if any(self.suggestions.values()) else "nothing was learnt at any rate"
        axes.set_title("\n".join(filter(None, (title, nothing))), loc="left", fontsize=10)
        legend(figure, axes, 1, loc="outside right upper")
        return figure

    def __repr__(self) -> str:
        tried = f"{len(self.rates)} rates from {self.rates[0]:.3g} to {self.rates[-1]:.3g}"
        end = "did not diverge" if self.diverged_at is None else f"diverged at {self.diverged_at:.2g}"
        found = [f"{rule} {rate:.2g}" for rule, rate in self.suggestions.items() if rate is not None]
        return f"RangeTest({tried}, {end}; {', '.join(found) or 'nothing was learnt at any rate'})"
