"""The tables and the picture of the benchmark of `select`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lrx.benchmarks.selection.suites import SUITES
from lrx.figures import PALETTE, legend, panels
from lrx.records import Result, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 1.0  # regret that a mean counts for a worse choice: as bad as no training
DOUBTS = (0.05, 0.1, 0.2, 0.4)  # bounds between which probabilities are counted together
BEST_DEFAULT = "best default"  # of all methods at their default rate, the one with the least mean regret
DRAWN = (
    "select",
    "optuna, portfolio",
    "optuna, adamw with linear decay",
    "rule of thumb",
    "range test, adamw one-cycle",
    "random search",
    BEST_DEFAULT,
)


class Statistics(NamedTuple):
    """How a strategy does with one budget: statistics of single choices, but for `tasks`."""

    median: float
    mean: float  # each choice at most `MOST`
    ninetieth: float  # percentile
    worst: float
    choices: float  # share within 1 % of the oracle, or within a standard error
    tasks: float  # share of which the median choice is


def regrets_of(result: Result, strategy: str, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Return regret and whether it is near the oracle, (tasks, seeds) each, at one of the budgets."""
    rows = [measured["strategies"][strategy] for measured in result.curves.values()]
    picks = [[each[min(place, len(each) - 1)] for each in row] for row in rows]
    regret = np.array([[math.inf if pick["regret"] is None else pick["regret"] for pick in row] for row in picks])
    return regret, np.array([[pick["near"] for pick in row] for row in picks], bool)


def summarize(regret: np.ndarray, near: np.ndarray) -> Statistics:
    """Return the statistics of choices, from (tasks, seeds) regrets."""
    flat = np.sort(regret.ravel())
    return Statistics(
        float(np.median(flat)),
        float(np.minimum(flat, MOST).mean()),
        float(flat[math.ceil(0.9 * (len(flat) - 1))]),
        float(flat[-1]),
        float(near.mean()),
        float((near.mean(axis=1) > 0.5).mean()),
    )


def statistics(result: Result) -> dict[str, list[Statistics]]:
    """Return the statistics of each strategy, for each budget; the best default is added to the strategies."""
    budgets = result.settings["budgets"]
    strategies = list(next(iter(result.curves.values()))["strategies"])
    found = {
        name: [summarize(*regrets_of(result, name, place)) for place in range(len(budgets))] for name in strategies
    }
    defaults = [name for name in strategies if name.startswith("default: ")]
    if defaults:
        found[BEST_DEFAULT] = found[min(defaults, key=lambda name: found[name][0].mean)]
    return found


def percent(value: float) -> str:
    """Return a regret in percent, in three digits; a dash if it is not known."""
    if math.isnan(value):
        return "-"
    if not math.isfinite(value):
        return "diverged"
    scaled = 100 * value
    return f"{scaled:.2f} %" if abs(scaled) < 10 else f"{scaled:.0f} %"


def summary(result: Result, budget: float) -> str:
    """Return a table in Markdown: a line for each strategy, with one budget."""
    place = result.settings["budgets"].index(budget)
    rows = []
    for name, each in statistics(result).items():
        if name != BEST_DEFAULT:
            found = each[place]
            shares = [f"{100 * share:.0f} %" for share in (found.tasks, found.choices)]
            rows.append([name, *shares, *map(percent, found[:4])])
    heads = ["strategy", "tasks near", "choices near", "median", "mean", "90th percentile", "worst"]
    return markdown_table(heads, rows)


def curve_table(result: Result, strategies: Sequence[str] = DRAWN) -> str:
    """Return a table in Markdown: median, 90th percentile and worst regret of strategies, for each budget."""
    budgets = result.settings["budgets"]
    found = statistics(result)
    rows = []
    for name in strategies:
        if name in found:
            for field in ("median", "ninetieth", "worst"):
                values = [percent(getattr(each, field)) for each in found[name]]
                rows.append([name if field == "median" else "", field.replace("ninetieth", "90th percentile"), *values])
            shares = [f"{100 * each.choices:.0f} %" for each in found[name]]
            rows.append(["", "choices near", *shares])
    return markdown_table(
        ["strategy", "regret", *(f"{budget:g}" for budget in budgets)], rows, "ll" + "r" * len(budgets)
    )


def task_table(result: Result, strategy: str, budget: float) -> str:
    """Return a table in Markdown, task by task: the oracle, and what a strategy chose and lost, with each seed."""
    place = result.settings["budgets"].index(budget)
    rows = []
    for name, measured in result.curves.items():
        best = measured["oracle"]
        picks = [each[min(place, len(each) - 1)] for each in measured["strategies"][strategy]]
        found = [
            percent(math.inf if pick["regret"] is None else pick["regret"]) + ("" if pick["near"] else " *")
            for pick in picks
        ]
        errors = [percent(math.nan if pick["error"] is None else pick["error"]) for pick in picks]
        shown = [f"{pick['method']} at {pick['rate']:.2g}" for pick in picks]
        if len({*zip(shown, found, errors, strict=True)}) == 1:
            shown, found, errors = shown[:1], found[:1], errors[:1]
        rows.append(
            [
                measured["kind"],
                name,
                f"{best['method']} at {best['rate']:.2g}",
                f"{best['value']:.4g}",
                "; ".join(shown),
                ", ".join(found),
                ", ".join(errors),
            ]
        )
    heads = ["kind", "task", "oracle", "its value", "chosen", "regret", "standard error"]
    return markdown_table(heads, sorted(rows), "lllrlrr")


