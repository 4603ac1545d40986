"""Callbacks that write the numbers of a run to a file, to TensorBoard or to Weights & Biases.

If a run belongs to several processes, the first writes.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from lrx.records import write_atomically
from lrx.training.callbacks import Moment


def csv_writer(path: str | os.PathLike[str]) -> Callable[[Moment], None]:
    """Build a callback that writes a row for each call to a CSV file.

    The columns are the step, the mean training loss since the row before, the rate, what `lrx.monitor` shows, and
    "evaluation/name" if there was an evaluation at that step. A resumed run appends to its own rows; rows of steps that
    it repeats are replaced. So give another run another file: rows before its first call would stay. The file is whole
    at any time.

    Args:
      path: the file; its folder is created if it does not exist.

    Returns:
      A callback for `train`.

    Example:
      >>> import jax.numpy as jnp, pathlib, tempfile, lrx
      >>> from lrx.training import csv_writer
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.csv"
      >>> loss_fn = lambda w, x, key: jnp.mean((w - x) ** 2)
      >>> batches = lrx.Batches(jnp.zeros(8), batch_size=4)
      >>> workload = lrx.Workload.from_functions(loss_fn, lambda key: jnp.ones(()), batches, name="bowl")
      >>> history = lrx.train(workload, lrx.sgd(0.25), steps=4, callback=csv_writer(path), callback_every=2)
      >>> print(path.read_text().strip())
      step,loss,rate,scale
      2,0.625,0.25,1.0
      4,0.0390625,0.25,1.0
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] | None = None
    columns: list[str] = []

    def write(moment: Moment) -> None:
        nonlocal rows, columns
        if jax.process_index() > 0:
            return
        is_first = rows is None
        if rows is None:
            rows = [row for row in _rows(path) if int(row["step"]) < moment.step]
            columns = list(rows[0]) if rows else []
        row = {"step": moment.step, **moment.scalars()}
        rows.append(row)
        added = [name for name in row if name not in columns]
        if added or is_first:  # the file may have rows of steps that are repeated, and one that was interrupted
            columns += added
            _write_whole(path, columns, rows)
        else:
            with open(path, "a", newline="") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerow(row)

    return write


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = path.read_text()
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))  # without a row that was interrupted
    if reader.fieldnames is not None and "step" not in reader.fieldnames:
        raise ValueError(f"path must be a file that csv_writer has written, got {str(path)!r}: give another.")
    return [row for row in reader if row["step"].isdigit()]


def _write_whole(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def tensorboard_writer(to: Any) -> Callable[[Moment], None]:
    """Build a callback that writes the numbers of each call to TensorBoard.

    Args:
      to: the folder of the run, for which tensorboardX is needed; or a writer with `add_scalar(name, value, step)`,
        for example `torch.utils.tensorboard.SummaryWriter`.

    Returns:
      A callback for `train`.

    Raises:
      ImportError: if `to` is a folder and tensorboardX is not installed.
    """
    writer = to
    if not hasattr(to, "add_scalar"):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "tensorboard_writer needs tensorboardX: pip install tensorboardX, or give another package's writer."
            ) from error
        writer = SummaryWriter(os.fspath(to))

    def write(moment: Moment) -> None:
        if jax.process_index() > 0:
            return
        for name, value in moment.scalars().items():
            writer.add_scalar(name, value, moment.step)
        if hasattr(writer, "flush"):
            writer.flush()

    return write


def wandb_writer(run: Any = None, **settings: Any) -> Callable[[Moment], None]:
    """Build a callback that logs the numbers of each call to Weights & Biases.

    Args:
      run: what `wandb.init` has returned; without it one is begun.
      **settings: arguments of `wandb.init`, such as `project="digits"`, used if there is no run.

    Returns:
      A callback for `train`. The run is not finished by it: call `run.finish()`, or end the process.

    Raises:
      ImportError: if there is no run and wandb is not installed.
      ValueError: if both a run and settings are given.
    """
    if run is not None and settings:
        raise ValueError(f"settings must be left out where run is given, got {sorted(settings)}: it has its own.")
    if run is None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("wandb_writer needs wandb: pip install wandb.") from error
        run = wandb.init(**settings)

    def write(moment: Moment) -> None:
        if jax.process_index() > 0:
            return
        run.log(moment.scalars(), step=moment.step)

    return write
