"""Where the commands write: folders named after what is run, checked before anything that takes time."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrx.cli.console import out, refuse

RESULTS = Path("lrx-results")  # of commands without --out
MOST_NAMED = 60  # characters of an expression in the name of a folder


def folder_of_run(data: str, model: str, tx: str, **options: tuple[Any, Any]) -> Path:
    """Return a folder named after what is run in it, so that two runs never share one.

    Args:
      data: name of the data set.
      model: name of the model.
      tx: the expression; a long one is cut, and a digest distinguishes it from others.
      **options: name to (value, default); only those that differ from their default are part of the name.
    """
    changed = [f"{name}-{value}" for name, (value, default) in options.items() if value != default]
    return RESULTS / "-".join([data, model, folder_part(tx), *map(folder_part, changed)])


def folder_part(expression: str) -> str:
    """Return an expression as a part of a folder's name; a long one is cut, and a digest distinguishes it."""
    named = re.sub(r"[^\w.=*+-]+", "-", expression.replace(" ", "")).strip("-")
    if len(named) <= MOST_NAMED:
        return named
    digest = hashlib.blake2b(expression.replace(" ", "").encode(), digest_size=4).hexdigest()
    return f"{named[:MOST_NAMED].strip('-=')}-{digest}"


def require_folder(folder: Path) -> None:
    """Check that a folder can be written to; it is created if it does not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        refuse(f"--out must lie where can be written, got {str(folder)!r} ({error.strerror}): give another place.")


def require_picture(path: Path) -> None:
    """Check that a path names a picture in a format that is known."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg") or path.is_dir():
        refuse(f"--out must be a file whose name ends in .png, .pdf or .svg, got {str(path)!r}.")


@contextlib.contextmanager
def options_for_other_run() -> Iterator[None]:
    """Name the options to use if a folder turns out to hold another run."""
    from lrx.training.checkpoints import OtherRunError, list_differences

    try:
        yield
    except OtherRunError as error:
        raise ValueError(
            f"{error.path} holds another run: {list_differences(error.unlike)}. Set that run aside with --fresh, or "
            "give this one a folder of its own with --out."
        ) from error


def set_aside(checkpoints: Path) -> None:
    """Move an earlier run's checkpoints to the next free name, so that --fresh never loses a long run."""
    if checkpoints.exists():
        number = 1
        while (aside := checkpoints.with_name(f"{checkpoints.name}-{number}")).exists():
            number += 1
        checkpoints.rename(aside)
        out.print(f"moved the earlier run to {aside}", markup=False)
