"""What does every method reach from every rate, on every task of the suite?

    lrx bench select_curves
    lrx bench select_curves --task balance
    lrx bench select_curves --suite unseen

On each task of a suite, by default the known ones, every method of a portfolio is trained from a grid of
rates, half a decade apart, with three seeds over the full length. The training losses are kept in bins that are
geometric in time, with the evaluations after 1/27, 1/9, 1/3, 0.58 and all of a run. `lrx bench select` replays
strategies on these curves.

A file is written for each task, after each family of methods; what is there is kept, so that an interrupted recording
resumes. A task whose data or program has changed is recorded again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import jax
import typer

from lrx._checks import known
from lrx.benchmarks.selection.candidates import FAMILIES
from lrx.benchmarks.selection.record import Recorder
from lrx.benchmarks.selection.suites import SUITES


def main(
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Of the suite; once for each, by default all.")
    ] = None,
    families: Annotated[
        list[int] | None, typer.Option("--family", help="Place of a family of methods; once for each, by default all.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Its tasks: " + ", ".join(SUITES) + ".")] = "known",
    folder: Annotated[Path, typer.Option("--out", help="Folder of the curves.")] = Path("lrx-results/select/curves"),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")] = None,
) -> None:
    """Record the curves."""
    known("--suite", suite, SUITES)
    every = SUITES[suite].tasks
    for task in tasks or []:
        known("--task", task, every)
    chosen = FAMILIES if not families else [FAMILIES[place] for place in families]
    for name in tasks or every:
        recorder = Recorder(name, every[name], folder / f"{name}.npz", data_dir)
        recorder.record(chosen)
        recorder.test_ranges()
        jax.clear_caches()  # a task's programs serve no other task
