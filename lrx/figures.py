"""Figures: the style that all of them share, and the parts that several of them need.

Matplotlib is imported when the first figure is drawn. The look is in `lrx.mplstyle`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lrx.records import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # in annotations, so that they can be imported from here without matplotlib

STYLE = Path(__file__).with_name("lrx.mplstyle")
# Okabe and Ito's colors, which people with color blindness tell apart; three more where six are too few.
BLUE, VERMILION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, "#8A6D00", "#000000", "#7F7F7F")
DARK, GREY, LIGHT = "#20262B", "#56606A", "#8A97A3"  # of what is not compared by its color
STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))  # which tell lines apart without color
WIDE = 20  # positive values that span at least this ratio are drawn on a logarithmic axis


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Use lrx's style for figures that are created in this context.

    Raises:
      ImportError: if matplotlib is not installed.

    Example:
      >>> import matplotlib.pyplot as plt, lrx.figures
      >>> with lrx.figures.style():
      ...     figure, axes = plt.subplots()
      >>> bool(axes.spines["top"].get_visible())
      False
      >>> plt.close(figure)
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "lrx[papers]".') from error
    with matplotlib.rc_context(fname=STYLE):
        yield


def empty(width: float, height: float) -> Figure:
    """Return a figure without axes, `width` by `height` inches.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    with style():
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height))


def panels(
    number: int = 1, rows: int = 1, *, size: tuple[float, float] | None = None, grid: bool = True, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure, and its panels row by row.

    Args:
      number: number of panels in each row.
      rows: number of rows of panels.
      size: width and height in inches; by default it follows from the number of panels.
      grid: whether to draw a grid.
      **options: options of `Figure.subplots`, such as `sharex` or `height_ratios`.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    usual = (5.0 * number if number > 1 else 7.0, 4.4 if rows == 1 else 3.6 * rows)
    figure = empty(*(usual if size is None else size))
    with style():
        axes = list(np.ravel(figure.subplots(rows, number, squeeze=False, **options)))
        for panel in axes:
            panel.grid(grid)
    return figure, axes


def band(
    axes: Axes, x: Any, by_seed: Any, label: str | None, *, middle: Callable[..., Any] = np.median, **look: Any
) -> None:
    """Draw the middle over seeds as a line, and the range of all seeds as a band.

    Args:
      axes: to draw in.
      x: (points,).
      by_seed: (seeds, points), None or NaN where there is no value.
      label: label of the line.
      middle: the statistic over seeds; the mean where an expectation is drawn beside it.
      **look: options of `Axes.plot`.
    """
    values = np.asarray(by_seed, np.float64)
    (line,) = axes.plot(x, middle(values, axis=0), label=label, **{"lw": 1.6, **look})
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.18, lw=0)


def legend(
    figure: Figure, axes: Axes, columns: int = 2, *, loc: Any = "outside upper left", reverse: bool = False
) -> None:
    """Put the legend of a panel outside of the panels; a label shared by several lines is listed once.

    Args:
      figure: that the panel belongs to.
      axes: the panel; nothing is drawn if none of its lines has a label.
      columns: number of columns of the legend.
      loc: location, as for `Figure.legend`.
      reverse: whether to list the last line first.
    """
    handles, labels = axes.get_legend_handles_labels()
    order = slice(None, None, -1 if reverse else 1)
    each = dict(zip(labels[order], handles[order], strict=True))
    if each:
        with style():
            figure.legend(list(each.values()), list(each), loc=loc, ncols=columns)


def is_wide(values: Any) -> bool:
    """Check whether values are all positive and span at least a ratio of 20; what is not finite is left out."""
    values = np.asarray(values, np.float64)
    known = values[np.isfinite(values)]
    return bool(len(known) and known.min() > 0 and known.max() / known.min() >= WIDE)


def scale_axis(axes: Axes, which: Literal["x", "y"], values: Any) -> None:
    """Set a logarithmic scale on an axis if the values that it shows are `is_wide`."""
    if is_wide(values):
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format that the file's name ends in, whole or not at all."""
    kind = Path(path).suffix[1:].lower()
    return write_atomically(path, lambda file: figure.savefig(file, format=kind))
