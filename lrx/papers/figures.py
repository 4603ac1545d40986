"""What the papers' figures share: the colour of an arm, a curve with its band over seeds, and the axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    # Schedules, where they are the arms.
    "constant": {"color": "#56606A", "ls": "-"},
    "linear": {"color": "#0072B2", "ls": "-"},
    "cosine": {"color": "#E69F00", "ls": "--"},
    "step": {"color": "#009E73", "ls": "-."},
    "step, restarted": {"color": "#D55E00", "ls": "-"},
    "1 / t": {"color": "#56B4E9", "ls": ":"},
    "1 / sqrt t": {"color": "#CC79A7", "ls": (0, (5, 1, 1, 1, 1, 1))},
    "refined": {"color": "#D55E00", "ls": (0, (4, 1.5))},
    # Optimizers.
    "SGD": {"color": "#56606A", "ls": "-"},
    "SGD, 1 / sqrt t": {"color": "#CC79A7", "ls": "-."},
    "SGD-Nesterov": {"color": "#D55E00", "ls": (0, (4, 1.5))},
    "AdaGrad": {"color": "#E69F00", "ls": "--"},
    "RMSProp": {"color": "#CC79A7", "ls": "-."},
    "Adam": {"color": "#009E73", "ls": "-"},
    "COCOB": {"color": "#0072B2", "ls": "-"},
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


def panels(number: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side, `number` in each row."""
    from matplotlib.figure import Figure

    size = (5.0 * number if number > 1 else 7.0, 4.4 if rows == 1 else 3.6 * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, number, **options)).ravel())
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, lw=0.6)
    return figure, axes


def band(
    axes: Axes,
    x: Any,
    by_seed: Any,
    label: str,
    place: int = 0,
    middle: Callable[..., Any] = np.median,
    **options: Any,
) -> None:
    """Draw the median over seeds, and the range of all of them; `by_seed` is (seeds, points) with None for no value.

    Where an expectation is drawn beside it, the middle is the mean.
    """
    values = np.asarray(by_seed, np.float64)
    look = style(label, place) | {"lw": 1.6} | options
    axes.plot(x, middle(values, axis=0), label=label, **look)
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.18, lw=0)


def sensitivity(axes: Axes, arms: Mapping[str, Any], highest: float = 3.0) -> None:
    """Draw what arms of `lrx.papers.arms.compare` reach over their rates; off the panel where a run diverged.

    The panel ends `highest` times the best above.
    """
    lowest = min(np.nanmin(np.asarray(arm["final_loss"], np.float64).mean(axis=1)) for arm in arms.values())
    for place, (name, arm) in enumerate(arms.items()):
        losses = np.nan_to_num(np.asarray(arm["final_loss"], np.float64), nan=1e6 * lowest)
        band(axes, arm["rates"], losses.T, name, place, marker="o", ms=3)
    axes.set_xscale("log")
    axes.set_ylim(0, highest * lowest)
    axes.set_xlabel("learning rate")


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend above the panels, off the data."""
    handles, labels = axes.get_legend_handles_labels()
    each = dict(zip(labels, handles, strict=True))  # an arm that is drawn several times, once
    figure.legend(list(each.values()), list(each), loc="outside upper left", frameon=False, fontsize=9, ncols=columns)
