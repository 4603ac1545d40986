"""What the tests of papers share: smallest runs, saved results, and the claims that wrong numbers fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lrx import papers
from lrx.records import Result


class Tiny(NamedTuple):
    """The smallest run of a paper, which its test file names TINY: a size in place of that of its demo scale."""

    size: Any
    data: str = ""
    constants: dict[str, Any] = {}  # noqa: RUF012  # of the paper's module, in place of its own
    holds: bool = False  # whether all claims hold at this size already


GALLERY = Path(__file__).parents[1] / "examples/gallery"


def published(name: str, scale: str = "cpu") -> Result:
    """The result in the gallery."""
    return papers.load_result(GALLERY / name / scale / "result.json")


def failing(result: Result, change: Callable[[dict[str, Any]], None] = lambda curves: None) -> list[int]:
    """The places of the claims that fail once the curves are changed; without a change, as they are."""
    curves = json.loads(json.dumps(result.curves))
    change(curves)
    claims = papers.load(result.name).claims(Result(**{**vars(result), "curves": curves}))
    return [place for place, claim in enumerate(claims) if not claim.holds]
