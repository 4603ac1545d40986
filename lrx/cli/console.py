"""What the commands print with, and how."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
wrapped = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def refuse(message: str) -> NoReturn:
    """Raise the error of a bad option, which ends the command with this message."""
    raise ValueError(message)


def print_written(path: Path) -> None:
    """Print that a file was written."""
    out.print(f"wrote {path}", markup=False)


def print_entry(name: str, text: str, width: int) -> None:
    """Print a name with a text beside it, or below it on a narrow terminal.

    Args:
      name: name of the entry.
      text: the text that describes it.
      width: width of the longest name.
    """
    if wrapped.width < width + 40:
        wrapped.print(f"  {name}", markup=False)
        wrapped.print(Padding(Text(text), (0, 0, 0, 4)))
        return
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(min_width=width + 2, no_wrap=True)
    row.add_column()
    row.add_row(Text(f"  {name}"), Text(text))
    wrapped.print(row)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """End an interrupted command with the message of the interrupt, which says how to resume; typer would drop it."""
    try:
        yield
    except KeyboardInterrupt as error:
        err.print(str(error) or "interrupted")
        raise typer.Exit(130) from None
