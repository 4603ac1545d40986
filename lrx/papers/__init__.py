"""Papers whose convergence plots are reproduced and whose claims are checked, one paper a file."""

from __future__ import annotations

import importlib
import pkgutil
import re

from lrx import _checks
from lrx.papers.reproduction import Claim, Paper, Scale
from lrx.records import Result, load

__all__ = ["Claim", "Paper", "Result", "Scale", "available", "load", "names", "paper"]

NAME = re.compile(r"[a-z]+_\d{4}")  # of a paper; the other modules hold what papers share


def names() -> list[str]:
    """Return the names of the papers in this folder, `<author>_<year>`, the oldest first."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if NAME.fullmatch(module.name)]
    return sorted(found, key=lambda name: (name[-4:], name))


def paper(name: str) -> Paper:
    """Return a paper by its name.

    Raises:
      ValueError: if there is no paper of that name.
    """
    _checks.known("PAPER", name, names())
    return importlib.import_module(f"{__name__}.{name}").PAPER


def available() -> dict[str, Paper]:
    """Return every paper in this folder by its name, the oldest first."""
    return {name: paper(name) for name in names()}
