"""Many hyperparameters and seeds in one compiled program."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.training.checkpoints import RunFolder
from lrx.training.many import RunFamily
from lrx.training.plan import STRATEGIES, choose_plan
from lrx.training.progress import reporter, require_progress, say
from lrx.training.runs import advance, concatenate, evaluate, outcome, tail_steps
from lrx.tuning.learnt import InitialLoss, changed, fell
from lrx.tuning.problem import as_seeds, as_workload, require_comparable, require_trains
from lrx.tuning.space import Range, make_space, try_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_POINTS = 100  # of each curve, by default
MOST_ROWS = 20  # of a table that is printed


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResult:
    """What a sweep found. The leading axes are those of the grid, or one for the samples; the last is that of seeds.

    Attributes:
      axes: hyperparameter to its values along its own axis of the grid, or for each sample.
      seeds: (seeds,) of the runs.
      final_loss: (members..., seeds) float32, the mean training loss of the last tenth of the steps; infinite where
        a run diverged.
      initial_loss: (members..., seeds) float32, the mean loss that the initial parameters have on the minibatches of
        `final_loss`: what is not below it has learnt nothing.
      losses: (members..., seeds, points) float32, the curves; NaN from where a run diverged.
      rates: (members..., seeds, points) float32, the mean learning rate of each point; NaN from where a run diverged,
        and where the optimizer's state holds no rate, or one for each of several groups.
      steps: (points,) the step in the middle of each point of a curve.
      evaluations: name to (members..., seeds) float32, what the workload's `evaluate` gave at the end; empty where it
        has none.
      evaluation_curves: name to (members..., seeds, times) float32, the same after each of `evaluation_steps`; NaN
        where a run has diverged by then.
      evaluation_steps: (times,) int64, numbers of steps made, the last of which is all of them.
      is_grid: whether each hyperparameter has an axis of its own.
      strategy: "vmap" or "map", how the runs were compiled; "restored" where all were in the checkpoint.
      chunk_size: members that were trained at a time; 0 where none was.
      seconds: strategy to the seconds of a step of one run, where both were measured.
    """

    axes: dict[str, np.ndarray]
    seeds: np.ndarray
    final_loss: np.ndarray
    initial_loss: np.ndarray
    losses: np.ndarray
    rates: np.ndarray
    steps: np.ndarray
    evaluations: dict[str, np.ndarray]
    evaluation_curves: dict[str, np.ndarray]
    evaluation_steps: np.ndarray
    is_grid: bool
    strategy: str
    chunk_size: int
    seconds: dict[str, float]

    def best(self, metric: str | None = None, *, mode: str = "min") -> dict[str, float]:
        """Return the hyperparameters with the best mean over seeds, of the members that have learnt something.

        Those are the members whose mean final loss is below that of the initial parameters by more than a thousandth
        of it; with a metric, also those whose loss is above it by more than that.

        Args:
          metric: one of `evaluations`; the final training loss by default.
          mode: "min" for a loss, "max" for an accuracy.

        Raises:
          ValueError: if every member diverged with some seed, none has learnt anything, the metric is unknown or finite
            nowhere, or the mode is "max" without a metric.
        """
        means = self._means(metric, mode)
        if not np.any(np.isfinite(means)):
            if np.isfinite(self.final_loss).all(axis=-1).any():
                raise ValueError(
                    f"the {metric} of no member is finite with every seed, though not all diverged: look at what the "
                    "workload's evaluate gives."
                )
            raise ValueError("every member of the sweep diverged with some seed: sweep lower rates.")
        initial, final = self.initial_loss.mean(axis=-1), self.final_loss.mean(axis=-1)
        learnt = fell(initial, final) if metric is None else changed(initial, final)
        worst = np.inf if mode == "min" else -np.inf
        means = np.where(learnt, means, worst)
        if not np.any(np.isfinite(means)):
            raise ValueError(
                f"no member of the sweep has learnt anything: the lowest final loss is {np.min(final):.6g}, and the "
                f"initial parameters have {initial.flat[np.argmin(final)]:.6g} on the same minibatches. Sweep higher "
                "rates, give more num_steps, or look at the gradients."
            )
        place = np.unravel_index(int(np.argmin(means if mode == "min" else -means)), means.shape)
        if self.is_grid:
            return {name: float(values[i]) for (name, values), i in zip(self.axes.items(), place, strict=True)}
        return {name: float(values[place[0]]) for name, values in self.axes.items()}

    def _means(self, metric: str | None, mode: str) -> np.ndarray:
        """(members...): means over seeds, the worst there is where a run diverged."""
        require_comparable(metric, mode, None)
        if metric is not None and metric not in self.evaluations:
            raise ValueError(
                f"metric must be one of {sorted(self.evaluations)}, or None for the training loss, got "
                f"metric={metric!r}."
            )
        values = self.final_loss if metric is None else self.evaluations[metric]
        worst = np.inf if mode == "min" else -np.inf
        means = np.where(np.isfinite(self.final_loss), values, worst).mean(axis=-1)
        return np.where(np.isfinite(means), means, worst)

    def plot(self, metric: str | None = None, *, names: Sequence[str] | None = None, mode: str = "min") -> Figure:
        """Draw a metric over one hyperparameter as a line, or over two as a map; needs matplotlib.

        Args:
          metric: as in `best`.
          names: the one or two hyperparameters of the axes; by default the first two. Over the others of a grid the
            best is taken.
          mode: as in `best`.

        Raises:
          ValueError: if there are not one or two names, or one is unknown.
        """
        from lrx.tuning.figures import heat_map, line, scatter

        names = list(self.axes)[:2] if names is None else list(names)
        if not 1 <= len(names) <= 2 or not set(names) <= set(self.axes) or len(set(names)) < len(names):
            raise ValueError(f"names must be one or two of {list(self.axes)}, got names={names}.")
        means, label = self._means(metric, mode), metric or "final loss"
        if not self.is_grid:
            sampled = [(name, self.axes[name]) for name in names]
            return scatter(sampled, means, label, mode, self._said(metric, mode))
        others = tuple(place for place, name in enumerate(self.axes) if name not in names)
        reduced = means.min(axis=others) if mode == "min" else means.max(axis=others)
        kept = [name for name in self.axes if name in names]
        if kept != names:
            reduced = reduced.T
        if len(names) == 2:
            return heat_map([(name, self.axes[name]) for name in names], reduced, label, mode, self._said(metric, mode))
        runs = self.final_loss if metric is None else self.evaluations[metric]
        by_seed = runs if not others else None
        return line((names[0], self.axes[names[0]]), reduced, by_seed, label, mode, self._said(metric, mode))

    def at_edge(self, metric: str | None = None, *, mode: str = "min") -> dict[str, str]:
        """Return for each hyperparameter whose best value is an end of its axis which one: a better may lie beyond it.

        Args:
          metric: as in `best`.
          mode: as in `best`.

        Returns:
          name to "lowest" or "highest"; empty for random samples, and where the best lies within the grid.

        Raises:
          ValueError: as `best`.
        """
        found = {}
        if self.is_grid:
            for name, value in self.best(metric, mode=mode).items():
                axis = self.axes[name]
                if len(axis) > 1 and value in (axis.min(), axis.max()):
                    found[name] = "lowest" if value == axis.min() else "highest"
        return found

    def _said(self, metric: str | None, mode: str) -> str:
        """Say in words which member is best, and where that is an end of an axis."""
        try:
            best, edges = self.best(metric, mode=mode), self.at_edge(metric, mode=mode)
        except ValueError as error:
            return str(error)
        chosen = ", ".join(f"{name}={value:.6g}" for name, value in best.items())
        at = " and ".join(f"the {end} {name}" for name, end in edges.items())
        return f"best: {chosen}" + (f", {at} of the grid: a better one may lie beyond" if at else "")

    def __repr__(self) -> str:
        members = " x ".join(f"{len(values)} {name}" for name, values in self.axes.items())
        if not self.is_grid:
            members = f"{len(self.final_loss)} samples of {', '.join(self.axes)}"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        return f"SweepResult({members}, {seeds}, {int(self.evaluation_steps[-1]):,} steps)"

    def __str__(self) -> str:
        means = self._means(None, "min")
        names = list(self.axes)
        places = np.argsort(means.ravel(), kind="stable")
        rows = [[*(f"{name:>10}" for name in names), f"{'final loss':>10}"]]
        rows[0] += [f"{name:>10}" for name in self.evaluations]
        for place in places[:MOST_ROWS]:
            at = np.unravel_index(int(place), means.shape)
            values = [self.axes[name][at[i] if self.is_grid else at[0]] for i, name in enumerate(names)]
            found = [means[at], *(results[at].mean() for results in self.evaluations.values())]
            rows.append([f"{value:>10.4g}" for value in values] + [_number(value) for value in found])
        more = [f"and {len(places) - MOST_ROWS} more"] if len(places) > MOST_ROWS else []
        return "\n".join([repr(self), *("  ".join(row) for row in rows), *more, self._said(None, "min")])


def sweep(
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    tx: Callable[..., optax.GradientTransformation],
    grid: Mapping[str, Any] | None = None,
    sample: Mapping[str, Range] | None = None,
    num_samples: int | None = None,
    num_steps: int,
    seeds: int | Sequence[int] = 1,
    num_points: int = NUM_POINTS,
    evaluate_every: int | None = None,
    has_state: bool = False,
    strategy: str = "auto",
    chunk_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> SweepResult:
    """Train with every combination of hyperparameters, and every seed, in one compiled program.

    Any float that `tx` takes can be swept: rates, betas, weight decay, and durations such as warm-up steps. Runs of the
    same seed start from the same parameters and see the same minibatches, those of `lrx.train(..., seed=seed)`. A run
    whose loss is not finite is frozen; the others go on. One that a controller stops keeps its loss.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: an `lrx.training.Batches`; or arrays whose leading axis counts batches, over which steps go round; or an
        iterable of batches.
      tx: takes the hyperparameters by name to a transformation, `lambda lr, b1: lrx.adam(lr, b1=b1)`; it gets tracers.
      grid: hyperparameter to a list of values; each has its axis in the result.
      sample: hyperparameter to a range, `lrx.tuning.log_uniform(1e-4, 1.0)`, in place of a grid.
      num_samples: how many members are drawn from the ranges; the same ones each time.
      num_steps: length of each run.
      seeds: how many runs of each member, with seeds 0, 1, ..., or the seeds.
      num_points: of each curve of training losses, of which each is the mean over as many steps.
      evaluate_every: steps between evaluations; by default only the end is evaluated.
      has_state: `loss_fn` is `(params, model_state, batch, key) -> (loss, model_state)`, and `init_fn` gives both.
      strategy: "vmap" makes a step of all runs at once, "map" one run after the other, in one program; "auto" measures
        both, and the result says which was faster. Over several devices members are split.
      chunk_size: members that are trained at a time; by default as many as fit into the memory that is free.
      checkpoint: a folder. After each chunk its results are kept there, and the same call goes on with the next one. A
        call that differs in anything that makes its numbers is refused (`lrx.training.identity`).
      progress: True shows a bar, or lines where there is no terminal; by default a bar, on a terminal alone; a string
        is its title; False shows nothing.

    Returns:
      A `SweepResult`.

    Raises:
      ValueError: if an argument is out of its range, `tx` refuses a value or ascends (`lrx.direction`), an iterable of
        batches ends early, or the folder holds another sweep; before anything is trained.
      TypeError: if an argument is of another kind, or `tx` does not take the names.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> found = lrx.sweep(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=Batches((x, 3.0 * x), batch_size=16),
      ...     tx=lambda lr, momentum: lrx.sgd(lr, momentum=momentum),
      ...     grid={"lr": [1e-3, 1e-2, 1e-1, 1e9], "momentum": [0.0, 0.9]},
      ...     num_steps=50,
      ...     seeds=3,
      ... )
      >>> found.final_loss.shape, found.best()["lr"], bool(jnp.isinf(found.final_loss[3]).all())
      ((4, 2, 3), 0.1, True)
    """
    seed_array = as_seeds(seeds)
    _checks.steps("num_steps", num_steps)
    _checks.steps("num_points", num_points, unit="points")
    if evaluate_every is not None:
        _checks.steps("evaluate_every", evaluate_every)
    _checks.one_of("strategy", strategy, ("auto", *STRATEGIES))
    if chunk_size is not None:
        _checks.steps("chunk_size", chunk_size, unit="members")
    require_progress(progress)
    space = make_space(grid, sample, num_samples, seed=int(seed_array[0]))
    try_out(tx, space)
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=num_steps)
    require_trains(workload, tx(**space.first))
    if evaluate_every is not None and workload.evaluate is None:
        raise ValueError(f"evaluate_every needs a workload that evaluates, got evaluate_every={evaluate_every}.")
    family = RunFamily(workload, lambda hyper, count: tx(**hyper), num_steps, num_points, keep_rates=True)  # noqa: ARG005
    initial_loss = InitialLoss(workload)
    times = np.array([*range(evaluate_every or num_steps, num_steps, evaluate_every or 1), num_steps])
    folder = None
    done: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as stack:
        if checkpoint is not None:
            folder = stack.enter_context(contextlib.closing(RunFolder(checkpoint)))
            about = family.identity(
                space.members,
                kind="sweep",
                steps=num_steps,
                seeds=seed_array.tolist(),
                members={name: values.tolist() for name, values in space.members.items()},
                points=num_points,
                evaluated=times.tolist(),
            )
            if folder.latest() is not None:
                folder.require_same_run(about)
                _, _, done = folder.restore(())
                say(f"sweep, {workload.name}", f"resumed after {len(done['final_loss'])} of {space.size} members")
        total = space.size * len(seed_array) * num_steps
        made = len(done.get("final_loss", ()))
        status = reporter(
            progress,
            f"sweep, {workload.name}",
            step=made * len(seed_array) * num_steps,
            total=total,
            batch_size=1,
            unit="steps",
        )
        plan = None
        with status:
            while made < space.size:
                rest = {name: values[made:] for name, values in space.members.items()}
                if plan is None:
                    plan = choose_plan(family, rest, seed_array, strategy=strategy, chunk_size=chunk_size)
                    status.start()
                hyper = {name: values[: plan.members] for name, values in rest.items()}
                number = len(next(iter(hyper.values())))
                before = made * len(seed_array) * num_steps
                runs, step = plan.start(hyper, seed_array), 0
                by_time: list[dict[str, np.ndarray]] = []
                for time_ in times.tolist():
                    runs = advance(plan, runs, hyper, seed_array, step, time_, status, before)
                    before, step = before + len(seed_array) * number * (time_ - step), time_
                    by_time.append(evaluate(workload, runs, seed_array, number))
                found = outcome(runs, number, by_time, initial_loss.means(seed_array, *tail_steps(runs)))
                done = concatenate(done, made, found, number)
                made += number
                if folder is not None:
                    folder.save(made, (), done, about)
    shape = (*space.shape, len(seed_array))
    evaluation_curves = {
        name.removeprefix("evaluations/"): values.reshape(*shape, -1)
        for name, values in done.items()
        if name.startswith("evaluations/")
    }
    return SweepResult(
        space.axes,
        seed_array,
        done["final_loss"].reshape(shape),
        done["initial_loss"].reshape(shape),
        done["losses"].reshape(*shape, -1),
        done["rates"].reshape(*shape, -1),
        family.point_steps,
        {name: values[..., -1] for name, values in evaluation_curves.items()},
        evaluation_curves,
        times,
        grid is not None,
        "restored" if plan is None else plan.strategy,
        0 if plan is None else plan.members,
        {} if plan is None else plan.seconds,
    )


def _number(value: float) -> str:
    return f"{value:>10.4g}" if np.isfinite(value) else f"{'diverged':>10}"
