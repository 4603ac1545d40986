"""The tables, the picture and the page of `lrx.benchmarks.robustness`, from its result alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.figures import PALETTE, STROKES, panels
from lrx.records import Result, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "robustness"  # of the files that are written
CHANCE = 0.1  # all three data sets have ten classes, of about the same size
NEAR = 0.02  # of the best accuracy


def decades_near_best(accuracies: np.ndarray, rates: np.ndarray) -> float:
    """Return the decades of rates within 2 points of the best accuracy; each rate counts for one step of the grid."""
    step = np.log10(rates[-1] / rates[0]) / (len(rates) - 1)
    # Exactly 2 points below counts, whatever the rounding.
    return float(step * np.sum(accuracies >= accuracies.max() - NEAR - 1e-6))


def accuracy_table(result: Result, data: str) -> str:
    """Return a data set's accuracies in percent as a table in Markdown."""
    rates = np.asarray(result.settings["rates"])
    rows = []
    for method, measured in result.curves[data].items():
        accuracies = result.array(data, method, "accuracy").mean(axis=0)
        finite = np.all(measured["finite"], axis=0)
        cells = [f"{100 * accuracy:.1f}{'' if ok else '†'}" for accuracy, ok in zip(accuracies, finite, strict=True)]
        rows.append([f"`{method}`", *cells, f"{decades_near_best(accuracies, rates):.3g}"])
    return markdown_table(["method", *(f"{rate:.3g}" for rate in rates), "decades within 2 points"], rows)


def loss_table(result: Result, data: str) -> str:
    """Return a data set's final losses on training images as a table in Markdown."""
    rows = []
    for method, measured in result.curves[data].items():
        finite = np.all(measured["finite"], axis=0)
        losses = np.where(finite, result.array(data, method, "train_loss"), np.nan).mean(axis=0)
        rows.append([f"`{method}`", *("†" if np.isnan(loss) else f"{loss:.2g}" for loss in losses)])
    return markdown_table(["method", *(f"{rate:.3g}" for rate in result.settings["rates"])], rows)


def summary(result: Result) -> str:
    """Return a table in Markdown: each method's best accuracy in percent, and the decades of rates near it."""
    rates = np.asarray(result.settings["rates"])
    rows = []
    for method in next(iter(result.curves.values())):
        cells = []
        for data in result.curves:
            accuracies = result.array(data, method, "accuracy").mean(axis=0)
            cells.append(f"{100 * accuracies.max():.1f} ({decades_near_best(accuracies, rates):.3g})")
        rows.append([f"`{method}`", *cells])
    return markdown_table(["method", *(f"{data}, best (decades)" for data in result.curves)], rows)


# Within a panel, color, stroke and marker each tell the methods apart.
LOOKS: tuple[dict[str, Any], ...] = tuple(
    {"color": color, "linestyle": stroke, "marker": marker, "markersize": 5.0, "linewidth": 1.7}
    for color, stroke, marker in zip(PALETTE, STROKES, "osD^vP", strict=False)
)
CONTEXT: dict[str, Any] = {"color": "#D0D5DA", "linewidth": 0.6}  # of the methods of the other groups
TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def readable(ticks: Iterable[float], high: float) -> list[float]:
    """Return the ticks below `high` that do not crowd on the axis of `plot`."""
    chosen: list[float] = []
    for tick in ticks:
        if tick < high and (not chosen or np.log((1 - chosen[-1]) / (1 - tick)) > 0.06 * -np.log(1 - high)):
            chosen.append(tick)
    return chosen


def plot(result: Result, groups: Mapping[str, Iterable[str]]) -> Figure:
    """Draw accuracy over the rate: a row of panels for each data set, a column for each group of methods.

    In each panel the methods of the other groups are pale lines. The axis is the logarithm of the error, which
    separates good methods.

    Args:
      result: the result of the benchmark.
      groups: name of a group to its methods; methods of the result that are in none are drawn as "others", methods that
        were not measured are left out.
    """
    measured = list(next(iter(result.curves.values())))
    grouped = {group: [method for method in methods if method in measured] for group, methods in groups.items()}
    known = {method for methods in grouped.values() for method in methods}
    grouped |= {"others": [method for method in measured if method not in known]}
    grouped = {group: methods for group, methods in grouped.items() if methods}
    rows, columns = len(result.curves), len(grouped)
    size = (2.9 * columns, 1.9 + 2.7 * rows)
    figure, axes = panels(columns, rows + 1, size=size, height_ratios=(0.62, *[1] * rows))
    for column, (group, methods) in enumerate(grouped.items()):
        for row, data in enumerate(result.curves, start=1):
            _panel(axes[row * columns + column], result, data, methods, first=column == 0, last=row == rows)
        _legend(axes[column], group, methods, result)
    note = (
        "In brackets: decades of rates from which the method comes within 2 points of its own best, on each data set. "
        "Pale: all other methods. ×: not finite in the end, counted as guessing (dotted)."
    )
    figure.suptitle(note, x=0.01, ha="left", fontsize=10)
    return figure


