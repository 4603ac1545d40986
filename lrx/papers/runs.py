"""The runs of a paper: whole grids and single methods with every seed, kept in the job's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

import lrx
from lrx.papers.reproduction import Job
from lrx.records import round_to_six_digits
from lrx.training import History, Moment, Workload
from lrx.tuning import Execution, SweepResult, sweep


def strategy_of_networks() -> str:
    """Return the strategy of a sweep over large networks: one of them fills a CPU, but not a GPU."""
    return "map" if jax.default_backend() == "cpu" else "vmap"


def sweep_seeds(
    workload: Workload,
    make: Callable[..., optax.GradientTransformation],
    axes: Mapping[str, Sequence[Any]],
    job: Job,
    name: str,
    *,
    num_steps: int,
    title: str = "",
    strategy: str = "vmap",
    **options: Any,
) -> SweepResult:
    """Train with every member of a grid and every seed of a job, by `lrx.sweep`.

    Args:
      workload: what is trained.
      make: takes the hyperparameters by name.
      axes: name of a hyperparameter to its values.
      job: the seeds, the folder of checkpoints and whether to show progress.
      name: of the runs, which differs from that of others of the paper.
      num_steps: length of a run.
      title: of the progress bar; by default the names of the workload and of the runs.
      strategy: strategy of `lrx.sweep`.
      **options: further arguments of `lrx.sweep`.
    """
    return sweep(
        workload,
        make,
        {axis: list(values) for axis, values in axes.items()},
        num_steps=num_steps,
        seeds=job.seeds,
        execution=Execution(strategy),
        checkpoint=job.folder(name),
        progress=job.progress_title(title or f"{workload.name}, {name}"),
        **options,
    )


def train_seeds(
    workload: Workload,
    tx: optax.GradientTransformation,
    job: Job,
    name: str,
    *,
    steps: int,
    title: str = "",
    callbacks: Sequence[Callable[[Moment], Any]] | None = None,
    **options: Any,
) -> list[History]:
    """Train with every seed of a job, one run after another, by `lrx.train`; a run that diverges goes on.

    Args:
      workload: what is trained.
      tx: the method.
      job: the seeds, the folder of checkpoints and whether to show progress.
      name: of the runs, which differs from that of others of the paper; that of each run ends in its seed.
      steps: length of a run.
      title: of the progress bars, without the seed; by default the name.
      callbacks: a callback for each seed.
      **options: further arguments of `lrx.train`.
    """
    of_seeds: Sequence[Any] = [None] * len(job.seeds) if callbacks is None else callbacks
    return [
        lrx.train(
            workload,
            tx,
            steps=steps,
            seed=seed,
            callback=callback,
            stop_on_nonfinite=False,
            checkpoint=job.folder(f"{name} {seed}"),
            progress=job.progress_title(f"{title or name} {seed}"),
            **options,
        )
        for seed, callback in zip(job.seeds, of_seeds, strict=True)
    ]


def summarize_histories(histories: Sequence[History], num_points: int) -> dict[str, Any]:
    """Return the curves that `lrx.papers.arms.compare` keeps of an arm, from one run of it for each seed.

    Args:
      histories: the runs, all of one length.
      num_points: about how many points the curve of training losses has; each is a mean over as many steps.
    """
    first = histories[0]
    steps = len(first.loss)
    starts = np.arange(0, steps, -(-steps // num_points))
    lengths = np.diff([*starts, steps])
    return {
        "steps": starts + (lengths + 1) / 2,
        "loss": round_to_six_digits([np.add.reduceat(history.loss, starts) / lengths for history in histories]),
        "evaluation_steps": first.evaluation_steps,
        "evaluations": {
            name: round_to_six_digits([history.evaluations[name] for history in histories])
            for name in first.evaluations
        },
    }
