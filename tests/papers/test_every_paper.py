"""Every paper runs for a few steps, and its figures and verdicts follow from the saved numbers alone.

A paper is a file or a folder in lrx/papers; its smallest run is TINY in its own test file.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest
from reproductions import Tiny

import lrx
from lrx import papers
from lrx.papers.registry import NAME
from lrx.papers.reproduction import Job


def tiny_run_of(name: str) -> Tiny:
    """The smallest run of a paper, from its test file."""
    path = Path(__file__).with_name(f"test_{name}.py")
    assert path.is_file(), f"{name} has no tests/papers/{path.name}: add one with its smallest run, TINY = Tiny(size)"
    spec = importlib.util.spec_from_file_location(f"tiny_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(getattr(module, "TINY", None), Tiny), f"tests/papers/{path.name} has no TINY = Tiny(size)"
    return module.TINY


def test_a_file_is_mostly_the_paper() -> None:
    """What papers share lies in rooms of their own, which may be a little longer; networks lie in lrx/workloads."""
    folder = Path(papers.__file__).parent
    long = []
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(folder)
        is_of_a_paper = NAME.fullmatch(place.parts[0].removesuffix(".py"))
        lines = len(path.read_text().splitlines())
        if lines > (250 if is_of_a_paper else 300):
            long.append(f"{place} has {lines} lines")
    assert long == []


@pytest.mark.slow
@pytest.mark.parametrize("name", papers.names())
def test_a_few_steps_leave_a_result_that_draws_its_figures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper, tiny = papers.load(name), tiny_run_of(name)
    if tiny.data in ("mnist", "cifar10") and not os.environ.get("LRX_DATA_DIR"):
        pytest.skip("LRX_DATA_DIR names no folder with the real data")
    module = __import__(f"lrx.papers.{name}", fromlist=[name])
    monkeypatch.setitem(module.SCALES, "demo", dataclasses.replace(module.SCALES["demo"], size=tiny.size))
    for constant, value in tiny.constants.items():
        monkeypatch.setattr(f"{module.__name__}.{constant}", value)
    # Each arm would be probed for descent, in a program of its own; demo runs do, and their results are saved.
    monkeypatch.setattr("lrx.training.checks.require_descent", lambda *_: None)
    folders: list[Path] = []

    def folder(job: Job, name: str) -> Path | None:
        folders.append(folder_of(dataclasses.replace(job, checkpoints=tmp_path), name))
        return folder_of(job, name)

    folder_of = Job.folder
    monkeypatch.setattr(Job, "folder", folder)
    own = {"mine": lrx.sgd(lrx.linear_decay(0.01, 100))} if paper.arms else {}
    given = {"data": tiny.data or None, "seeds": (0, 1), "arms": own}
    given["checkpoints"] = tmp_path / "checkpoints" if tiny.kept else None
    run = paper.run("demo", **given)
    assert len(set(folders)) == len(folders)  # each run has a folder of its own
    result = papers.load_result(run.save(tmp_path / "result.json"))
    assert result.seeds == [0, 1]
    if tiny.kept:
        again = papers.load_result(paper.run("demo", **given).save(tmp_path / "again.json"))
        assert again.curves == result.curves
    for place in paper.arms:
        found = result.curves
        for key in place:
            found = next(iter(found.values())) if key == "*" else found[key]
        assert "mine" in found
    tiny.check(result)
    claims = paper.claims(result)
    assert claims
    if tiny.holds:
        assert all(claim.holds for claim in claims), [claim for claim in claims if not claim.holds]
    for stem, figure in paper.draw(result).items():
        figure.savefig(tmp_path / f"{stem}.png")
        assert 10_000 < (tmp_path / f"{stem}.png").stat().st_size < 150_000
        for axes in figure.axes:
            if axes.get_label() == "<colorbar>":
                continue
            assert any(other.get_xlabel() for other in axes.get_shared_x_axes().get_siblings(axes))
