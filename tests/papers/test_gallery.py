"""The page of what was reproduced, and the command that makes it of all papers."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lrx import cli, papers
from lrx.papers import gallery
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result

GALLERY = Path(__file__).parents[2] / "examples/gallery"


def made_up(name: str, year: int, measure: Any = None) -> Paper:
    """A paper of nobody, whose figure is empty."""
    from matplotlib.figure import Figure

    def measured(size: Any, job: Job) -> Any:
        del size, job
        return {}, {"value": year / 1000}

    def claims(result: Result) -> list[Claim]:
        value = result.curves["value"]
        return [Claim("a | b", "1", f"{value:g}", value > 1), Claim("never", "0", "1", False)]

    scales = {
        "demo": Scale("two steps", "a second", 2, "digits", (0, 1)),
        "cpu": Scale("three steps", "a second", 3, "digits", (0, 1)),
    }
    return Paper(
        name,
        f"On {name}",
        "A. Nobody",
        year,
        "somewhere",
        "figure 1",
        scales,
        measure or measured,
        claims,
        lambda result: {"figure": Figure(figsize=(1, 1))},
    )


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Three papers in an empty folder; the second one fails."""

    def broken(size: int, job: Job) -> Any:
        raise RuntimeError(f"size {size} is broken")

    found = [made_up("late_2001", 2001), made_up("broken_1990", 1990, broken), made_up("early_1980", 1980)]
    monkeypatch.setattr(papers, "available", lambda: {paper.name: paper for paper in found})
    monkeypatch.setattr(gallery, "available", papers.available)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_papers_go_on_past_one_that_fails_and_leave_a_page(three: Path) -> None:
    done = CliRunner().invoke(cli.app, ["reproduce", "--all", "--out", "found"])
    assert done.exit_code == 1
    page = (three / "found/README.md").read_text()
    rows = re.findall(r"^\| (.*) \|$", page, re.MULTILINE)
    picture = "[![early_1980, demo](early_1980/demo/figure.png)](#early_1980-demo)"
    assert f"{picture} | [A. Nobody 1980](#early_1980-demo): *On early_1980* | demo | 1 of 2 |  | never" in rows
    assert " | broken_1990 | failed | RuntimeError: size 2 is broken |  | " in rows
    assert "Of 4 claims of 2 papers, 2 hold here, at the largest scale that was run of each." in page
    assert page.index("## early_1980, demo") < page.index("## late_2001, demo")
    assert r"a \| b | 1 | 1.98 | yes" in rows
    assert "never | 0 | 1 | **no**" in rows
    assert "![early_1980, figure](early_1980/demo/figure.png)" in page
    assert (three / "found/early_1980/demo/figure.png").stat().st_size > 100
    assert "`lrx reproduce late_2001 --scale demo`: two steps, on digits; 2 seeds, 0 s on " in page
    assert not list(three.rglob("*.part"))


def test_the_page_is_made_again_from_the_saved_results(three: Path) -> None:
    CliRunner().invoke(cli.app, ["reproduce", "--all", "--scale", "cpu", "--out", "found"])
    before = (three / "found/README.md").read_text()
    (three / "found/early_1980/cpu/figure.png").unlink()
    done = CliRunner().invoke(cli.app, ["reproduce", "--all", "--from-results", "found"])
    assert done.exit_code == 0
    after = (three / "found/README.md").read_text()
    assert after == before.replace("|  | broken_1990 | failed | RuntimeError: size 3 is broken |  |  |\n", "")
    assert (three / "found/early_1980/cpu/figure.png").exists()


def test_a_paper_has_one_row_at_the_top_that_of_its_largest_scale(three: Path) -> None:
    for scale in ("demo", "cpu"):
        papers.available()["early_1980"].run(scale).save(three / f"found/early_1980/{scale}/result.json")
    page = gallery.page(three / "found")
    row = (
        " | [A. Nobody 1980](#early_1980-cpu): *On early_1980* | cpu | 1 of 2 | [demo](#early_1980-demo) 1 of 2 | never"
    )
    assert f"| {row} |" in page
    assert page.count("*On early_1980* |") == 1
    assert "Of 2 claims of 1 paper, 1 hold here" in page
    assert page.index("## early_1980, demo") < page.index("## early_1980, cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either PAPER or --all must be given, got neither"),
        (["smith_2017", "--all"], "either PAPER or --all must be given, got both"),
        (["--all", "--data", "mnist"], "--data belongs to one paper, got --data mnist with --all"),
        (["--all", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["smith_2017", "--scale", "huge"], "--scale must be one of demo, cpu, paper, got 'huge'"),
        (["--all", "--scale", "huge"], "--scale must be one of demo, cpu, got 'huge'"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(three: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, ["reproduce", *arguments])
    assert message in f"{done.exception} {done.output}"
    assert not list(three.iterdir())


def test_ctrl_c_ends_all_of_them(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(size: int, job: Job) -> Any:
        raise KeyboardInterrupt

    found = papers.available() | {"broken_1990": made_up("broken_1990", 1990, interrupted)}
    monkeypatch.setattr(papers, "available", lambda: found)
    done = CliRunner().invoke(cli.app, ["reproduce", "--all", "--out", "found"])
    assert done.exit_code == 130
    assert not (three / "found/early_1980").exists()  # it comes after the one that was interrupted


def test_a_result_of_a_paper_that_is_not_there_is_named(three: Path) -> None:
    made_up("gone_1970", 1970).run("demo").save(three / "found/gone_1970/demo/result.json")
    with pytest.raises(
        ValueError, match=r"result.json must be a result of one of late_2001, .*, got one of 'gone_1970'"
    ):
        gallery.page(three / "found")


def test_an_interrupted_reproduction_counts_the_seconds_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times, checkpoints = iter([100.0, 110.0, 200.0, 204.0]), tmp_path / "checkpoints"
    monkeypatch.setattr("lrx.records.time.perf_counter", lambda: next(times))

    def measured(size: Any, job: Job) -> Any:
        if not checkpoints.exists():
            checkpoints.mkdir()
            raise KeyboardInterrupt
        return {}, {"value": 2.0}

    paper = made_up("long_2000", 2000, measured)
    with pytest.raises(KeyboardInterrupt):
        paper.run("demo", checkpoints=checkpoints)
    assert paper.run("demo", checkpoints=checkpoints).seconds == 14.0


def test_the_gallery_shows_what_its_results_say() -> None:
    assert (GALLERY / gallery.PAGE).read_text() == gallery.page(GALLERY)
    for entry in gallery.entries(GALLERY):
        pictures = list(entry.folder.glob("*.png"))
        assert pictures
        assert all(picture.stat().st_size < 150_000 for picture in pictures)


class NotAsked(dict):
    """Sizes that a verdict or a picture must not access."""

    def __missing__(self, key: object) -> None:
        raise AssertionError(f"the code's sizes were asked for {key!r}")


def without_sizes(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module(f"lrx.papers.{paper.name}"), "SCALES", NotAsked())


def test_verdicts_depend_on_the_result_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in gallery.entries(GALLERY):
        before = entry.paper.claims(entry.result)
        without_sizes(entry.paper, monkeypatch)
        assert entry.paper.claims(entry.result) == before


@pytest.mark.slow
def test_pictures_depend_on_the_result_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in gallery.entries(GALLERY):
        without_sizes(entry.paper, monkeypatch)
        assert entry.paper.plot(entry.result)
