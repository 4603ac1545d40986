"""`lrx doctor`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from lrx.cli.console import interruptible, out, print_written
from lrx.cli.folders import folder_of_run, require_folder
from lrx.cli.options import BATCH_SIZE, BatchSize, Data, DataDir, Model

WIDEST = 100  # columns of the report
STEPS, BUDGET = 1000, 0.3  # if no others are given


def doctor(
    data: Data = "digits",
    model: Model = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer: an expression with the names of `lrx names`.")] = "adam(1e-3)",
    steps: Annotated[int, typer.Option(min=1, help="Length of the run, in minibatches.")] = STEPS,
    budget: Annotated[float, typer.Option(help="Part of the run that probes may take.")] = BUDGET,
    batch_size: BatchSize = BATCH_SIZE,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed of the initial parameters and of the minibatches.")
    ] = 0,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON, and nothing else.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Where the diagnosis is written; by default a folder named after the run."),
    ] = None,
) -> None:
    """Find out what is wrong with a run before it is made.

    \b
    lrx doctor --tx "adam(cosine_decay(1e-3, 500))"
    lrx doctor --data cifar10 --model resnet8 --json
    """
    folder = folder or folder_of_run(
        *(data, model, tx),
        batch=(batch_size, BATCH_SIZE),
        seed=(seed, 0),
        steps=(steps, STEPS),
        budget=(budget, BUDGET),
    )
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
