"""What the tests of papers share: smallest runs, saved results, and the claims that wrong numbers fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lrx import papers
from lrx.records import Result


class Tiny(NamedTuple):
    """The smallest run of a paper, which its test file names TINY: a size in place of that of its demo scale."""

    size: Any
    data: str = ""
    constants: dict[str, Any] = {}  # noqa: RUF012  # of the paper's module, in place of its own; "steps.LAST" of one in it
    holds: bool = False  # whether all claims hold at this size already
    check: Callable[[Result], None] = lambda result: None  # what else holds of the result
    kept: bool = False  # whether the runs are kept in a folder, where the same call finds them again


GALLERY = Path(__file__).parents[1] / "examples/gallery"


def published(name: str, scale: str = "cpu") -> Result:
    """Return the result in the gallery; without one, skip the test, because a paper may land before it is measured."""
    path = GALLERY / name / scale / "result.json"
    if not path.exists():
        pytest.skip(f"{name} has no result of the scale {scale} yet")
    return papers.load_result(path)


def failing(result: Result, change: Callable[[dict[str, Any]], None] = lambda curves: None) -> list[int]:
    """The places of the claims that fail once the curves are changed; without a change, as they are."""
    curves = json.loads(json.dumps(result.curves))
    change(curves)
    claims = papers.load(result.name).claims(Result(**{**vars(result), "curves": curves}))
    return [place for place, claim in enumerate(claims) if not claim.holds]
