"""The tables and the picture of `lrx bench diagnose`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx.benchmarks.diagnose_kinds import FOUND_ON, MEASURED_ON
from lrx.figures import panels, save
from lrx.records import Result, markdown_table, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEALTHY, HEALTHY_HINTS = "(healthy)", "(healthy, hints too)"  # rows of healthy runs
NOTHING = "(nothing)"
WITHIN = 0.05  # of the healthy run's final loss


def firm(row: dict[str, Any]) -> list[str]:
    """Return the codes that a diagnosis names above a hint."""
    return [code for code, level in row["named"] if level != "hint"]


def halves(result: Result) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the kinds on which thresholds were found, and of those on which they are measured."""
    rows = result.curves["rows"]
    return {
        "found": [row for row in rows if row["kind"] in FOUND_ON],
        "measured": [row for row in rows if row["kind"] not in FOUND_ON],
    }


def is_named(row: dict[str, Any]) -> bool:
    """Return whether all planted codes are named, on any level."""
    return set(row["planted"]) <= {code for code, _ in row["named"]}


def is_first(row: dict[str, Any]) -> bool:
    """Return whether a planted code is named first."""
    return bool(row["named"]) and row["named"][0][0] in row["planted"]


def is_repaired(row: dict[str, Any]) -> bool:
    """Return whether the remedy brings the final loss within 5 % of the healthy run's."""
    return row["repair"] is not None and row["repair"] <= WITHIN


def _share(flags: list[bool]) -> str:
    return f"{sum(flags)} of {len(flags)} ({sum(flags) / len(flags):.1%})" if flags else "none"


def summary(result: Result) -> str:
    """Return a table in Markdown: how often faults are named, first and repaired, and healthy runs clear."""
    rows = []
    for half, members in halves(result).items():
        planted = [row for row in members if row["planted"]]
        sound = [row for row in members if not row["planted"]]
        if not members:
            continue
        tried = [row for row in planted if row["repair"] is not None]
        cells = [
            _share([is_named(row) for row in planted]),
            _share([set(row["planted"]) <= set(firm(row)) for row in planted]),
            _share([is_first(row) for row in planted]),
            _share([bool(firm(row)) for row in sound]),
            _share([bool(row["named"]) for row in sound]),
            _share([is_repaired(row) for row in tried]),
            f"{max(row['cost'] for row in members):.2f}",
            f"{np.median([row['seconds'] for row in members]):.2f}, {max(row['seconds'] for row in members):.1f}",
        ]
        rows.append([half, *cells])
    rows.append(["aim", "90%", "", "75%", "at most 5%", "", "80%", "0.30", ""])
    heads = ["kinds", "named", "above a hint", "named first", "healthy runs with a finding above a hint",
             "with a finding or a hint", "repaired", "cost in runs, at most",
             "seconds, median and most"]  # fmt: skip
    return markdown_table(heads, rows)


def code_table(rows: list[dict[str, Any]]) -> str:
    """Return a table in Markdown: each code's cases, how often it is named, first and repaired, and what else is."""
    lines = []
    for code in dict.fromkeys(code for row in rows for code in row["planted"]):
        own = [row for row in rows if row["planted"] == [code]]
        if not own:
            continue
        tried = [row for row in own if row["repair"] is not None]
        others: dict[str, int] = {}
        for row in own:
            if not is_first(row):
                first = row["named"][0][0] if row["named"] else NOTHING
                others[first] = others.get(first, 0) + 1
        severities = [row["severity"] for row in own]
        cells = [
            str(len(own)),
            f"{min(severities):.2g} to {max(severities):.2g}",
            str(sum(map(is_named, own))),
            str(sum(map(is_first, own))),
            f"{sum(map(is_repaired, tried))} of {len(tried)}" if tried else "words",
            ", ".join(f"{name} {count}" for name, count in others.items()) or "-",
        ]
        lines.append([code, *cells])
    pairs = [row for row in rows if len(row["planted"]) > 1]
    if pairs:
        cells = [str(len(pairs)), "", str(sum(map(is_named, pairs))), str(sum(map(is_first, pairs))), "", "-"]
        lines.append(["two faults, both named", *cells])
    heads = ["planted", "cases", "severities", "named", "first", "repaired", "first instead"]
    return markdown_table(heads, lines, align="lrrrrrl")