def doubt_table(result: Result, strategy: str) -> str:
    """Return a table in Markdown: how often another method was better by 1 %, by how probable a strategy called it."""
    picks = [pick for measured in result.curves.values() for row in measured["strategies"][strategy] for pick in row]
    said, missed = (np.array([pick[key] for pick in picks if "doubt" in pick], float) for key in ("doubt", "missed"))
    place = np.digitize(said, DOUBTS)
    rows = []
    for number, (low, high) in enumerate(itertools.pairwise([0.0, *DOUBTS, 1.0])):
        own = place == number
        if own.any():
            shares = [f"{100 * values[own].mean():.0f} %" for values in (said, missed)]
            rows.append([f"{100 * low:.0f} to {100 * high:.0f} %", str(int(own.sum())), *shares])
    return markdown_table(["probability", "choices", "its mean", "happened"], rows)


def kind_table(result: Result, strategies: Sequence[str], budget: float) -> str:
    """Return a table in Markdown: the mean regret of strategies by kind of task, with one budget."""
    place = result.settings["budgets"].index(budget)
    kinds = [measured["kind"] for measured in result.curves.values()]
    rows = []
    for kind in dict.fromkeys(kinds):
        own = np.array([each == kind for each in kinds])
        cells = []
        for strategy in strategies:
            regret, _ = regrets_of(result, strategy, place)
            cells.append(percent(float(np.minimum(regret[own], MOST).mean())))
        rows.append([kind, str(int(own.sum())), *cells])
    return markdown_table(["kind", "tasks", *strategies], sorted(rows))


def plot(result: Result) -> Figure:
    """Draw the statistics of the strategies over the budget, a panel for each statistic."""
    budgets = result.settings["budgets"]
    found = {name: each for name, each in statistics(result).items() if name in DRAWN}
    figure, axes = panels(2, 2, size=(10, 7))
    titles = {"median": "median", "ninetieth": "90th percentile", "worst": "worst", "choices": "near the oracle"}
    for panel, (field, title) in zip(axes, titles.items(), strict=True):
        for number, name in enumerate(name for name in DRAWN if name in found):
            values = np.array([getattr(each, field) for each in found[name]])
            shown = 100 * (values if field == "choices" else np.clip(values, 1e-4, 10.0))
            fixed = name == BEST_DEFAULT
            panel.plot(
                budgets,
                shown,
                "--" if fixed else "o-",
                color=PALETTE[number % len(PALETTE)],
                lw=2.2 if name == "select" else 1.3,
                ms=4,
                label=name,
            )
        panel.set_xscale("log")
        panel.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        panel.minorticks_off()
        if field != "choices":
            panel.set_yscale("log")
            panel.set_ylabel("regret (%)")
        else:
            panel.set_ylabel("choices (%)")
        panel.set_title(title)
        panel.set_xlabel("budget (full runs)")
    legend(figure, axes[0], 4, loc="outside upper center")
    return figure


def source_table(result: Result) -> str:
    """Return a table in Markdown: where the mean regret of `select` at 3 full runs comes from, by kind."""
    names = ["total", "optimizer", "schedule", "rate", "oracle's method"]
    rows, every = [], []
    for kind in dict.fromkeys(measured["kind"] for measured in result.curves.values()):
        found = [
            [source[name] for name in names]
            for measured in result.curves.values()
            if measured["kind"] == kind
            for source in measured["sources"]
        ]
        rows.append([kind, *map(percent, np.mean(found, axis=0).tolist())])
        every.append(np.mean(found, axis=0))
    rows = [*sorted(rows), ["mean of the kinds", *map(percent, np.mean(every, axis=0).tolist())]]
    return markdown_table(["kind", *names[:-1], "oracle's method at the chosen rate"], rows)


def section(result: Result, title: str, picture: str) -> list[str]:
    """Return the tables of a result, as lines of Markdown."""
    count, kinds = len(result.curves), len({measured["kind"] for measured in result.curves.values()})
    lines = [f"## {title}", "", f"{count} tasks of {kinds} kinds. {result.origin()}", ""]
    lines += [f"![Regret of strategies over the budget]({picture})", "", "With 3 full runs:", "", summary(result, 3.0)]
    lines += ["", "Over the budget, in full runs:", "", curve_table(result)]
    by_kind = [name for name in DRAWN if name in statistics(result) and name != BEST_DEFAULT]
    lines += ["", "Mean regret by kind, with 3 full runs:", "", kind_table(result, by_kind, 3.0)]
    lines += ["", "Task by task, with 3 full runs and three seeds; a star marks what is not near:", ""]
    lines += [
        task_table(result, "select", 3.0),
        "",
        "Where the regret comes from, by the means of all seeds: the best of",
    ]
    lines[-1] += " the chosen optimizer, what the schedule adds to it, and what the rate adds:"
    lines += ["", source_table(result), ""]
    lines += [
        "How probable `select` calls it that another method that it has tried is better by 1 %, and how often one"
    ]
    lines[-1] += " is, by the means of all seeds, with all budgets:"
    return [*lines, "", doubt_table(result, "select"), ""]


def page(results: Mapping[str, Result], introduction: str) -> str:
    """Return the tables of results as a page in Markdown.

    Args:
      results: by suite.
      introduction: what was measured, in Markdown.
    """
    lines = [introduction, ""]
    for suite, result in results.items():
        lines += section(result, SUITES[suite].title, f"{suite}.png")
    return "\n".join(lines)
