"""The tables, the picture and the page of `lrx.benchmarks.federated`, from its result alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.figures import GREY, PALETTE, STROKES, VERMILION, panels
from lrx.records import Result, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEM = "federated"  # of the files that are written
CONSTANT, ADAM = "constant", "fed_adam"
NEAR, FAR = 1.25, 1.5  # the aims: times the rounds of the best constant rate, from a near start and from a far one
FAR_START = 1e-3


def best_constant(result: Result, data: str) -> tuple[float, float]:
    """Return the constant rate that needs the fewest rounds, on average over seeds, and these rounds."""
    means = result.array(data, CONSTANT, "rounds").mean(axis=1)
    place = int(np.argmin(means))
    return float(result.curves[data][CONSTANT]["rates"][place]), float(means[place])


def followers(result: Result, data: str) -> list[str]:
    """Return the methods that start from multiples of the best constant rate."""
    return [method for method in result.curves[data] if method not in (CONSTANT, ADAM)]


def worst_ratio(result: Result, data: str, method: str) -> float:
    """Return the largest ratio of a method's rounds to the best constant rate's, over starts within a factor of 10."""
    means = result.array(data, method, "rounds").mean(axis=1)
    near = [mean for mean, start in zip(means, result.settings["starts"], strict=True) if start > FAR_START]
    return float(max(near) / best_constant(result, data)[1])


def climb(result: Result, data: str, method: str) -> float:
    """Return the rounds, on average over seeds, until a method's rate is half the best constant rate from far below.

    Infinite if it is not in a run, with some seed.
    """
    rate, _ = best_constant(result, data)
    rates = result.array(data, method, "rate")[result.settings["starts"].index(FAR_START)]
    there = rates >= rate / 2
    return float(np.mean(there.argmax(axis=-1))) if there.any(axis=-1).all() else float("inf")


def far_ratio(result: Result, data: str, method: str) -> float:
    """Return the ratio of the rounds after the climb, from far below, to those of the best constant rate."""
    rounds = result.array(data, method, "rounds")[result.settings["starts"].index(FAR_START)].mean()
    return float((rounds - climb(result, data, method)) / best_constant(result, data)[1])


def summary(result: Result) -> str:
    """Return a table in Markdown: for every method and data set, the ratios that the aims are about."""
    rows = []
    for method in followers(result, next(iter(result.curves))):
        cells = []
        for data in result.curves:
            near, rounds = worst_ratio(result, data, method), climb(result, data, method)
            if np.isfinite(rounds):
                far = far_ratio(result, data, method)
                shown = f"{far:.2f} after {rounds:.0f}{'' if far > FAR else ' *'}"
            else:
                shown = "does not climb"
            cells += [f"{near:.2f}{'' if near > NEAR else ' *'}", shown]
        rows.append([f"`{method}`", *cells])
    adam = []
    for data in result.curves:
        ratio = result.array(data, ADAM, "rounds").mean() / best_constant(result, data)[1]
        adam += [f"{ratio:.2f} (rate {result.curves[data][ADAM]['rates'][0]:g})", ""]
    heads = [head for data in result.curves for head in (f"{data}, from 0.1 to 10", f"{data}, from 0.001")]
    return markdown_table(["method", *heads], [*rows, [f"`{ADAM}`", *adam]])


def rounds_table(result: Result, data: str) -> str:
    """Return a data set's rounds to the target as a table in Markdown, mean and deviation over seeds."""
    rows = []
    for method in followers(result, data):
        cells = [_cell(values, result.settings["rounds"]) for values in result.array(data, method, "rounds")]
        rows.append([f"`{method}`", *cells])
    return markdown_table(["method", *(f"from {start:g}" for start in result.settings["starts"])], rows)


def grid_table(result: Result, data: str) -> str:
    """Return the rounds to the target of constant rates as a table in Markdown."""
    measured = result.array(data, CONSTANT, "rounds")
    cells = [_cell(values, result.settings["rounds"]) for values in measured]
    heads = [f"{rate:.3g}" for rate in result.curves[data][CONSTANT]["rates"]]
    return markdown_table(["rate", *heads], [["rounds", *cells]])


def _cell(values: np.ndarray, num_rounds: int) -> str:
    missed = int(np.sum(values > num_rounds))
    if missed == len(values):
        return "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}" + (f" ({missed} missed)" if missed else "")


