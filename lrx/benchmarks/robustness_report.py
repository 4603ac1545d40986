"""The tables, the picture and the page of `lrx.benchmarks.robustness`, from its result alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.figures import DARK, LIGHT, panels
from lrx.records import Result, markdown_table

if TYPE_CHECKING:
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


# A group has its colors, dark to light, and, for black and white, its own stroke and markers.
@dataclasses.dataclass(frozen=True)
class Style:
    """How the lines of a group of methods are drawn."""

    colors: tuple[str, ...]
    markers: str
    filled: bool = True
    dashed: bool = False
    width: float = 1.3

    def line(self, index: int) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for a method of the group."""
        color = self.colors[index % len(self.colors)]
        return {
            "color": color,
            "marker": self.markers[index % len(self.markers)],
            "markerfacecolor": color if self.filled else "white",
            "markersize": 4.5 * self.width**0.5,
            "linestyle": (0, (4.0, 1.5)) if self.dashed else "-",
            "linewidth": self.width,
        }


STYLES = (
    Style(("#6E7378", "#6E7378", "#9AA0A6", "#9AA0A6"), "osD^", width=0.7),
    Style(("#0B2E6B", "#14509E", "#1F77C4", "#3F9BE0", "#0E7C86", "#22B0BC"), "osD^vP"),
    Style(("#7A2E00", "#B34700", "#E06A0A", "#F2972E", "#A31515", "#D9534F"), "osD^vP", filled=False),
    Style(("#114D14", "#2E7D32", "#55A630", "#8DB600"), "X*ph", dashed=True),
    Style(("#4A126B", "#8E24AA", "#C2185B", "#E573B5"), "<>d8", filled=False, dashed=True),
    Style((DARK, LIGHT), "12348", dashed=True, width=0.7),  # of methods that are not in GROUPS
)
TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def readable(ticks: Iterable[float], high: float) -> list[float]:
    """Return the ticks below `high` that do not crowd on the axis of `plot`."""
    chosen: list[float] = []
    for tick in ticks:
        if tick < high and (not chosen or np.log((1 - chosen[-1]) / (1 - tick)) > 0.035 * -np.log(1 - high)):
            chosen.append(tick)
    return chosen


def plot(result: Result, groups: Mapping[str, Iterable[str]]) -> Figure:
    """Draw accuracy over the rate, a panel for each data set and a line for each method.

    The axis is the logarithm of the error, which separates good methods.

    Args:
      result: the result of the benchmark.
      groups: name of a group to its methods, which share a style; methods of the result that are in none are drawn as
        "others", methods that were not measured are left out.
    """
    rates, columns = np.asarray(result.settings["rates"]), len(result.curves)
    figure, axes = panels(columns, 2, size=(15.0, 8.2), height_ratios=(3.4, 1))
    from matplotlib.legend import Legend
    from matplotlib.ticker import FixedLocator, NullLocator

    grid = axes[columns].get_gridspec()
    assert grid is not None
    for panel in axes[columns:]:
        panel.remove()
    legend = figure.add_subplot(grid[1, :])
    legend.set_axis_off()
    grouped = {group: list(methods) for group, methods in groups.items()}
    known = {method for methods in grouped.values() for method in methods}
    others = [method for method in next(iter(result.curves.values())) if method not in known]
    grouped |= {"others": others} if others else {}
    lines: dict[str, Any] = {}
    decades: dict[str, list[str]] = {}
    for column, (data, curves) in enumerate(result.curves.items()):
        panel = axes[column]
        panel.axhline(CHANCE, color="black", linestyle=":", linewidth=0.8)
        highest = CHANCE
        for order, (methods, style) in enumerate(zip(grouped.values(), STYLES, strict=False)):
            for index, method in enumerate(methods):
                if method not in curves:
                    continue
                accuracies = result.array(data, method, "accuracy").mean(axis=0)
                finite = np.all(curves[method]["finite"], axis=0)
                (line,) = panel.plot(rates, accuracies, zorder=2 + order / 10, **style.line(index))
                panel.plot(rates[~finite], accuracies[~finite], "x", color="black", markersize=7, zorder=3)
                lines.setdefault(method, line)
                decades.setdefault(method, []).append(f"{decades_near_best(accuracies, rates):.3g}")
                highest = max(highest, accuracies.max())
        panel.set_xscale("log")
        panel.set_yscale("function", functions=(lambda y: -np.log(np.maximum(1 - y, 1e-9)), lambda y: 1 - np.exp(-y)))
        low, high = CHANCE - 0.06, 1 - 0.9 * (1 - highest)
        panel.set_ylim(low, high)
        ticks = readable(TICKS, high)
        panel.yaxis.set_major_locator(FixedLocator(ticks))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_yticklabels([f"{100 * tick:.3g}" for tick in ticks])
        panel.set_xticks(10.0 ** np.arange(-6, 2))
        settings = result.settings["workloads"][data]
        panel.set_title(f"{data}, {settings['epochs']} epochs", loc="left", fontsize=11)
        panel.set_xlabel("rate at the start")
        if column == 0:
            panel.set_ylabel("test accuracy (%), by the logarithm of the error")
    for number, (group, methods) in enumerate(grouped.items()):
        shown = [method for method in methods if method in lines]
        if shown:
            labels = [f"{method} ({', '.join(decades[method])})" for method in shown]
            part = Legend(
                legend,
                [lines[method] for method in shown],
                labels,
                title=group,
                loc="upper left",
                bbox_to_anchor=(number / len(grouped), 1.0),
                frameon=False,
                fontsize=9,
                title_fontproperties={"weight": "bold", "size": 9},
                alignment="left",
                handlelength=3.5,
            )
            legend.add_artist(part)
    note = (
        "In brackets: decades of rates from which the method comes within 2 points of its own best, on each data set."
        "   ×: not finite in the end, counted as guessing (dotted)."
    )
    legend.text(0.0, 0.0, note, fontsize=9, transform=legend.transAxes)
    return figure


def page(result: Result, heading: str) -> str:
    """Return the tables of a result as a page in Markdown, which says what was measured, when and on what."""
    methods, rates = len(next(iter(result.curves.values()))), result.settings["rates"]
    lines = [f"# {heading}", ""]
    lines += [
        f"{methods} methods, each started from {len(rates)} rates between {min(rates):g} and {max(rates):g}. The table "
        "shows the best test accuracy (%) over these rates and, in brackets, the decades of rates that come within 2 "
        "points of it. A run that was not finite (†) counts as guessing. Controllers multiply the rate of SGD with "
        "momentum, `cumulative_path` that of plain SGD; `greedy(smoothing=0.9)` and `pid(significance=0.0)` follow "
        "every loss here. For methods that estimate a distance, the rate multiplies the estimate; `cocob` has no rate.",
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
