"""`lrx reproduce --all`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress_bar import ProgressBar
from rich.table import Table

from lrx.cli.console import err, interruptible, out, print_written
from lrx.cli.folders import RESULTS, options_for_other_run, require_folder
from lrx.cli.reproduce import measure, require_scale, show

if TYPE_CHECKING:
    from lrx.papers import Paper


def reproduce_all(
    found: dict[str, Paper],
    scale: str,
    data_dir: Path | None,
    folder: Path | None,
    seeds: int | None,
    from_results: Path | None,
    fresh: bool,
) -> None:
    """Reproduce every paper, continue past those that fail, and write the page."""
    from lrx.papers import gallery
    from lrx.records import write_atomically

    failed: dict[str, str] = {}
    if from_results is not None:
        folder = folder or from_results
        for entry in gallery.entries(from_results):
            show(entry.paper, entry.result, entry.folder)
    else:
        folder = folder or RESULTS / "gallery"
        require_scale(found.values(), scale)
        require_folder(folder)
        with interruptible():
            for number, (name, chosen) in enumerate(found.items()):
                row = Table.grid(padding=(0, 1))
                row.add_row(ProgressBar(len(found), number, width=20), f"{number + 1} of {len(found)}: {name}")
                out.print(row)
                place = folder / name / scale
                try:
                    with options_for_other_run():
                        show(chosen, measure(chosen, scale, place, None, data_dir, seeds, fresh), place)
                except Exception as error:  # the others are wanted whatever it is
                    failed[name] = f"{type(error).__name__}: {error}"
                    err.print(f"{name} failed: {failed[name]}")
    print_written(write_atomically(folder / gallery.PAGE, gallery.page(folder, failed)))
    if failed:
        err.print(f"{len(failed)} of {len(found)} failed: {', '.join(failed)}")
        raise typer.Exit(1)