def matrix(rows: list[dict[str, Any]]) -> tuple[list[str], list[str], np.ndarray]:
    """Return the planted codes, the named codes, and the share of cases in which each is named.

    Names count on any level, but for one of the two rows of healthy runs, which leaves hints out.
    """
    codes = dict.fromkeys(row["planted"][0] for row in rows if len(row["planted"]) == 1)
    planted = [*codes, HEALTHY_HINTS, HEALTHY]
    found = dict.fromkeys(code for row in rows for code, _ in row["named"])
    named = [code for code in planted if code in found] + [code for code in found if code not in planted]
    counts = np.zeros((len(planted), len(named)))
    for place, code in enumerate(planted):
        own = [row for row in rows if row["planted"] == ([] if code in (HEALTHY, HEALTHY_HINTS) else [code])]
        for row in own:
            for each, level in row["named"]:
                if code != HEALTHY or level != "hint":
                    counts[place, named.index(each)] += 1 / len(own)
    return planted, named, counts


def plot(result: Result) -> Figure:
    """Draw the matrix of planted and named codes, for each half of the kinds."""
    parts = {half: rows for half, rows in halves(result).items() if rows}
    figure, axes = panels(len(parts), size=(8.6 * len(parts), 8.4), grid=False)
    titles = {"found": "kinds on which thresholds were found", "measured": "kinds that were not used"}
    for panel, (half, rows) in zip(axes, parts.items(), strict=True):
        planted, named, shares = matrix(rows)
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                panel.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                           color="white" if share > 0.55 else "black")  # fmt: skip
        panel.set_xticks(range(len(named)), named, rotation=90, fontsize=8)
        panel.set_yticks(range(len(planted)), planted, fontsize=8)
        panel.set(xlabel="named", ylabel="planted", title=f"% of cases, {titles[half]}")
    return figure


def page(result: Result) -> str:
    """Return the tables as a page in Markdown."""
    from lrx.benchmarks import diagnose

    first, _, rest = (diagnose.__doc__ or "").partition("\n\n")
    lines = [
        f"# {first}",
        "",
        *rest.partition("\n\n")[2].strip().splitlines(),
        "",
        result.origin(),
        "",
        summary(result),
    ]
    lines += ["", "![Planted and named codes](diagnose.png)"]
    titles = {"found": "Kinds on which the thresholds were found", "measured": "Kinds that were not used"}
    for half, rows in halves(result).items():
        if rows:
            kinds = list(dict.fromkeys(row["kind"] for row in rows))
            missing = [kind for kind in (FOUND_ON if half == "found" else MEASURED_ON) if kind not in kinds]
            left = f" Not measured here: {', '.join(missing)}." if missing else ""
            lines += ["", f"## {titles[half]}", "", f"{', '.join(kinds)}.{left}", "", code_table(rows)]
            false = [row for row in rows if not row["planted"] and firm(row)]
            if false:
                number = sum(not row["planted"] for row in rows)
                lines += ["", f"{len(false)} of {number} healthy runs have a finding above a hint: {_listed(false)}."]
    return "\n".join(lines) + "\n"


def _listed(false: list[dict[str, Any]]) -> str:
    """Return what is said of healthy runs, with the number of them for each kind and family."""
    said = Counter(f"{', '.join(firm(row))} on {row['kind']} ({row['family']})" for row in false)
    return "; ".join(f"{text}, {number} times" if number > 1 else text for text, number in said.most_common())


def write(result: Result, folder: Path) -> list[Path]:
    """Write a result, its picture and its page in the folder."""
    for row in result.curves["rows"]:
        for name in ("harm", "repair"):
            if row[name] is not None and not math.isfinite(row[name]):
                row[name] = 1e9  # diverged; JSON has no infinity
    paths = [result.save(folder / "diagnose.json"), save(plot(result), folder / "diagnose.png")]
    return [*paths, write_atomically(folder / "README.md", page(result))]
