"""Records of measurements: numbers with the versions, device and settings that produced them, written atomically."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

_PACKAGES = ("lrx", "jax", "jaxlib", "optax", "flax", "numpy")


def write_atomically(path: str | os.PathLike[str], content: str | bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file whole or not at all.

    The content goes to a temporary file in the same folder, which then replaces `path`. An interrupted write leaves
    the earlier file, if there was one, and no temporary file. Permissions of an earlier file are kept, and of a
    symbolic link the file that it points to is replaced.

    Args:
      path: path of the file; its folder is created if it does not exist.
      content: text (written as UTF-8), bytes, or a function that writes to the binary file that it is given.

    Returns:
      The path, with a leading `~` expanded.

    Example:
      >>> import pathlib, tempfile
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> write_atomically(folder / "runs" / "notes.txt", "rate 0.1").read_text()
      'rate 0.1'
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], align: str | None = None) -> str:
    """Return a table in Markdown.

    Args:
      heads: titles of the columns.
      rows: cells of each row, as many as there are titles; a vertical bar or a line break in a cell is escaped.
      align: a letter for each column, "l" or "r"; by default the first is left-aligned and the others are
        right-aligned.

    Raises:
      ValueError: if a row or `align` has another length than `heads`.

    Example:
      >>> print(markdown_table(["method", "loss"], [["sgd", "0.25"]]))
      | method | loss |
      |---|---:|
      | sgd | 0.25 |
    """
    align = "l" + "r" * (len(heads) - 1) if align is None else align
    for name, found in (("align", align), *(("rows", row) for row in rows)):
        if len(found) != len(heads):
            raise ValueError(f"{name} must have {len(heads)} entries, one for each of heads, got {found!r}.")
    rule = "|" + "|".join("---:" if letter == "r" else "---" for letter in align) + "|"
    lines = ["| " + " | ".join(map(_cell, cells)) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


@dataclasses.dataclass
class Result:
    """The numbers of one measurement, and where they come from.

    Attributes:
      name: what was measured: a paper, `<author>_<year>`, or a benchmark.
      scale: the size at which it was measured, such as "demo" or "cpu".
      data: the data sets, or "".
      seeds: seeds of the runs.
      settings: what was run: model, lengths, rates.
      curves: the measured numbers, as nested dicts of lists; null where a number is not finite.
      seconds: duration of the whole measurement, including the time before an interruption.
      changes: what was changed against the scale: name to value under "settings", label to description under "arms".
      date: when it ended, in UTC.
      command: the command line that was running.
      device: the hardware, see `describe_device`.
      versions: of Python and packages, see `describe_versions`.
    """

    name: str
    scale: str
    data: str
    seeds: list[int]
    settings: dict[str, Any]
    curves: dict[str, Any]
    seconds: float
    changes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    date: str = dataclasses.field(default_factory=lambda: describe_date())
    command: str = dataclasses.field(default_factory=lambda: describe_command())
    device: str = dataclasses.field(default_factory=lambda: describe_device())
    versions: dict[str, str] = dataclasses.field(default_factory=lambda: describe_versions())

    def array(self, *keys: str) -> np.ndarray:
        """Return numbers from `curves` as a float64 array; null, which stands for not finite, becomes NaN.

        Args:
          *keys: the path through the nested dicts, such as `"regression", "Adam", "loss"`.

        Raises:
          KeyError: if there is nothing at that path.
          ValueError: if what is there is not a rectangular array of numbers.

        Example:
          >>> result = Result("toy", "demo", "", [0, 1], {}, {"sgd": {"loss": [[1.0, 0.5], [1.0, None]]}}, 0.1)
          >>> result.array("sgd", "loss")
          array([[1. , 0.5],
                 [1. , nan]])
        """
        found: Any = self.curves
        for depth, key in enumerate(keys):
            if not isinstance(found, dict) or key not in found:
                known = ", ".join(found) if isinstance(found, dict) else "numbers"
                raise KeyError(f"{self.name} has no curves {'/'.join(keys[: depth + 1])!r}; there: {known}.")
            found = found[key]
        try:
            return np.asarray(found, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"curves {'/'.join(keys)!r} must be a rectangular array of numbers ({error}).") from error

    def origin(self) -> str:
        """Return one sentence in Markdown: when, how, on what and with which versions this was measured."""
        minutes = self.seconds / 60
        took = f"{self.seconds:.0f} seconds" if minutes < 2 else f"{minutes:.0f} minutes"
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        versions = ", ".join(f"{package} {version}" for package, version in self.versions.items())
        return f"Measured on {self.date[:10]} by `{self.command}`: {seeds}, {took} on {self.device}, {versions}."

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON, whole or not at all; numbers that are not finite become null."""
        return write_atomically(path, json.dumps(_plain(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n")


def load(path: str | os.PathLike[str]) -> Result:
    """Read a saved result.

    Raises:
      ValueError: if the file is not a saved result.
    """
    try:
        return Result(**json.loads(Path(path).read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(
            f"path must be a result.json that `lrx reproduce` or `lrx bench` has written, got path={str(path)!r} "
            f"({error})."
        ) from error


def describe_date() -> str:
    """Return the time now, in UTC, as ISO 8601 with seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")


def describe_command() -> str:
    """Return the command line of this process, which a shell can run again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_device() -> str:
    """Return the hardware that this process measures on."""
    device = jax.devices()[0]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return machine if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}, {machine}"


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a measurement depends on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    return versions


def stopwatch(kept: Path | None = None) -> Callable[[], float]:
    """Start a clock; the returned function gives the seconds since then.

    Args:
      kept: file of the seconds that interrupted runs have taken, which count too. Each call writes the sum, unless the
        folder is missing.
    """
    earlier = float(kept.read_text()) if kept is not None and kept.exists() else 0.0
    start = time.perf_counter()

    def elapsed() -> float:
        seconds = round(earlier + time.perf_counter() - start, 1)
        if kept is not None and kept.parent.is_dir():
            write_atomically(kept, f"{seconds}\n")
        return seconds

    return elapsed


def round_to_six_digits(values: Any) -> np.ndarray:
    """Round to six significant digits, the precision of float32, so that a saved result stays readable."""
    return np.vectorize(lambda x: float(f"{x:.6g}"))(np.asarray(values, np.float64))


def _plain(value: Any) -> Any:
    """Return what JSON can hold: arrays as lists, and null for what is not finite, such as a diverged run's loss."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
