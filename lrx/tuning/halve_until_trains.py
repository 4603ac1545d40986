"""For training that does not start: halve the rate until a short trial trains."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optax

from lrx import _checks
from lrx.training.many import RunFamily
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import ProgressMeter, require_progress
from lrx.training.runs import advance, curves
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on
from lrx.tuning.initial_loss import MIN_CHANGE, InitialLoss
from lrx.tuning.space import FromRate, try_out_rates
from lrx.tuning.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PART = 0.1  # of a trial: the first and the final loss are means over it
VERDICTS = ("trains", "stalls", "rises", "diverges")
TRAINS, STALLS, RISES, DIVERGES = range(len(VERDICTS))


@dataclasses.dataclass(frozen=True, eq=False)
class TrialTable:
    """The losses of short trials at decreasing rates, and the first rate that trains.

    Attributes:
      rate: the first rate that trains; None if no rate that was tried does.
      rates: (trials,) float32, the rates that were tried.
      verdicts: for each "trains", "stalls" (the loss falls too little), "rises" or "diverges".
      first_loss: (trials,) float32, the mean loss of the first tenth of the trial, over seeds.
      final_loss: (trials,) float32, the mean loss of its last tenth; infinite if it diverged with some seed.
      losses: (trials, steps) float32, the curves, means over seeds; NaN after a trial diverged.
    """

    rate: float | None
    rates: np.ndarray
    verdicts: list[str]
    first_loss: np.ndarray
    final_loss: np.ndarray
    losses: np.ndarray

    def __str__(self) -> str:
        rows = [f"{'rate':>10}  {'first loss':>10}  {'final loss':>10}  verdict"]
        table = zip(self.rates, self.first_loss, self.final_loss, self.verdicts, strict=True)
        rows += [f"{rate:>10.3g}  {first:>10.4g}  {last:>10.4g}  {verdict}" for rate, first, last, verdict in table]
        return "\n".join(rows)

    def __repr__(self) -> str:
        found = "none trains" if self.rate is None else f"{self.rate:.3g} trains"
        return f"TrialTable({len(self.rates)} rates from {self.rates[0]:.3g} down; {found})"

    def plot(self) -> Figure:
        """Draw the loss of each trial; needs matplotlib."""
        from lrx.tuning.figures import halving_curves

        return halving_curves(np.arange(self.losses.shape[1]), self.losses, {"learning rate": self.rates})


def halve_until_trains(
    workload: Workload,
    tx: Callable[[Any], optax.GradientTransformation],
    *,
    start_rate: float,
    factor: float = 0.5,
    trials: int = 20,
    num_steps: int = 100,
    min_fall: float = 0.05,
    seeds: int | Sequence[int] = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> TrialTable:
    """Try `start_rate`, then half of it, and so on, until the loss falls.

    Each trial begins at the same parameters and sees the same minibatches. A trial trains if every loss is finite and
    the mean loss of its last tenth is clearly below two others: that of its first tenth, and that of the initial
    parameters on the minibatches of the last tenth. Clearly means by more than the fraction `min_fall` of each, and by
    a thousandth at least.

    Args:
      workload: the model, its data and its loss.
      tx: `rate -> transformation`, such as `lrx.adam`; the rate is traced.
      start_rate: the first rate, > 0.
      factor: multiplies the rate after a trial that fails, in (0, 1).
      trials: maximum number of trials.
      num_steps: length of a trial, at least 2.
      min_fall: required fall of the loss, relative to its magnitude, >= 0.
      seeds: number of runs of each trial (with seeds 0, 1, ...), or the list of seeds; all have to train.
      checkpoint: a folder. The table is kept there after each trial, and the same call, or one with more `trials`,
        continues with the next one.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `TrialTable`; print it for the outcome of each trial.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`), or the folder holds other trials.
      TypeError: if an argument is of the wrong type.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     lrx.Batches((x, 3.0 * x), batch_size=64),
      ... )
      >>> found = lrx.halve_until_trains(line, lrx.sgd, start_rate=8.0)
      >>> found.rate, found.verdicts
      (2.0, ['diverges', 'diverges', 'trains'])
    """
    require_workload(workload)
    _checks.positive("start_rate", start_rate)
    _checks.in_interval("factor", factor, "(0, 1)", "it multiplies the rate after each trial")
    _checks.steps("trials", trials, unit="trials")
    _checks.steps("num_steps", num_steps, at_least=2)
    _checks.non_negative("min_fall", min_fall)
    require_progress(progress)
    seed_array = as_seeds(seeds)
    try_out_rates(tx, [start_rate])
    require_descent_on(workload, tx(float(start_rate)))
    family = RunFamily(workload, FromRate(tx), num_steps, num_steps)
    table = _Trials(family, seed_array, min_fall)
    identity = {
        "kind": "halve_until_trains",
        "start_rate": start_rate,
        "factor": factor,
        "steps": num_steps,
        "min_fall": min_fall,
        "seeds": seed_array.tolist(),
    }
    each = num_steps * len(seed_array)
    with Study(
        f"trials, {workload.name}", checkpoint, progress, lambda: family.identity(["rate"], **identity), "trial"
    ) as study:
        if study.made is not None:
            kept = study.restore()
            table.rows = {name: list(kept[name][:trials]) for name in table.rows}
            study.announce(f"resumed after {table.made} of at most {trials}")
        status = study.show(table.made * each, trials * each)
        while table.made < trials and not table.trained:
            rate = start_rate * factor**table.made
            status.title = f"trial at {rate:.3g}, {workload.name}"
            table.try_rate(rate, status, table.made * each)
            study.save(table.made, {name: np.array(values) for name, values in table.rows.items()})
    return table.result()


class _Trials:
    """The trials that were made so far."""

    def __init__(self, family: RunFamily, seeds: np.ndarray, min_fall: float) -> None:
        self.family, self.seeds, self.min_fall = family, seeds, min_fall
        self.initial_loss = InitialLoss(family.workload)
        self.plan: Plan | None = None
        self.rows: dict[str, list[Any]] = {
            name: [] for name in ("rates", "verdicts", "first_loss", "final_loss", "losses")
        }

    @property
    def made(self) -> int:
        """The number of trials."""
        return len(self.rows["rates"])

    @property
    def trained(self) -> bool:
        """True if the last trial trained."""
        return bool(self.made) and self.rows["verdicts"][-1] == TRAINS

    def try_rate(self, rate: float, status: ProgressMeter, before: int) -> None:
        """Train at a rate, and add a row to the table; `status` has counted `before` steps."""
        num_steps, tenth = self.family.num_steps, max(1, round(PART * self.family.num_steps))
        if self.plan is None:
            strategy = "map" if len(self.seeds) == 1 else "vmap"
            self.plan = choose_plan(self.family, {"rate": np.ones(1)}, self.seeds, strategy=strategy)
            status.start()
        hyper = {"rate": np.array([rate], np.float32)}
        runs = self.plan.start(hyper, self.seeds)
        runs = advance(self.plan, runs, hyper, self.seeds, 0, num_steps, status, before)
        curve = curves(runs)[:, 0]
        first, last = curve[:, :tenth].mean(axis=1), curve[:, -tenth:].mean(axis=1)
        starts, stops = (np.full((len(self.seeds), 1), step) for step in (num_steps - tenth, num_steps))
        initial = self.initial_loss.means(self.seeds, starts, stops)[:, 0]
        finite = bool(np.isfinite(curve).all())
        if not finite:
            verdict = DIVERGES
        elif np.any(last > first):
            verdict = RISES
        else:
            falls = [loss - last > max(self.min_fall, MIN_CHANGE) * np.abs(loss) for loss in (first, initial)]
            verdict = TRAINS if np.all(falls) else STALLS
        row = hyper["rate"][0], verdict, first.mean(), last.mean() if finite else np.inf, curve.mean(axis=0)
        for name, value in zip(self.rows, row, strict=True):
            self.rows[name].append(value)

    def result(self) -> TrialTable:
        """Return the table."""
        rows = self.rows
        return TrialTable(
            float(rows["rates"][-1]) if self.trained else None,
            np.array(rows["rates"]),
            [VERDICTS[verdict] for verdict in rows["verdicts"]],
            np.array(rows["first_loss"], np.float32),
            np.array(rows["final_loss"], np.float32),
            np.stack(rows["losses"]),
        )
