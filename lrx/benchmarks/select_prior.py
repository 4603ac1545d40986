"""What does `select` know from the tasks of the suite?

    lrx bench select_prior

The curves that `lrx bench select_curves` has recorded are fitted: which method at which rate does well, which of them
do well on the same tasks, and what a part of a run says about its end. The output is experience.json, which lrx ships
in lrx/tuning/selection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrx.benchmarks.selection.curves import load_all
from lrx.benchmarks.selection.fit import KNOWN, fit
from lrx.benchmarks.selection.suites import KNOWN_TASKS
from lrx.records import write_atomically


def main(
    curves: Annotated[Path, typer.Option("--curves", help="Folder of the recorded curves.")] = Path(
        "examples/gallery/select/curves"
    ),
    folder: Annotated[Path, typer.Option("--out", help="Where experience.json is written.")] = Path(
        "lrx-results/select"
    ),
) -> None:
    """Fit, and write what was found."""
    tasks = [task for name, task in load_all(curves).items() if name in KNOWN_TASKS]
    found = fit(tasks, KNOWN)
    print(f"{len(found.configurations)} configurations on {len(tasks)} tasks")
    print(f"wrote {write_atomically(folder / 'experience.json', found.to_json())}")
