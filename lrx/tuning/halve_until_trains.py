"""For training that does not get going: halve the rate until a short trial shows that it does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.training.checkpoints import RunFolder
from lrx.training.many import RunFamily
from lrx.training.plan import choose_plan
from lrx.training.progress import reporter, require_progress, say
from lrx.training.runs import advance, curves
from lrx.tuning.learnt import LEAST, InitialLoss
from lrx.tuning.problem import as_seeds, as_workload, require_trains
from lrx.tuning.space import try_out_rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PART = 0.1  # of a trial, over which the first and the final loss are means
VERDICTS = ("trains", "stalls", "rises", "diverges")
TRAINS, STALLS, RISES, DIVERGES = range(len(VERDICTS))


@dataclasses.dataclass(frozen=True, eq=False)
class TrialTable:
    """What short trials at falling rates did.

    Attributes:
      rate: the first rate that trains; None where none of those tried does.
      rates: (trials,) float32, those that were tried.
      verdicts: for each "trains", "stalls" (the loss falls too little), "rises" or "diverges".
      first_loss: (trials,) float32, the mean of the first tenth of the trial, over seeds.
      final_loss: (trials,) float32, the mean of its last tenth; infinite where it diverged with some seed.
      losses: (trials, steps) float32, the curves, means over seeds; NaN from where a trial diverged.
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
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    tx: Callable[[Any], optax.GradientTransformation],
    start_rate: float,
    factor: float = 0.5,
    trials: int = 20,
    num_steps: int = 100,
    min_fall: float = 0.05,
    has_state: bool = False,
    seeds: int | Sequence[int] = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> TrialTable:
    """Try `start_rate`, then a half of it, and so on, until the loss falls.

    Each trial begins at the same parameters and sees the same minibatches. It trains where no loss was infinite or NaN
    and the mean loss of its last tenth is below that of its first, and below that of the initial parameters on the same
    minibatches, by more than `min_fall` times the size of each, and by a thousandth of it at least.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: an `lrx.training.Batches`; or arrays whose leading axis counts batches, over which steps go round; or an
        iterable of batches.
      tx: `rate -> transformation`, such as `lrx.adam`; it gets a tracer.
      start_rate: the first rate, > 0.
      factor: what the rate is multiplied by after a trial that fails, in (0, 1).
      trials: how many at most.
      num_steps: length of a trial, at least 2.
      min_fall: share of the loss that it has to fall by, >= 0.
      has_state: `loss_fn` is `(params, model_state, batch, key) -> (loss, model_state)`, and `init_fn` gives both.
      seeds: how many runs of each trial, with seeds 0, 1, ..., or the seeds; all have to train.
      checkpoint: a folder. After each trial the table is kept there, and the same call, or one with more `trials`, goes
        on with the next one.
      progress: True shows a bar, or lines where there is no terminal; by default a bar, on a terminal alone; a string
        is its title; False shows nothing.

    Returns:
      A `TrialTable`; printing it shows what each trial did.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`), an iterable of batches ends early,
        or the folder holds other trials.
      TypeError: if an argument is of another kind.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> found = lrx.halve_until_trains(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=Batches((x, 3.0 * x), batch_size=64),
      ...     tx=lrx.sgd,
      ...     start_rate=8.0,
      ... )
      >>> found.rate, found.verdicts
      (2.0, ['diverges', 'diverges', 'trains'])
    """
    _checks.positive("start_rate", start_rate)
    _checks.in_interval("factor", factor, "(0, 1)", "it multiplies the rate after each trial")
    _checks.steps("trials", trials, unit="trials")
    _checks.steps("num_steps", num_steps, at_least=2)
    _checks.non_negative("min_fall", min_fall)
    require_progress(progress)
    seed_array = as_seeds(seeds)
    try_out_rates(tx, [start_rate])
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=num_steps)
    require_trains(workload, tx(float(start_rate)))
    initial_loss = InitialLoss(workload)
    family = RunFamily(workload, lambda hyper, count: tx(hyper["rate"]), num_steps, num_steps)  # noqa: ARG005
    tenth = max(1, round(PART * num_steps))
    rows: dict[str, list[Any]] = {name: [] for name in ("rates", "verdicts", "first_loss", "final_loss", "losses")}
    each = num_steps * len(seed_array)
    with contextlib.ExitStack() as stack:
        folder = None
        if checkpoint is not None:
            folder = stack.enter_context(contextlib.closing(RunFolder(checkpoint)))
            about = family.identity(
                ["rate"],
                kind="halve_until_trains",
                start_rate=start_rate,
                factor=factor,
                steps=num_steps,
                min_fall=min_fall,
                seeds=seed_array.tolist(),
            )
            if folder.latest() is not None:
                folder.require_same_run(about)
                _, _, kept = folder.restore(())
                rows = {name: list(kept[name][:trials]) for name in rows}
                say(f"trials, {workload.name}", f"resumed after {len(rows['rates'])} of at most {trials}")
        made = len(rows["rates"])
        status = stack.enter_context(
            reporter(
                progress, f"trials, {workload.name}", step=made * each, total=trials * each, batch_size=1, unit="steps"
            )
        )
        plan = None
        for trial in range(made, trials):
            if trial and rows["verdicts"][-1] == TRAINS:
                break
            if plan is None:
                strategy = "map" if len(seed_array) == 1 else "vmap"
                plan = choose_plan(family, {"rate": np.ones(1)}, seed_array, strategy=strategy)
                status.start()
            status.title = f"trial at {start_rate * factor**trial:.3g}, {workload.name}"
            hyper = {"rate": np.array([start_rate * factor**trial], np.float32)}
            runs = advance(plan, plan.start(hyper, seed_array), hyper, seed_array, 0, num_steps, status, trial * each)
            curve = curves(runs)[:, 0]
            first, last = curve[:, :tenth].mean(axis=1), curve[:, -tenth:].mean(axis=1)
            initial = initial_loss.means(
                seed_array, *(np.full((len(seed_array), 1), n) for n in (num_steps - tenth, num_steps))
            )
            finite = bool(np.isfinite(curve).all())
            if not finite:
                verdict = DIVERGES
            elif np.any(last > first):
                verdict = RISES
            else:
                falls = [loss - last > max(min_fall, LEAST) * np.abs(loss) for loss in (first, initial[:, 0])]
                verdict = TRAINS if np.all(falls) else STALLS
            row = hyper["rate"][0], verdict, first.mean(), last.mean() if finite else np.inf, curve.mean(axis=0)
            for name, value in zip(rows, row, strict=True):
                rows[name].append(value)
            if folder is not None:
                folder.save(trial + 1, (), {name: np.array(values) for name, values in rows.items()}, about)
    trained = rows["verdicts"][-1] == TRAINS
    return TrialTable(
        float(rows["rates"][-1]) if trained else None,
        np.array(rows["rates"]),
        [VERDICTS[verdict] for verdict in rows["verdicts"]],
        np.array(rows["first_loss"], np.float32),
        np.array(rows["final_loss"], np.float32),
        np.stack(rows["losses"]),
    )
