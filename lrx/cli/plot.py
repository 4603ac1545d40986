"""`lrx plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrx.cli.console import print_written
from lrx.cli.folders import require_folder, require_picture
from lrx.cli.options import Picture


def plot(
    schedules: Annotated[list[str], typer.Argument(metavar="SCHEDULE", help="Schedules, as expressions.")],
    steps: Annotated[int, typer.Option(min=1, max=100_000_000, help="Number of steps to draw.")] = 1000,
    path: Picture = Path("schedule.png"),
) -> None:
    """Draw schedules.

    \b
    lrx plot "warmup(cosine_decay(0.1, 2000), 200)"
    lrx plot 0.05 "cyclical(0.01, 0.1, 400)" --out both.png
    """
    assert path is not None
    require_picture(path)
    from lrx.expressions import parse_schedule
    from lrx.figures import panels, save

    drawn = [parse_schedule(text) for text in schedules]
    require_folder(path.parent)
    figure, (axes,) = panels(size=(8.0, 4.0))
    for schedule in drawn:
        schedule.plot(steps, axes=axes)
    print_written(save(figure, path))
