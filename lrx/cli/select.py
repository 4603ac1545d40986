"""`lrx select`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lrx.cli.console import interruptible, out, print_written, refuse
from lrx.cli.folders import folder_of_run, options_for_other_run, require_folder, set_aside
from lrx.cli.options import BATCH_SIZE, BatchSize, Data, DataDir, Model

BUDGET = 3.0  # full runs


def select(
    data: Data = "digits",
    model: Model = "mlp",
    budget: Annotated[
        float, typer.Option(help="Full runs to spend; with less than a ninth of one, no methods are compared.")
    ] = BUDGET,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length of a full run, in epochs; 10 if no length is given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of a full run, in optimizer steps.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="What to compare by, such as accuracy; the evaluation's loss by default.")
    ] = None,
    batch_size: BatchSize = BATCH_SIZE,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of the first run of each method and rate.")] = 0,
    data_dir: DataDir = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where it is kept; by default a folder named after what is run.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Resume an earlier selection, or move it aside.")
    ] = True,
) -> None:
    """Choose optimizer, schedule and rate for the compute of a few runs; the same command resumes.

    \b
    lrx select --data digits --model mlp --metric accuracy
    lrx select --data cifar10 --model resnet8 \\
      --epochs 5 --budget 2
    """
    if epochs is not None and steps is not None:
        refuse(f"--epochs and --steps must not both be given, got {epochs} and {steps}: one follows from the other.")
    folder = folder or folder_of_run(
        *(data, model, "select"),
        batch=(batch_size, BATCH_SIZE),
        seed=(seed, 0),
        budget=(budget, BUDGET),
        epochs=(epochs, None),
        steps=(steps, None),
        metric=(metric, None),
    )
    require_folder(folder)
    from lrx import figures, tuning, workloads
    from lrx.records import write_atomically

    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    if steps is None and epochs is not None:
        steps = epochs * workload.batches.steps_per_epoch
    if not resume:
        set_aside(folder / "checkpoints")
    with interruptible(), options_for_other_run():
        found = tuning.select(
            workload,
            num_steps=steps,
            budget=budget,
            metric=metric,
            seed=seed,
            checkpoint=folder / "checkpoints",
            progress=True,
        )
    out.print(str(found), markup=False, highlight=False)
    if found.records:
        print_written(figures.save(found.plot(), folder / "select.png"))
    print_written(write_atomically(folder / "select.txt", f"{found}\n"))
    others = "" if batch_size == BATCH_SIZE else f" --batch-size {batch_size}"
    others += "" if data_dir is None else f" --data-dir {shlex.quote(str(data_dir))}"
    out.print(
        f'train with it: lrx train --data {data} --model {model}{others} --steps {found.num_steps} --tx "{found.tx!r}"',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
