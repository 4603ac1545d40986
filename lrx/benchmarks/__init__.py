"""Side-by-side measurements; each is run by `lrx bench NAME`."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from pathlib import Path


def available() -> dict[str, str]:
    """Return for every benchmark of this folder the question that it answers, without importing it."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        specification = importlib.util.find_spec(f"{__name__}.{module.name}")
        assert specification is not None
        assert specification.origin is not None
        question = (ast.get_docstring(ast.parse(Path(specification.origin).read_text())) or "").splitlines()[0]
        if question.endswith("?"):  # a file that asks nothing is part of a benchmark
            found[module.name] = question
    return found
