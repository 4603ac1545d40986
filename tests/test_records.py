"""Records: written whole or not at all, read back as they were, and tables that Markdown shows."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
import pytest

from lrx.records import (
    Result,
    describe_command,
    describe_versions,
    load,
    markdown_table,
    round_to_six_digits,
    write_atomically,
)

GALLERY = Path(__file__).parents[1] / "examples/gallery"


def result(curves: dict[str, Any]) -> Result:
    return Result("toy", "demo", "digits", [0, 1], {"rates": [0.1]}, curves, 1.0)


@pytest.mark.parametrize("content", ["ü\n", "ü\n".encode(), lambda file: file.write("ü\n".encode())])
def test_content_is_written_to_a_new_folder_and_replaces_what_is_there(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a" / "b.txt"
    for _ in range(2):
        assert write_atomically(path, content) == path
        assert path.read_text(encoding="utf-8") == "ü\n"
        assert [each.name for each in path.parent.iterdir()] == ["b.txt"]


def test_a_write_that_fails_leaves_the_earlier_file_alone(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a.txt", "before")

    def broken(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, broken)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    path = write_atomically(tmp_path / "a", "")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_result_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = result({"sgd": {"loss": np.float32([0.5, np.inf]), "steps": jnp.arange(2)}})
    found = load(saved.save(tmp_path / "result.json"))
    assert found.curves == {"sgd": {"loss": [0.5, None], "steps": [0, 1]}}
    assert (found.name, found.versions, found.date) == ("toy", saved.versions, saved.date)


@pytest.mark.parametrize("text", ["{", "[1]", '{"name": "toy"}', '{"paper": "toy"}'])
def test_a_file_that_is_not_a_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"path must be a result\.json that"):
        load(tmp_path / "result.json")


@pytest.mark.parametrize("path", sorted(GALLERY.rglob("*.json")), ids=lambda path: path.relative_to(GALLERY).as_posix())
def test_every_record_in_the_gallery_loads_and_names_what_was_measured(path: Path) -> None:
    assert path.relative_to(GALLERY).parts[0] == load(path).name


def test_an_array_has_nan_for_null_and_keeps_its_shape() -> None:
    found = result({"sgd": {"loss": [[1.0, None], [0.5, 0.25]], "steps": 3}})
    np.testing.assert_array_equal(found.array("sgd", "loss"), [[1.0, np.nan], [0.5, 0.25]])
    assert found.array("sgd", "steps").shape == ()
    assert found.array("sgd", "loss").dtype == np.float64


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (("adam",), KeyError, "no curves 'adam'; there: sgd"),
        (("sgd", "los"), KeyError, "no curves 'sgd/los'; there: loss"),
        (("sgd", "loss", "deep"), KeyError, "no curves 'sgd/loss/deep'; there: numbers"),
        (("sgd",), ValueError, "curves 'sgd' must be a rectangular array"),
        (("sgd", "loss"), ValueError, "curves 'sgd/loss' must be a rectangular array"),
    ],
)
def test_an_array_that_is_not_there_is_refused_by_its_path(
    keys: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        result({"sgd": {"loss": [[1.0], [1.0, 2.0]]}}).array(*keys)


def test_a_table_aligns_its_columns_and_escapes_its_cells() -> None:
    table = markdown_table(["a", "b", "c"], [["x | y", "two\nlines", "3"]], align="lrl")
    assert table.splitlines() == ["| a | b | c |", "|---|---:|---|", "| x \\| y | two lines | 3 |"]
    assert markdown_table(["a", "b"], []).splitlines()[1] == "|---|---:|"


@pytest.mark.parametrize(("rows", "align", "name"), [([["1"]], None, "rows"), ([], "l", "align")])
def test_a_table_with_a_missing_cell_is_refused(rows: Any, align: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must have 2 entries, one for each of heads"):
        markdown_table(["a", "b"], rows, align)


def test_rounding_keeps_six_digits_whatever_the_size() -> None:
    assert round_to_six_digits([1 / 3, 1e-9 / 3, np.inf]).tolist() == [0.333333, 3.33333e-10, np.inf]


def test_the_command_can_be_run_again_by_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "--tx", "sgd(0.1, momentum=0.9)"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/lrx", *arguments])
    assert shlex.split(describe_command()) == ["lrx", *arguments]


def test_the_versions_name_python_and_what_is_computed_with() -> None:
    assert {"python", "lrx", "jax", "jaxlib", "optax", "flax", "numpy"} == set(describe_versions())
    assert json.dumps(describe_versions())


@pytest.mark.slow
def test_a_killed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a.txt", "before")
    code = (
        "import os, sys\nfrom lrx.records import write_atomically\n"
        "def kill(file):\n    file.write(b'half'); file.flush(); os._exit(9)\n"
        "write_atomically(sys.argv[1], kill)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=120).returncode == 9
    assert path.read_text() == "before"


def test_permissions_and_symbolic_links_are_kept(tmp_path):
    file, link = tmp_path / "file.txt", tmp_path / "link.txt"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to(file)
    write_atomically(link, "after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert file.stat().st_mode & 0o777 == 0o640
