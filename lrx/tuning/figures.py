"""The figures of searches."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.figures import BLUE, DARK, LIGHT, PALETTE, VERMILION, empty, is_wide, legend, panels, scale_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Named = tuple[str, np.ndarray]
MOST_WRITTEN = 16  # cells along a side of a map whose numbers are readable
CLOSE = 0.1  # of an axis: lengths that are nearer than that have one label
SHOWN = 2.0  # range of a scale from the best value, in distances between the best value and the median


def _limits(values: np.ndarray, mode: str) -> tuple[float | None, float | None]:
    """Return the limits of a scale; they leave out values far from the best one, which would hide all differences."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None, None
    best = known.min() if mode == "min" else known.max()
    reach = SHOWN * abs(np.median(known) - best)
    if not reach > 0:
        return None, None
    return (best, min(known.max(), best + reach)) if mode == "min" else (max(known.min(), best - reach), best)


def line(axis: Named, means: np.ndarray, by_seed: np.ndarray | None, label: str, mode: str, note: str) -> Figure:
    """Draw a line over one hyperparameter: means over seeds (n,), and the seeds themselves (n, seeds)."""
    name, values = axis
    figure, (axes,) = panels()
    order = np.argsort(values)
    shown = np.where(np.isfinite(means), means, np.nan)
    if by_seed is not None and by_seed.shape[-1] > 1:
        for runs in np.where(np.isfinite(by_seed), by_seed, np.nan).T:
            axes.plot(values[order], runs[order], "o", ms=3, color=LIGHT)
    axes.plot(values[order], shown[order], "o-", color=BLUE, lw=1.8, ms=5)
    if np.isfinite(shown).any():
        best = int(np.nanargmin(shown) if mode == "min" else np.nanargmax(shown))
        axes.plot(values[best], shown[best], "o", ms=11, mfc="none", mec=VERMILION, mew=2, label="best")
    low, high = _limits(means, mode)
    if low is not None and high is not None:
        margin = 0.08 * (high - low)
        axes.set_ylim(low - margin, high + margin)
    edge = axes.get_ylim()[1 if mode == "min" else 0]
    beyond = means > edge if mode == "min" else means < edge
    diverged = ~np.isfinite(means)
    for places, mark, what in (
        (beyond & ~diverged, "^" if mode == "min" else "v", "off the scale"),
        (diverged, "x", "diverged"),
    ):
        if places.any():
            axes.plot(values[places], np.full(places.sum(), edge), mark, color=VERMILION, clip_on=False, label=what)
    legend(figure, axes, 3, loc="outside upper right")
    _set_title(axes, note)
    scale_axis(axes, "x", values)
    axes.set_xlabel(name)
    axes.set_ylabel(label)
    return figure


def heat_map(axes_of: list[Named], means: np.ndarray, label: str, mode: str, note: str) -> Figure:
    """Draw a map over two hyperparameters: means over seeds (rows, columns) in the cells, the best one framed."""
    (row_name, rows), (column_name, columns) = axes_of
    figure = empty(max(7, 1.5 + 0.75 * len(columns)), max(4.5, 1.5 + 0.4 * len(rows)))
    axes = figure.subplots()
    known = np.where(np.isfinite(means), means, np.nan)
    low, high = _limits(known, mode)
    image = axes.imshow(known, aspect="auto", cmap="viridis_r" if mode == "min" else "viridis", vmin=low, vmax=high)
    axes.set_yticks(range(len(rows)), [f"{value:.3g}" for value in rows])
    axes.set_xticks(range(len(columns)), [f"{value:.3g}" for value in columns], rotation=45)
    axes.set_ylabel(row_name)
    axes.set_xlabel(column_name)
    size = 9 if max(known.shape) <= MOST_WRITTEN // 2 else 7
    for row, column in np.ndindex(known.shape):
        value = known[row, column]
        if np.isnan(value):
            axes.text(column, row, "x", ha="center", va="center", color=VERMILION)
        elif max(known.shape) <= MOST_WRITTEN:
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            axes.text(
                *(column, row, f"{value:.3g}"),
                ha="center",
                va="center",
                fontsize=size,
                color="white" if dark else "black",
            )
    if np.isfinite(known).any():
        place = np.nanargmin(known) if mode == "min" else np.nanargmax(known)
        row, column = np.unravel_index(int(place), known.shape)
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=VERMILION, lw=3, clip_on=False))
    axes.spines[:].set_visible(False)
    _set_title(axes, note)
    extend = "max" if mode == "min" else "min"
    figure.colorbar(image, ax=axes, label=f"{label} (x: diverged)" if np.isnan(known).any() else label, extend=extend)
    return figure


def _set_title(axes: Axes, note: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(note, 80)), loc="left", fontsize=9)


