"""The result of `landscape`: its numbers, its contours and its surface."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.figures import DARK, VERMILION, empty, is_wide, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 16  # contours of a plane
COLORS = "cividis"  # a map that people with color blindness read alike
LINES = {"Greys": "#8A97A3"}  # of contours, on maps on which white is not seen


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Landscape:
    """The loss on a plane through the parameters.

    Attributes:
      losses: (points, points) float32: `losses[i, j]` at `params + first[i] d_1 + second[j] d_2`; infinite or NaN where
        the loss is.
      centre: the loss at `params`.
      first: (points,) float64, the coordinates along the first direction, in its lengths.
      second: (points,) float64, likewise along the second.
      directions: (d_1, d_2), pytrees like the parameters.
      trajectory: (points of the trajectory, 2), the coordinates of its projection; None if none was given.
      variance: (2,) the fractions of the variance of the trajectory's points along the two directions; None unless they
        are its own.
    """

    losses: np.ndarray
    centre: float
    first: np.ndarray
    second: np.ndarray
    directions: tuple[Any, Any]
    trajectory: np.ndarray | None = None
    variance: np.ndarray | None = None

    def __repr__(self) -> str:
        return (
            f"Landscape({len(self.first)} x {len(self.second)} points, loss {self.centre:.4g} at params, "
            f"{self._range()} on the plane)"
        )

    def _range(self) -> str:
        known = self.losses[np.isfinite(self.losses)]
        return f"{known.min():.4g} to {known.max():.4g}" if len(known) else "nowhere finite"

    def __str__(self) -> str:
        lines = [f"plane       {len(self.first)} x {len(self.second)} points, {self._side(0)} by {self._side(1)}"]
        known = np.isfinite(self.losses)
        if known.any():
            place = np.unravel_index(int(np.argmin(np.where(known, self.losses, np.inf))), self.losses.shape)
            at = f"({self.first[place[0]]:.3g}, {self.second[place[1]]:.3g})"
            lines.append(
                f"loss        {self.centre:.4g} at params, least {self.losses[place]:.4g} at {at}, greatest "
                f"{self.losses[known].max():.4g}"
            )
        if not known.all():
            lines.append(f"not finite  {np.sum(~known):,} of {known.size:,} points")
        if self.variance is not None:
            along = " and ".join(f"{100 * part:.1f} %" for part in self.variance)
            lines.append(f"variance    {along} of that of the points along the two directions")
        return "\n".join(lines)

    def _side(self, which: int) -> str:
        side = (self.first, self.second)[which]
        return f"{side[0]:.3g} to {side[-1]:.3g}"

    def plot(self, *, title: str = "") -> Figure:
        """Draw the contours of the plane, with the parameters and the trajectory; needs matplotlib.

        Losses that reach far have contours at equal ratios; of others the contours are closer near the minimum.

        Args:
          title: what was measured, such as "digits: perceptron".

        Raises:
          ImportError: if matplotlib is not installed.
        """
        figure, (axes,) = panels(size=(6.6, 5.2), grid=False)
        draw_contours(figure, axes, self)
        if self.trajectory is not None:
            axes.plot(*self.trajectory.T, "o-", color=VERMILION, ms=3, lw=1.2, label="trajectory")
            axes.plot(*self.trajectory[0], "s", color=VERMILION, ms=7, label="its start")
        axes.plot(0, 0, "*", color=DARK, mec="white", ms=14, label="params")
        axes.legend(loc="upper right", frameon=True, facecolor="white", framealpha=0.85, fontsize=8)
        axes.set_title(title, loc="left", fontsize=10)
        return figure

    def plot_surface(self, *, title: str = "") -> Figure:
        """Draw the plane as a surface in three dimensions; needs matplotlib.

        The height is the loss, or its decimal logarithm if losses reach far.

        Args:
          title: what was measured, such as "digits: perceptron".

        Raises:
          ImportError: if matplotlib is not installed.
        """
        figure = empty(6.6, 5.2)
        with style():
            axes: Any = figure.add_subplot(projection="3d")
            wide = is_wide(self.losses)
            heights = np.where(np.isfinite(self.losses), self.losses, np.nan).astype(np.float64)
            heights = np.log10(heights) if wide else heights
            mesh = np.meshgrid(self.first, self.second, indexing="ij")
            axes.plot_surface(*mesh, heights, cmap=COLORS, rcount=100, ccount=100, lw=0.2, edgecolor="white")
            parts = ["", ""] if self.variance is None else [f", {100 * part:.1f} %" for part in self.variance]
            axes.set_xlabel(f"first direction{parts[0]}", fontsize=8)
            axes.set_ylabel(f"second{parts[1]}", fontsize=8)
            axes.set_zlabel("log10 of the loss" if wide else "loss", fontsize=8)
            axes.tick_params(labelsize=7)
            axes.set_title(title, loc="left", fontsize=10)
        return figure

    def labels(self) -> tuple[str, str]:
        """Return the labels of the axes of a figure."""
        if self.variance is None:
            return "first direction", "second direction"
        first, second = (f"{100 * part:.1f} %" for part in self.variance)
        return f"first principal direction, {first} of the variance", f"second, {second}"


def draw_contours(figure: Figure, axes: Axes, plane: Landscape, *, colors: str = COLORS) -> None:
    """Draw the contours of a plane, their colors and the labels of the axes."""
    known = plane.losses[np.isfinite(plane.losses)].astype(np.float64)
    first, second = plane.labels()
    axes.set_xlabel(first)
    axes.set_ylabel(second)
    axes.set_xlim(plane.first[0], plane.first[-1])
    axes.set_ylim(plane.second[0], plane.second[-1])
    if not len(known) or not known.max() > known.min():
        return
    with style():
        from matplotlib import cm
        from matplotlib.colors import LogNorm, Normalize, PowerNorm

        low, high = float(known.min()), float(known.max())
        if is_wide(known):
            levels = np.geomspace(low, high, LEVELS)
            scale: Normalize = LogNorm(low, high)
        else:  # so that a parabola's contours are equally far apart
            levels = low + (high - low) * np.linspace(0, 1, LEVELS) ** 2
            scale = PowerNorm(0.5, low, high)
        grid = np.where(np.isfinite(plane.losses), plane.losses, np.nan).T.clip(low, high)
        axes.contourf(plane.first, plane.second, grid, levels=levels, cmap=colors, norm=scale, alpha=0.9)
        axes.contour(
            plane.first, plane.second, grid, levels=levels, colors=LINES.get(colors, "white"), linewidths=0.4, alpha=0.7
        )
        bar = figure.colorbar(cm.ScalarMappable(scale, colors), ax=axes, label="loss")
        bar.ax.minorticks_off()


def draw_alike(
    figure: Figure,
    panels: Sequence[Axes],
    side: np.ndarray,
    planes: Sequence[np.ndarray],
    lowest: float,
    highest: float,
) -> None:
    """Draw the contours of planes side by side, with the same levels at equal ratios and one bar of colors.

    Args:
      figure: that the panels belong to.
      panels: one for each plane.
      side: (points,) the coordinates along both sides of every plane.
      planes: (points, points) losses; those that are not finite are drawn as the highest level.
      lowest: the lowest level if a plane reaches below it.
      highest: the highest level, if it is at least ten times the lowest.
    """
    from matplotlib.colors import LogNorm

    low = max(min(np.nanmin(plane) for plane in planes), lowest)
    levels = np.geomspace(low, max(highest, 10 * low), LEVELS - 1)
    low, high = levels[0], levels[-1]
    for panel, plane in zip(panels, planes, strict=True):
        shown = np.clip(np.where(np.isfinite(plane), plane, high), low, high).T
        filled = panel.contourf(side, side, shown, levels, cmap=COLORS, norm=LogNorm(low, high))
    bar = figure.colorbar(filled, ax=panels, label="training loss, nats", shrink=0.9)
    bar.set_ticks([tick for tick in 10.0 ** np.arange(-6, 3) if low <= tick <= high])
    bar.ax.minorticks_off()
