"""Figures: matplotlib, imported when the first one is drawn, and the look that curves of lrx share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def empty(width: float, height: float, dpi: float = 150) -> Figure:
    """Return a figure without axes.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "lrx[papers]".') from error
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def blank(width: float = 8.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    figure = empty(width, height)
    axes = figure.subplots()
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
