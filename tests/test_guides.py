"""Every block of Python in the README and in the guides runs and prints what it says; every link leads somewhere."""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import io
import json
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

import lrx
import lrx.tuning

ROOT = pathlib.Path(__file__).parent.parent
GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]
WITHOUT_CODE = {"i-want-to", "contributing"}
# Those that compile little; the others belong to the second tier.
CHEAP = {"language-models", "own-controller", "own-optimizer"}


@pytest.fixture(autouse=True)
def as_users_run_it(tmp_path, monkeypatch):
    """In an empty folder, without the strictness that the other tests set, and without a window."""
    monkeypatch.chdir(tmp_path)
    cifar10 = pathlib.Path(os.environ.get("LRX_DATA_DIR", "")).absolute() / "cifar-10-batches-bin"
    if cifar10.is_dir():  # otherwise the guide on data makes a stand-in
        pathlib.Path(cifar10.name).symlink_to(cifar10)
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


def marked(page: pathlib.Path) -> Any:
    return pytest.param(page, id=page.stem, marks=[] if page.stem in CHEAP else [pytest.mark.slow])


@pytest.mark.parametrize("page", [marked(page) for page in GUIDES if page.stem not in WITHOUT_CODE])
def test_a_guides_code_runs_and_prints_what_it_says(page):
    assert run(page, compare=True) > 0


def test_what_prints_something_else_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)  # 3\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:2 prints 2"):
        run(page, compare=True)


@pytest.mark.slow
def test_the_readmes_code_runs(monkeypatch):
    # The whole portfolio is a matter of half a minute, and has tests of its own.
    few = {name: lrx.tuning.PORTFOLIO[name] for name in ("schedule_free_adamw", "cocob")}
    monkeypatch.setattr(lrx, "select", functools.partial(lrx.select, portfolio=few))
    assert len(blocks(ROOT / "README.md")) >= 1
    run(ROOT / "README.md", compare=False)


def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: pathlib.Path) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of one."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_a_link_to_a_heading_that_is_not_there_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](#a-page) [b](#another) [c](none.md) [d](https://example.org)\n")
    assert broken_links(page) == ["#another", "none.md"]


def test_every_guide_is_linked_from_the_readme():
    front = (ROOT / "README.md").read_text()
    assert GUIDES
    assert [page.name for page in GUIDES if f"examples/guides/{page.name}" not in front] == []


def test_the_guides_schedules_are_those_of_hugging_face():
    # Recorded by references/make_hugging_face.py.
    recorded = json.loads((ROOT / "tests/references/hugging_face.json").read_text())
    page = ROOT / "examples/guides/migration.md"
    namespace: dict[str, Any] = {}
    for _, code in blocks(page):
        if "import lrx" in code or "by_name = " in code:
            exec(code, namespace)
    assert len(namespace["by_name"]) == 12
    assert f"transformers {recorded['transformers']}" in page.read_text()
    for name, rates in recorded["rates"].items():
        np.testing.assert_allclose(namespace["by_name"][name](jnp.arange(len(rates))), rates, atol=1e-7, err_msg=name)


def calls_in_tables() -> list[str]:
    """Return the calls of lrx in the tables of the guide on migration."""
    rows = [row.split(" | ") for row in (ROOT / "examples/guides/migration.md").read_text().splitlines()]
    calls = [call for row in rows if len(row) > 2 for call in re.findall(r"`([^`]*\([^`]*)`", row[1])]
    assert len(calls) > 8
    return calls


@pytest.mark.parametrize("call", calls_in_tables())
def test_what_a_table_says_to_write_descends(call):
    given = {"lr": 0.1, "W": 10, "T": 100, "P": 10, "n": 3, "schedule": lrx.constant(0.1), "function": lambda step: 0.1}
    tx = eval(call, {**vars(lrx), **{name: getattr(lrx, name) for name in lrx.__all__}, **given})
    params = {"a": jnp.ones(2), "b": jnp.ones(1)}
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(1.0))
    assert all(bool(jnp.all(leaf <= 0)) for leaf in jax.tree.leaves(updates))


def test_the_readme_is_a_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert not re.search(r"^\|", text, re.MULTILINE)  # tables of numbers lie beside their results


def test_the_files_that_contributors_are_sent_to_exist():
    text = (ROOT / "examples/guides/contributing.md").read_text()
    places = set(re.findall(r"`((?:lrx|tests|examples)/[^` ]*)`", text))
    assert len(places) > 20
    assert [place for place in places if not list(ROOT.glob(re.sub(r"<\w+>", "*", place)))] == []