def plot(result: Result) -> Figure:
    """Draw rounds to the target over the starting rate, and below the rates of runs that start far too low."""
    columns = len(result.curves)
    figure, axes = panels(columns, 2, size=(1.5 + 4.5 * columns, 8.4))
    for column, data in enumerate(result.curves):
        best, fewest = best_constant(result, data)
        upper, lower = axes[column], axes[columns + column]
        rates = np.asarray(result.curves[data][CONSTANT]["rates"]) / best
        upper.plot(rates, result.array(data, CONSTANT, "rounds").mean(axis=1), color=GREY, lw=4, alpha=0.6)
        upper.plot([], [], color=GREY, lw=4, alpha=0.6, label="constant")
        adam = result.array(data, ADAM, "rounds").mean()
        upper.axhline(
            adam, color="black", lw=1, ls=":", label=f"{ADAM}, rate {result.curves[data][ADAM]['rates'][0]:g}"
        )
        upper.axhspan(fewest, NEAR * fewest, color=VERMILION, alpha=0.12, lw=0)
        rounds = np.arange(1, result.settings["rounds"] + 1)
        for place, method in enumerate(followers(result, data)):
            look: dict[str, Any] = {
                "color": PALETTE[place % len(PALETTE)],
                "ls": STROKES[place % len(STROKES)],
                "lw": 1.5,
            }
            taken = result.array(data, method, "rounds")
            spread = np.std(taken, axis=1)
            upper.errorbar(
                result.settings["starts"], taken.mean(axis=1), spread, label=method, marker="o", ms=4, capsize=2, **look
            )
            start = result.settings["starts"].index(FAR_START)
            lower.plot(rounds, np.median(result.array(data, method, "rate")[start], axis=0) / best, **look)
        upper.set_xscale("log")
        upper.set_ylim(0, 1.05 * (result.settings["rounds"] + 1))
        upper.set_xlabel("rate at the start, over the best constant one")
        target = result.settings["workloads"][data]["target"]
        upper.set_title(f"{data}, to an accuracy of {100 * target:g} %", loc="left", fontsize=10)
        lower.axhline(1, color=GREY, lw=4, alpha=0.6)
        lower.set_yscale("log")
        lower.set_ylim(3e-4, 1e2)
        lower.set_xlabel("round")
    axes[0].set_ylabel("rounds to the target")
    axes[columns].set_ylabel("rate of the server, over the best constant one")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 + columns, frameon=False, fontsize=9
    )
    return figure


def page(result: Result, heading: str) -> str:
    """Return the tables of a result as a page in Markdown, which says what was measured, when and on what."""
    settings = result.settings
    lines = [f"# {heading}", ""]
    lines += [
        f"{settings['clients']} clients with Dirichlet({settings['concentration']:g}) shares of each class all take "
        f"part in each of {settings['rounds']} rounds. A run counts the rounds until the test accuracy, averaged over "
        f"{settings['smoothed']} rounds, reaches the target; a run that does not is counted as "
        f"{settings['rounds'] + 1}. Rates of the server are multiples of the constant rate of the grid that needs the "
        "fewest rounds with the same seeds.",
        "",
        result.origin(),
        "",
        f"![Rounds to the target over the starting rate, and rates over rounds]({STEM}.png)",
        "",
        "The table shows rounds divided by those of the best constant rate: the worst of the starts from 0.1, 1 and 10 "
        "times it, and the start from 0.001 of it, without the rounds of the climb until the rate is half the best "
        f"one. A star marks what is within the aims, {NEAR} and {FAR}.",
        "",
        summary(result),
    ]
    for data in result.curves:
        each = settings["workloads"][data]
        best, rounds = best_constant(result, data)
        images = "all images" if each["num_train"] is None else f"{each['num_train']:,} images"
        lines += [
            *("", f"## {data}", ""),
            f"A perceptron of width {each['width']}, {images}; {each['local_steps']} local steps of "
            f"{each['batch_size']} at rate {each['client_rate']:g}; target {100 * each['target']:g} %. The best "
            f"constant rate is {best:.3g}, with {rounds:.1f} rounds.",
            *("", "Rounds, mean and deviation over seeds; - if no seed reaches the target:", ""),
            rounds_table(result, data),
            *("", "Constant rates:", "", grid_table(result, data)),
        ]
    lines += ["", "## Methods", ""]
    lines += [f"- `{method}`: `{text}`" for method, text in settings["methods"].items()]
    return "\n".join(lines) + "\n"