def scatter(axes_of: list[Named], means: np.ndarray, label: str, mode: str, note: str) -> Figure:
    """Draw random samples: a metric over one hyperparameter, or as the colour over two."""
    figure, (axes,) = panels()
    shown = np.where(np.isfinite(means), means, np.nan)
    if np.isfinite(shown).any():
        best = int(np.nanargmin(shown) if mode == "min" else np.nanargmax(shown))
        height = shown if len(axes_of) == 1 else axes_of[1][1]
        axes.plot(axes_of[0][1][best], height[best], "o", ms=11, mfc="none", mec=VERMILION, mew=2)
    _set_title(axes, note)
    if len(axes_of) == 1:
        axes.plot(axes_of[0][1], shown, "o", color=BLUE)
        axes.set_ylabel(label)
    else:
        bad = ~np.isfinite(means)
        points = axes.scatter(axes_of[0][1][~bad], axes_of[1][1][~bad], c=means[~bad], cmap="viridis_r")
        axes.plot(axes_of[0][1][bad], axes_of[1][1][bad], "x", color=VERMILION)
        figure.colorbar(points, ax=axes, label=f"{label} (x: diverged)" if bad.any() else label)
        axes.set_ylabel(axes_of[1][0])
        scale_axis(axes, "y", axes_of[1][1])
    axes.set_xlabel(axes_of[0][0])
    scale_axis(axes, "x", axes_of[0][1])
    return figure


def halving_curves(steps: np.ndarray, losses: np.ndarray, members: dict[str, np.ndarray]) -> Figure:
    """Draw the losses of members, (members, points), up to the last finite one; colour: the first hyperparameter."""
    figure, (axes,) = panels()
    import matplotlib as mpl

    (name, values), *_ = members.items()
    norm = (mpl.colors.LogNorm if is_wide(values) else mpl.colors.Normalize)(values.min(), values.max())
    colors = mpl.colormaps["viridis"](norm(values))
    for curve, color in zip(losses, colors, strict=True):
        known = np.flatnonzero(np.isfinite(curve))
        if len(known):
            axes.plot(steps[known], curve[known], color=color, lw=1.2)
            axes.plot(steps[known[-1]], curve[known[-1]], "o", color=color, ms=4)
    known = losses[np.isfinite(losses)]
    if len(known) and known.min() > 0:
        axes.set_yscale("log")
        axes.set_ylim(known.min() / 1.2, np.quantile(known, 0.95) * 1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    figure.colorbar(mpl.cm.ScalarMappable(norm, "viridis"), ax=axes, label=name)
    return figure


def selection_curves(
    runs: dict[tuple[str, float], dict[int, float]], metric: str, mode: str, chosen: tuple[str, float]
) -> Figure:
    """Draw the metric of runs over the lengths at which they were scored; the longest ones are named, best first.

    The lengths of the rounds are marked with the number of their runs; a cross is a run that diverged.
    """
    figure, (axes,) = panels(size=(8.0, 4.5))
    lengths = sorted({steps for values in runs.values() for steps in values})
    finite = [value for values in runs.values() for value in values.values() if np.isfinite(value)]
    named = 0
    for run, values in reversed(runs.items()):
        known = {steps: value for steps, value in values.items() if np.isfinite(value)}
        in_final = max(values) == lengths[-1] and lengths[-1] in known
        style: dict[str, Any] = {"color": LIGHT, "lw": 1.0}
        if in_final:
            style = {"color": PALETTE[named % len(PALETTE)], "lw": 3.0 if run == chosen else 1.6, "zorder": 3}
            named += 1
        label = f"{run[0]}, {run[1]:.2g}" + (" (chosen)" if run == chosen else "") if in_final else None
        axes.plot(list(known), list(known.values()), "o-", ms=4, label=label, **style)
    axes.set_xscale("log")
    if mode == "min" and finite and min(finite) > 0:
        axes.set_yscale("log")
        # What blew up later would press the others together.
        begun = [values[lengths[0]] for values in runs.values() if np.isfinite(values.get(lengths[0], np.nan))]
        axes.set_ylim(min(finite) / 1.5, 1.5 * max(begun, default=max(finite)))
    ticks: list[int] = []
    places, nearest = np.log(lengths), np.inf
    for length, place in reversed(list(zip(lengths, places, strict=True))):
        axes.axvline(length, color=LIGHT, lw=0.6, ls=":", zorder=0)
        if nearest - place < CLOSE * np.ptp(places):  # the texts would overlap
            continue
        nearest = place
        ran = [values for values in runs.values() if length in values]
        lost = sum(not np.isfinite(values[length]) for values in ran)
        said = f"{len(ran)} runs" if len(ran) > 1 else "1 run"
        axes.annotate(
            said + (f"\n{lost} diverged" if lost else ""),
            (length, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=DARK,
        )
        ticks.append(length)
    axes.set_xticks(ticks, [f"{length:,}" for length in ticks])
    axes.minorticks_off()
    axes.set_xlabel("length of the run in steps")
    axes.set_ylabel(metric)
    legend(figure, axes, 1, reverse=True, loc="outside right upper")
    return figure
