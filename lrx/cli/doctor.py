"""`lrx doctor`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from lrx.cli.console import interruptible, out, print_written
from lrx.cli.folders import folder_of_run, require_folder
from lrx.cli.options import BatchSize, Data, DataDir, Model

WIDEST = 100  # columns of the report


def doctor(
    data: Data = "digits",
    model: Model = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer: an expression with the names of `lrx names`.")] = "adam(1e-3)",
    steps: Annotated[int, typer.Option(min=1, help="Length of the run, in minibatches.")] = 1000,
    budget: Annotated[float, typer.Option(help="Part of the run that probes may take.")] = 0.3,
    batch_size: BatchSize = 128,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed of the initial parameters and of the minibatches.")
    ] = 0,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON, and nothing else.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the diagnosis is written; by default a folder named after it.")
    ] = None,
) -> None:
    """Find out what is wrong with a run before it is made.

    \b
    lrx doctor --tx "adam(cosine_decay(1e-3, 500))"
    lrx doctor --data cifar10 --model resnet8 --json
    """
    folder = folder or folder_of_run(data, model, tx, batch=(batch_size, 128), seed=(seed, 0), steps=(steps, 1000))
    from lrx import expressions, workloads
    from lrx.doctor.diagnose import diagnose
    from lrx.doctor.page import write_page

    optimizer = expressions.parse_optimizer(tx)  # before anything that takes time
    require_folder(folder)
    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    with interruptible():
        found = diagnose(workload, optimizer, steps=steps, budget=budget, seed=seed)
    paths = write_page(found, folder)
    if as_json:
        typer.echo(found.to_json())
        return
    out.print(found.report(max(40, min(shutil.get_terminal_size().columns, WIDEST))), markup=False)
    for path in paths:
        print_written(path)
