"""The papers of this folder, found by the names of their files, or folders if a paper has several experiments."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from pathlib import Path

from lrx import _checks
from lrx.papers.reproduction import Paper

NAME = re.compile(r"[a-z]+_\d{4}")  # of a paper; the other modules hold what papers share


def names() -> list[str]:
    """Return the names of the papers in this folder, `<author>_<year>`, the oldest first."""
    modules = pkgutil.iter_modules([os.fspath(Path(__file__).parent)])
    found = [module.name for module in modules if NAME.fullmatch(module.name)]
    return sorted(found, key=lambda name: (name[-4:], name))


def load(name: str) -> Paper:
    """Return a paper by its name.

    Raises:
      ValueError: if there is no paper of that name.
    """
    _checks.known("PAPER", name, names())
    return importlib.import_module(f"lrx.papers.{name}").PAPER


def available() -> dict[str, Paper]:
    """Return every paper in this folder by its name, the oldest first."""
    return {name: load(name) for name in names()}
