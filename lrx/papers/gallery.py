"""The gallery page: pictures and verdicts of all reproductions in a folder, and where their numbers come from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lrx.papers.registry import available
from lrx.papers.reproduction import Paper
from lrx.records import Result, load, markdown_table

PAGE = "README.md"


class Entry(NamedTuple):
    """A result of a paper, and the folder that holds it with its pictures."""

    paper: Paper
    result: Result
    folder: Path


def entries(folder: Path) -> list[Entry]:
    """Find the results `<paper>/<scale>/result.json` of a folder, in the order of the papers' years.

    Raises:
      ValueError: if a file is not a saved result, or is one of a paper that is not known.
    """
    papers = available()
    found = []
    for path in sorted(folder.glob("*/*/result.json")):
        result = load(path)
        if result.name not in papers:
            raise ValueError(f"{path} must be a result of one of {', '.join(papers)}, got one of {result.name!r}.")
        found.append(Entry(papers[result.name], result, path.parent))
    return sorted(
        found,
        key=lambda entry: (entry.paper.year, entry.paper.name, list(entry.paper.scales).index(entry.result.scale)),
    )


def page(folder: Path, failed: dict[str, str] | None = None) -> str:
    """Write the page of a folder as Markdown.

    Args:
      folder: where the results are; pictures are named relative to it.
      failed: paper to the message of what went wrong.
    """
    found = entries(folder)
    lines = [
        "# Reproduced",
        "",
        "Verdicts are computed from the numbers in each `result.json`; ± is the deviation over seeds.",
        "",
    ]
    rows = []
    for entry in found:
        claims = entry.paper.check(entry.result).claims
        title = f"[{entry.paper.authors} {entry.paper.year}](#{_anchor(entry)})"
        rows.append((title, entry.result.scale, f"{sum(claim.holds for claim in claims)} of {len(claims)}"))
    rows += [(name, "failed", message) for name, message in (failed or {}).items()]
    lines.append(markdown_table(["paper", "scale", "claims that hold"], rows, align="llr"))
    for entry in found:
        lines += ["", *_section(entry, folder)]
    return "\n".join(lines) + "\n"


def _heading(entry: Entry) -> str:
    return f"{entry.paper.name}, {entry.result.scale}"


def _anchor(entry: Entry) -> str:
    return _heading(entry).replace(", ", "-")


def _section(entry: Entry, folder: Path) -> list[str]:
    paper, result, place = entry
    lines = [
        f"## {_heading(entry)}",
        "",
        f"{paper.authors}, *{paper.title}*, {paper.source}. {_sentence(paper.figure)}",
        "",
    ]
    for picture in sorted(place.glob("*.png")):
        lines += [f"![{paper.name}, {picture.stem}]({picture.relative_to(folder).as_posix()})", ""]
    claims, left_out = paper.check(result)
    rows = [(claim.text, claim.expected, claim.measured, "yes" if claim.holds else "**no**") for claim in claims]
    lines.append(markdown_table(["claim", "expected", "measured", "holds"], rows, align="llll"))
    if left_out:
        lines += [
            "",
            f"Not checked, since they are about the published settings: {'; '.join(c.text for c in left_out)}.",
        ]
    changed = [f"{name} = {value}" for kind in result.changes.values() for name, value in kind.items()]
    if changed:
        lines += ["", f"Changed: {'; '.join(f'`{change}`' for change in changed)}."]
    data = f", on {result.data}" if result.data else ""
    seeds = f"{len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}"
    measured = f"{result.seconds:,.0f} s on {result.device}, jax {result.versions['jax']}, {result.date[:10]}"
    command = f"`lrx reproduce {paper.name} --scale {result.scale}`"
    lines += ["", f"{command}: {paper.scales[result.scale].description}{data}; {seeds}, {measured}."]
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
