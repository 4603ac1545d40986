"""What the papers' figures share: the colour of an arm, a curve with its band over seeds, and the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which all eyes tell apart, with a stroke for black and white: the same arm looks the same in
# every figure.
STYLES: dict[str, dict[str, Any]] = {
    "gradient descent": {"color": "#56606A", "ls": "-"},
    "heavy ball": {"color": "#0072B2", "ls": "-"},
    "Nesterov": {"color": "#D55E00", "ls": (0, (4, 1.5))},
}
OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
REFERENCE: dict[str, Any] = {
    "color": "black",
    "lw": 1.0,
    "ls": (0, (2, 2)),
    "zorder": 1,
}  # theory, and published values


def style(arm: str, place: int) -> dict[str, Any]:
    """Give colour and stroke of an arm: its own, or those of its place among others."""
    return STYLES.get(arm, {"color": OTHERS[place % len(OTHERS)], "ls": STROKES[place % len(STROKES)]})


def panels(number: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * number if number > 1 else 7.0, 4.4), dpi=110, layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, number, **options)))
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, lw=0.6)
    return figure, axes


def band(axes: Axes, x: Any, by_seed: Any, label: str, place: int = 0, **options: Any) -> None:
    """Draw the median over seeds, and the range of all of them; `by_seed` is (seeds, points) with None for no value."""
    values = np.asarray(by_seed, np.float64)
    look = style(label, place) | {"lw": 1.6} | options
    axes.plot(x, np.median(values, axis=0), label=label, **look)
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.18, lw=0)


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend above the panels, off the data."""
    handles, labels = axes.get_legend_handles_labels()
    each = dict(zip(labels, handles, strict=True))  # an arm that is drawn several times, once
    figure.legend(list(each.values()), list(each), loc="outside upper left", frameon=False, fontsize=9, ncols=columns)
