"""The gallery page: pictures and verdicts of all reproductions in a folder, and where their numbers come from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lrx.papers.registry import available
from lrx.papers.reproduction import Claim, Paper
from lrx.records import Result, load, markdown_table

PAGE = "README.md"
SHOWN = 3  # claims that do not hold, in the table at the top; the others are counted


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
    by_paper: dict[str, list[Entry]] = {}
    for entry in found:
        by_paper.setdefault(entry.paper.name, []).append(entry)
    by_paper = {name: _headline_last(scales) for name, scales in by_paper.items()}
    largest = [claim.holds for scales in by_paper.values() for claim in _claims(scales[-1])]
    papers = f"{len(by_paper)} paper{'' if len(by_paper) == 1 else 's'}"
    lines = [
        "# Reproduced",
        "",
        f"Of {len(largest)} claims of {papers}, {sum(largest)} hold here, at the largest scale that was "
        "run of each. Verdicts are computed from the numbers in each `result.json`; the sections below show each claim "
        "with its measured value, where ± is the deviation over seeds.",
        "",
    ]
    rows = [_glance(scales, folder) for scales in by_paper.values()]
    rows += [("", name, "failed", message, "", "") for name, message in (failed or {}).items()]
    heads = ["picture", "paper", "scale", "claims that hold", "at other scales", "claims that do not"]
    lines.append(markdown_table(heads, rows, align="lllrrl"))
    for entry in found:
        lines += ["", *_section(entry, folder)]
    return "\n".join(lines) + "\n"


def _headline_last(scales: list[Entry]) -> list[Entry]:
    """Return the results of a paper, at the end that for the top of the page: of the largest scale, without changes."""

    def is_the_papers(entry: Entry) -> bool:
        return not entry.result.changes and entry.result.data == entry.paper.scales[entry.result.scale].data

    return sorted(scales, key=is_the_papers)  # stable, so that scales keep their order


def _glance(scales: list[Entry], folder: Path) -> tuple[str, ...]:
    """Return the row of a paper at the top: a picture of its largest scale, how many claims hold, and which do not."""
    entry, others = scales[-1], scales[:-1]
    paper, result, place = entry
    picture = min(place.glob("*.png"), default=None)
    shown = f"[![{_heading(entry)}]({picture.relative_to(folder).as_posix()})](#{_anchor(entry)})" if picture else ""
    failing = [claim.text for claim in _claims(entry) if not claim.holds]
    more = [f"{len(failing) - SHOWN} more"] if len(failing) > SHOWN else []
    title = f"[{paper.authors} {paper.year}](#{_anchor(entry)}): *{paper.title}*"
    elsewhere = [f"[{other.result.scale}](#{_anchor(other)}) {_count(other)}" for other in others]
    return shown, title, result.scale, _count(entry), ", ".join(elsewhere), "; ".join(failing[:SHOWN] + more)


def _claims(entry: Entry) -> list[Claim]:
    return entry.paper.check(entry.result).claims


def _count(entry: Entry) -> str:
    claims = _claims(entry)
    return f"{sum(claim.holds for claim in claims)} of {len(claims)}"


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
