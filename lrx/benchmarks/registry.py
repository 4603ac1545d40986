"""The benchmarks of this folder, found by the questions that their files begin with."""

from __future__ import annotations

import ast
from pathlib import Path


def available() -> dict[str, str]:
    """Return for every benchmark of this folder the question that it answers, without importing it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        question = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        if question.endswith("?"):  # a file that asks nothing is part of a benchmark
            found[path.stem] = question
    return found
