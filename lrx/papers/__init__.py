"""Papers whose convergence plots are reproduced and whose claims are checked, one paper a file."""

from __future__ import annotations

import importlib
import pkgutil
import re

from lrx.papers.result import Claim, Paper, Result, Scale, load

__all__ = ["Claim", "Paper", "Result", "Scale", "available", "load"]

NAME = re.compile(r"[a-z]+_\d{4}")  # of a paper; the other modules are what papers are made of


def available() -> dict[str, Paper]:
    """Give every paper of this folder by its name, `<author>_<year>`."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if NAME.fullmatch(module.name):
            paper = importlib.import_module(f"{__name__}.{module.name}").PAPER
            found[paper.name] = paper
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[0])))
