"""How are lrx's docstrings read as Markdown? An extension of griffe, which the reference of the site is made with."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from mkdocs_pages import definitions

# What is code, in a docstring: between backticks, and examples.
CODE = re.compile(r"(```.*?```|``.*?``|`[^`]+`|^ *>>> .*?(?:\n\s*\n|\Z))", re.MULTILINE | re.DOTALL)


def escaped(docstring: str) -> str:
    """Return a docstring whose prose is Markdown that says the same: `alpha*` and `>= 0` are meant as they stand."""
    parts = CODE.split(docstring)
    for place in range(0, len(parts), 2):
        prose = re.sub(r"(?<=\w)\*|(?<!\*)\*(?=[\w ])(?!\w+:)", r"\\*", parts[place])
        parts[place] = re.sub(r"(^\s*|: )>(?!>)", r"\1\\>", prose, flags=re.MULTILINE)
    return re.sub(r"^( *)Example:$", r"\1Examples:", "".join(parts), flags=re.MULTILINE)


class LrxDocstrings(griffe.Extension):
    """Read lrx's docstrings, and find each public name under the name by which it is imported."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        del kwargs
        if pkg.path != "lrx":
            return
        for name, place in definitions().items():
            where, _, alone = name.removeprefix("lrx.").rpartition(".")
            parent = pkg[where] if where else pkg
            # Else `lrx.adam` would be the file of that name; what is exported beside its file stays there.
            if place != name and not place.startswith(f"{name}."):
                parent.members[alone] = griffe.Alias(alone, pkg[place.removeprefix("lrx.")], parent=parent)
