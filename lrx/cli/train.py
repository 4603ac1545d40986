"""`lrx train`."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrx.cli.console import interruptible, out, print_written, refuse
from lrx.cli.folders import folder_of_run, options_for_other_run, require_folder, set_aside
from lrx.cli.options import BATCH_SIZE, BatchSize, Data, DataDir, Model

if TYPE_CHECKING:
    from lrx.training import History

USUAL_EPOCHS = 10  # if no length is given


def train(
    data: Data = "digits",
    model: Model = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer: an expression with the names of `lrx names`.")] = "adam(1e-3)",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Length of the run, in epochs; 10 if no length is given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run, in optimizer steps.")] = None,
    batch_size: BatchSize = BATCH_SIZE,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Seed of the initial parameters and the order of the data.")
    ] = 0,
    data_dir: DataDir = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where the run is kept; by default a folder named after what is run.")
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Epochs between checkpoints, or steps with --steps; by default they are half a minute apart."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Resume an earlier run, or move it aside and start from scratch.")
    ] = True,
    host_devices: Annotated[int, typer.Option(min=1, help="Number of CPU devices to split each batch over.")] = 1,
) -> None:
    """Train a model; the same command resumes an interrupted run.

    \b
    lrx train
    lrx train --data cifar10 --model resnet20 \\
      --tx "sgd(warmup(cosine_decay(0.1, 11300), 400))"
    """
    if epochs is not None and steps is not None:
        refuse(f"--epochs and --steps must not both be given, got {epochs} and {steps}: one follows from the other.")
    if host_devices != 1:
        if batch_size % host_devices:
            refuse(f"--host-devices must divide the batch size {batch_size}, got {host_devices}.")
        # Read when JAX starts, which the imports below do.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={host_devices}".strip()
    folder = folder or folder_of_run(data, model, tx, batch=(batch_size, BATCH_SIZE), seed=(seed, 0))
    from lrx import expressions, training, workloads
    from lrx.records import stopwatch

    optimizer = expressions.parse_optimizer(tx)  # before anything that takes time
    require_folder(folder)
    if epochs is None and steps is None:
        epochs = USUAL_EPOCHS
    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    if not resume:
        set_aside(folder / "checkpoints")
    about = {"data": data, "model": model, "tx": _expression(optimizer, tx), "batch_size": batch_size, "seed": seed}
    elapsed = stopwatch()
    with interruptible(), options_for_other_run():
        try:
            history = training.train(
                workload,
                optimizer,
                epochs=epochs,
                steps=steps,
                seed=seed,
                checkpoint=folder / "checkpoints",
                checkpoint_every=checkpoint_every,
                progress=True,
            )
        except training.DivergenceError as error:
            about |= {"session_seconds": elapsed(), "diverged_at_step": error.step}
            write_run(folder, error.history, workload.batches.steps_per_epoch, about)
            raise
    about["session_seconds"] = elapsed()  # without those of an earlier command that it resumed
    final = {name: float(values[-1]) for name, values in history.evaluations.items()}
    shown = ", ".join(f"test {name} {value:.4f}" for name, value in final.items())
    out.print(f"{workload.name}: {len(history.loss)} steps, {shown}", markup=False)
    write_run(folder, history, workload.batches.steps_per_epoch, about)


def _expression(tx: Any, text: str) -> str:
    """Return the expression of what was run: as it was built if its repr is known, otherwise as it was given."""
    built = repr(tx)
    return text if " at 0x" in built or "<" in built else built


def write_run(folder: Path, history: History, steps_per_epoch: int, about: dict[str, Any]) -> None:
    """Write the files of a run: its history, a picture of it, and run.json, which says what was run.

    Args:
      folder: the folder of the run.
      history: the history of the run.
      steps_per_epoch: steps per epoch of its workload.
      about: what was asked for; lengths and results are added from the history.
    """
    from lrx.figures import save
    from lrx.records import describe_command, describe_date, describe_device, describe_versions, write_atomically

    history.save(folder / "history.npz")
    print_written(folder / "history.npz")
    final = {name: float(values[-1]) for name, values in history.evaluations.items() if len(values)}
    about = about | {
        "steps": len(history.loss),
        "epochs": len(history.loss) / steps_per_epoch,
        "resumed_at_step": history.resumed_at,
        # JSON has no NaN.
        "final": {name: value if math.isfinite(value) else None for name, value in final.items()},
        "date": describe_date(),
        "command": describe_command(),
        "device": describe_device(),
        "versions": describe_versions(),
    }
    print_written(write_atomically(folder / "run.json", json.dumps(about, indent=1, allow_nan=False) + "\n"))
    figure = history.plot(title=f"{about['data']}, {about['model']}: {about['tx']}")
    print_written(save(figure, folder / "history.png"))
