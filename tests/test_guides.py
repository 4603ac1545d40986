"""Every block of Python in the README and in the guides runs, and prints what it says that it prints."""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import io
import pathlib
import re
from typing import Any

import jax
import matplotlib as mpl
import pytest

import lrx
import lrx.tuning

ROOT = pathlib.Path(__file__).parent.parent
GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))


@pytest.fixture(autouse=True)
def as_users_run_it(tmp_path, monkeypatch):
    """In an empty folder, without the strictness that the other tests set, and without a window."""
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    with jax.numpy_rank_promotion("allow"):
        yield


def blocks(page: pathlib.Path) -> list[tuple[int, str]]:
    """The page's blocks of Python, each with the number of its first line."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]


def says(statement: ast.stmt, lines: list[str]) -> str | None:
    """What the comment behind a `print` says that is printed."""
    called = statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    if not (isinstance(called, ast.Name) and called.id == "print"):
        return None
    _, _, comment = lines[statement.end_lineno - 1][statement.end_col_offset :].partition("#")
    return comment.strip() or None


def run(page: pathlib.Path, *, compare: bool) -> int:
    """Run the blocks of a page in one namespace, statement by statement, and return how many outputs were compared."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    compared = 0
    for first, code in blocks(page):
        lines = code.splitlines()
        for statement in ast.parse(code).body:
            expected = says(statement, lines) if compare else None
            ast.increment_lineno(statement, first - 1)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(ast.Module([statement], []), str(page), "exec"), namespace)
            if expected is not None:
                got, flags = " ".join(printed.getvalue().split()), doctest.ELLIPSIS
                where = f"{page.name}:{statement.lineno}"
                assert doctest.OutputChecker().check_output(expected, got, flags), f"{where} prints {got}"
                compared += 1
    return compared


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guides_code_runs_and_prints_what_it_says(page):
    assert run(page, compare=True) > 0


@pytest.mark.slow
def test_the_readmes_code_runs(monkeypatch):
    # The whole portfolio is a matter of half a minute, and has tests of its own.
    few = {name: lrx.tuning.PORTFOLIO[name] for name in ("schedule_free_adamw", "cocob")}
    monkeypatch.setattr(lrx, "select", functools.partial(lrx.select, portfolio=few))
    assert len(blocks(ROOT / "README.md")) >= 3
    run(ROOT / "README.md", compare=False)


def test_guides_are_linked_from_the_readme():
    front = (ROOT / "README.md").read_text()
    assert GUIDES
    assert [page.name for page in GUIDES if f"examples/guides/{page.name}" not in front] == []
