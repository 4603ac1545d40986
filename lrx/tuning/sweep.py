"""Many hyperparameters and seeds in one compiled program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from lrx import _checks
from lrx.training.many import RunFamily
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import ProgressMeter, require_progress
from lrx.training.runs import advance, concatenate, evaluate, outcome, tail_steps
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on
from lrx.tuning.execution import AUTO, NUM_POINTS, Execution, require_execution
from lrx.tuning.initial_loss import InitialLoss
from lrx.tuning.space import FromHyperparameters, Random, Space, make_space, try_out
from lrx.tuning.study import Study
from lrx.tuning.sweep_result import SweepResult


def sweep(
    workload: Workload,
    tx: Callable[..., optax.GradientTransformation],
    space: Mapping[str, Any] | Random,
    *,
    num_steps: int,
    seeds: int | Sequence[int] = 1,
    num_points: int = NUM_POINTS,
    evaluate_every: int | None = None,
    execution: Execution = AUTO,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> SweepResult:
    """Train with every combination of hyperparameters, and every seed, in one compiled program.

    Any float that `tx` takes can be swept: rates, betas, weight decay, and durations such as warm-up steps. Runs of the
    same seed start from the same parameters and see the same minibatches, those of `lrx.train(..., seed=seed)`. A run
    whose loss is not finite is frozen; the others continue. A run that a controller stops keeps its loss.

    Args:
      workload: the model, its data and its loss.
      tx: takes the hyperparameters by name and returns a transformation, `lambda lr, b1: lrx.adam(lr, b1=b1)`; their
        values are traced.
      space: a grid, `{"lr": [0.01, 0.1]}`, in which each hyperparameter has its axis in the result; or a random sample,
        `lrx.tuning.Random({"lr": lrx.tuning.log_uniform(1e-4, 1.0)}, num_samples=27)`, the same one each time.
      num_steps: length of each run.
      seeds: number of runs of each member (with seeds 0, 1, ...), or the list of seeds.
      num_points: number of points of each training-loss curve; each is a mean over equally many steps.
      evaluate_every: steps between evaluations; by default only the end is evaluated.
      execution: how the runs are compiled, and how many at a time.
      checkpoint: a folder. The results are kept there after each chunk of members, and the same call continues with the
        next chunk. A call that differs in anything that determines its numbers is refused (`lrx.training.identity`).
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `SweepResult`.

    Raises:
      ValueError: if an argument is out of its range, `tx` refuses a value or ascends (`lrx.direction`), or the folder
        holds another sweep; before anything is trained.
      TypeError: if an argument is of the wrong type, or `tx` does not take these names.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     lrx.Batches((x, 3.0 * x), batch_size=16),
      ... )
      >>> found = lrx.sweep(
      ...     line,
      ...     lambda lr, momentum: lrx.sgd(lr, momentum=momentum),
      ...     {"lr": [1e-3, 1e-2, 1e-1, 1e9], "momentum": [0.0, 0.9]},
      ...     num_steps=50,
      ...     seeds=3,
      ... )
      >>> found.final_loss.shape, found.best()["lr"], bool(jnp.isinf(found.final_loss[3]).all())
      ((4, 2, 3), 0.1, True)
    """
    require_workload(workload)
    seed_array = as_seeds(seeds)
    _checks.steps("num_steps", num_steps)
    _checks.steps("num_points", num_points, unit="points")
    if evaluate_every is not None:
        _checks.steps("evaluate_every", evaluate_every)
    require_execution(execution)
    require_progress(progress)
    members = make_space(space, seed=int(seed_array[0]))
    try_out(tx, members)
    require_descent_on(workload, tx(**members.first))
    if evaluate_every is not None and workload.evaluate is None:
        raise ValueError(f"evaluate_every needs a workload that evaluates, got evaluate_every={evaluate_every}.")
    times = np.array([*range(evaluate_every or num_steps, num_steps, evaluate_every or 1), num_steps])
    family = RunFamily(workload, FromHyperparameters(tx), num_steps, num_points, keep_rates=True)
    work = _Sweep(family, members, seed_array, times, execution)
    identity = {
        "kind": "sweep",
        "steps": num_steps,
        "seeds": seed_array.tolist(),
        "members": {name: values.tolist() for name, values in members.members.items()},
        "points": num_points,
        "evaluated": times.tolist(),
    }
    with Study(
        f"sweep, {workload.name}", checkpoint, progress, lambda: family.identity(members.members, **identity), "member"
    ) as study:
        work.restore(study)
        each = len(seed_array) * num_steps
        status = study.show(work.made * each, members.size * each)
        while work.made < members.size:
            work.train_chunk(status)
            study.save(work.made, work.record)
    return work.result()


class _Sweep:
    """The members that were trained so far."""

    def __init__(
        self, family: RunFamily, space: Space, seeds: np.ndarray, times: np.ndarray, execution: Execution
    ) -> None:
        self.family, self.space, self.seeds, self.times, self.execution = family, space, seeds, times, execution
        self.initial_loss = InitialLoss(family.workload)
        self.plan: Plan | None = None
        self.made = 0  # members
        self.record: dict[str, np.ndarray] = {}  # name to values, (made, seeds, ...)

    def restore(self, study: Study) -> None:
        """Take over what an earlier call has kept."""
        if study.made is not None:
            self.record, self.made = study.restore(), study.made
            study.announce(f"resumed after {self.made} of {self.space.size} members")

    def train_chunk(self, status: ProgressMeter) -> None:
        """Train and evaluate as many of the next members as are trained at a time."""
        rest = {name: values[self.made :] for name, values in self.space.members.items()}
        if self.plan is None:
            strategy, chunk_size = self.execution.strategy, self.execution.chunk_size
            self.plan = choose_plan(
                self.family,
                rest,
                self.seeds,
                strategy=strategy,
                chunk_size=chunk_size,
                devices=self.execution.devices,
            )
            status.start()
        hyper = {name: values[: self.plan.members] for name, values in rest.items()}
        number = len(next(iter(hyper.values())))
        before = self.made * len(self.seeds) * self.family.num_steps
        runs, step = self.plan.start(hyper, self.seeds), 0
        evaluations = []
        for time in self.times.tolist():
            runs = advance(self.plan, runs, hyper, self.seeds, step, time, status, before)
            before, step = before + len(self.seeds) * number * (time - step), time
            evaluations.append(evaluate(self.family.workload, runs, self.seeds, number))
        found = outcome(runs, number, evaluations, self.initial_loss.means(self.seeds, *tail_steps(runs)))
        self.record = concatenate(self.record, self.made, found, number)
        self.made += number

    def result(self) -> SweepResult:
        """Return the result of all members."""
        shape = (*self.space.shape, len(self.seeds))
        curves = {
            name.removeprefix("evaluations/"): values.reshape(*shape, -1)
            for name, values in self.record.items()
            if name.startswith("evaluations/")
        }
        return SweepResult(
            self.space.axes,
            self.seeds,
            self.record["final_loss"].reshape(shape),
            self.record["initial_loss"].reshape(shape),
            self.record["losses"].reshape(*shape, -1),
            self.record["rates"].reshape(*shape, -1),
            self.family.point_steps,
            {name: values[..., -1] for name, values in curves.items()},
            curves,
            self.times,
            self.space.is_grid,
            "restored" if self.plan is None else self.plan.strategy,
            0 if self.plan is None else self.plan.members,
            {} if self.plan is None else self.plan.seconds,
        )