def _panel(panel: Axes, result: Result, data: str, methods: Iterable[str], *, first: bool, last: bool) -> None:
    """Draw the methods of a group on a data set; `first` and `last` panels have the labels of the axes."""
    from matplotlib.ticker import FixedLocator, NullLocator

    rates, curves = np.asarray(result.settings["rates"]), result.curves[data]
    means = {method: result.array(data, method, "accuracy").mean(axis=0) for method in curves}
    panel.axhline(CHANCE, color="black", linestyle=":", linewidth=0.8)
    for accuracies in means.values():
        panel.plot(rates, accuracies, **CONTEXT)
    for method, look in zip(methods, LOOKS, strict=False):
        if method not in curves:
            continue
        finite = np.all(curves[method]["finite"], axis=0)
        panel.plot(rates, means[method], zorder=3, **look)
        panel.plot(rates[~finite], means[method][~finite], "x", color="black", markersize=6, zorder=4)
    panel.set_xscale("log")
    panel.set_yscale("function", functions=(lambda y: -np.log(np.maximum(1 - y, 1e-9)), lambda y: 1 - np.exp(-y)))
    high = 1 - 0.9 * (1 - max(accuracies.max() for accuracies in means.values()))
    panel.set_ylim(CHANCE - 0.06, high)
    ticks = readable(TICKS, high)
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_yticklabels([f"{100 * tick:.3g}" for tick in ticks] if first else [])
    panel.set_xticks(10.0 ** np.arange(-6, 2, 2))
    if last:
        panel.set_xlabel("rate at the start")
    else:
        panel.set_xticklabels([])
    if first:
        panel.set_ylabel(f"{data}, {result.settings['workloads'][data]['epochs']} epochs\ntest accuracy (%)")


def _legend(panel: Axes, group: str, methods: Iterable[str], result: Result) -> None:
    """List the methods of a group above its panels, with the decades of rates near their best on each data set."""
    from matplotlib.lines import Line2D

    rates, lines = np.asarray(result.settings["rates"]), []
    for method, look in zip(methods, LOOKS, strict=False):
        accuracies = [result.array(data, method, "accuracy").mean(axis=0) for data in result.curves]
        decades = ", ".join(f"{decades_near_best(each, rates):.3g}" for each in accuracies)
        lines.append(Line2D([], [], label=f"{method} ({decades})", **look))
    panel.set_axis_off()
    legend = panel.legend(
        handles=lines,
        title=group,
        loc="lower left",
        bbox_to_anchor=(-0.08, -0.05),
        borderaxespad=0.0,
        frameon=False,
        fontsize=10,
        title_fontproperties={"weight": "bold", "size": 11},
        alignment="left",
        handlelength=3.0,
    )
    legend.set_in_layout(False)  # long names make no panel narrower


def page(result: Result, heading: str) -> str:
    """Return the tables of a result as a page in Markdown, which says what was measured, when and on what."""
    methods, rates = len(next(iter(result.curves.values()))), result.settings["rates"]
    lines = [f"# {heading}", ""]
    lines += [
        f"{methods} methods, each started from {len(rates)} rates between {min(rates):g} and {max(rates):g}. The table "
        "shows the best test accuracy (%) over these rates and, in brackets, how many of the rates, a decade apart, "
        "come within 2 points of it. A run that was not finite (†) counts as guessing. Controllers multiply the rate "
        "of SGD with momentum, `cumulative_path` that of plain SGD; `greedy(smoothing=0.9)` and "
        "`pid(significance=0.0)` follow every loss here. For methods that estimate a distance, the rate multiplies the "
        "estimate; `cocob` has no rate.",
        "",
        result.origin(),
        "",
        f"![Accuracy over the starting rate, for every method]({STEM}.png)",
        "",
        summary(result),
    ]
    for data in result.curves:
        settings = result.settings["workloads"][data]
        layers = "-".join(map(str, settings["widths"]))
        lines += [
            *("", f"## {data}", ""),
            f"A perceptron with hidden layers of {layers} units; {settings['epochs']} epochs, {settings['steps']:,} "
            f"steps of {settings['batch_size']} images.",
            *("", "Test accuracy (%) by the rate at the start:", "", accuracy_table(result, data)),
            *("", "Loss on training images at the end, by the rate at the start:", "", loss_table(result, data)),
        ]
    return "\n".join(lines) + "\n"
