"""Several methods side by side, each with a grid of rates and several seeds: what most papers' figures are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from lrx.papers.result import Job
from lrx.training import Workload
from lrx.tuning import sweep


class Arm(NamedTuple):
    """A method and the rates that it is tried with."""

    make: Callable[[Any], optax.GradientTransformation]  # a rate, maybe a tracer, to the method
    rates: Sequence[float] = (1.0,)


def compare(
    workload: Workload,
    arms: Mapping[str, Arm],
    job: Job,
    *,
    num_steps: int,
    num_points: int = 50,
    evaluate_every: int | None = None,
    name: str = "",
) -> dict[str, Any]:
    """Train every arm with every rate and seed, one sweep an arm, and keep the curves of its best rate.

    Args:
      workload: what is trained.
      arms: label to arm.
      job: gives the seeds, the checkpoints and whether to show bars.
      num_steps: length of a run.
      num_points: of the curve of training losses.
      evaluate_every: steps between evaluations; by default only the end is evaluated.
      name: of the comparison, where a paper makes several.

    Returns:
      For each arm a dict: `rates`; `final_loss`, (rates, seeds), the training loss of the last tenth of the steps, not
      finite where a run diverged; `best`, the place of the rate with the lowest mean of it; and of that rate `steps`,
      (points,), `loss`, (seeds, points), `evaluation_steps`, (times,), and `evaluations`, name to (seeds, times).

    Raises:
      ValueError: if an arm diverges with every rate.
    """
    found = {}
    for label, arm in arms.items():
        swept = sweep(
            workload,
            tx=lambda lr, arm=arm: arm.make(lr),
            grid={"lr": list(arm.rates)},
            num_steps=num_steps,
            seeds=job.seeds,
            num_points=num_points,
            evaluate_every=evaluate_every,
            checkpoint=job.folder(f"{name} {label}".strip()),
            progress=job.progress,
        )
        place = swept.axes["lr"].tolist().index(swept.best()["lr"])
        found[label] = {
            "rates": _short(swept.axes["lr"]),
            "final_loss": _short(swept.final_loss),
            "best": place,
            "steps": swept.steps + 1,
            "loss": _short(swept.losses[place]),
            "evaluation_steps": swept.evaluation_steps,
            "evaluations": {key: _short(values[place]) for key, values in swept.evaluation_curves.items()},
        }
    return found


def final(arm: Mapping[str, Any], metric: str | None = None) -> np.ndarray:
    """Give what an arm reached with its best rate, for each seed: the training loss, or a metric at the end."""
    if metric is not None:
        return np.asarray(arm["evaluations"][metric], np.float64)[:, -1]
    return np.asarray(arm["final_loss"][arm["best"]], np.float64)


def _short(values: np.ndarray) -> Any:
    """Round to six digits, which is what a float32 has, so that a result can be read."""
    return np.vectorize(lambda x: float(f"{x:.6g}"))(np.asarray(values, np.float64))
