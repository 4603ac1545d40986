"""Many hyperparameters and seeds in one compiled program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from lrx import _checks
from lrx.training.identity import Identity
from lrx.training.many import RunFamily
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import ProgressMeter, require_progress
from lrx.training.runs import advance, concatenate, evaluate, outcome, tail_steps
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on
from lrx.tuning.execution import AUTO, NUM_POINTS, Execution, require_execution
from lrx.tuning.initial_loss import InitialLoss
from lrx.tuning.sharing import SharedStudy
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
    storage: Any = None,
    progress: bool | str | None = None,
) -> SweepResult:
    """Train with every combination of hyperparameters, and every seed, in one compiled program.

    Any float that `tx` takes can be swept: rates, betas, weight decay, and durations such as warm-up steps. Runs of the
    same seed start from the same parameters and see the same minibatches, those of `lrx.train(..., seed=seed)`. A run
    whose loss is not finite has diverged; the others continue. A run that a controller stops keeps its loss.

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
      storage: a storage of Optuna, by its address or as an `optuna.storages.RDBStorage` with a heartbeat: processes, on
        any machines, that make the same call with "sqlite:///sweep.db" share its members, `execution.chunk_size` of
        them at a time, by default one. Each returns the whole result. The members of a process that is killed are
        trained by another one, after a minute without a heartbeat; results are kept as in a checkpoint, in SQLite or
        PostgreSQL (an attribute of a trial in MySQL is too small for them). A call that differs in anything that
        determines its numbers has its own study there; when it begins one, a line on stderr says how it differs.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `SweepResult`.

    Raises:
      ValueError: if an argument is out of its range, `tx` refuses a value or ascends (`lrx.direction`), the folder
        holds another sweep, the storage cannot be used or shared, or both are given; before anything is trained.
      TypeError: if an argument is of the wrong type, or `tx` does not take these names.
      ImportError: if `checkpoint` is given and orbax is not installed, or `storage` and optuna is not.

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
    if storage is not None and checkpoint is not None:
        raise ValueError("storage must be given without checkpoint: it keeps the results itself; give one of them.")
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
    title = f"sweep, {workload.name}"

    def described(**more: Any) -> Identity:
        return family.identity(members.members, **identity, **more)

    with Study(title, checkpoint, progress, described, "member") as study:
        if storage is not None:
            at_a_time = execution.chunk_size or 1
            shared = SharedStudy(title, storage, described(chunk=at_a_time), -(-members.size // at_a_time))
            work.share(shared, at_a_time, study)
            return work.result()
        work.restore(study)
        status = study.show(work.made * work.steps_of_member, members.size * work.steps_of_member)
        while work.made < members.size:
            work.train_next(status)
            study.save(work.made, work.record)
    return work.result()


class _Sweep:
    """The members that were trained so far, from the first one."""

    def __init__(
        self, family: RunFamily, space: Space, seeds: np.ndarray, times: np.ndarray, execution: Execution
    ) -> None:
        self.family, self.space, self.seeds, self.times, self.execution = family, space, seeds, times, execution
        self.initial_loss = InitialLoss(family.workload)
        self.plan: Plan | None = None
        self.steps_of_member = len(seeds) * family.num_steps
        self.made = 0  # members
        self.record: dict[str, np.ndarray] = {}  # name to values, (made, seeds, ...)

    def restore(self, study: Study) -> None:
        """Take over what an earlier call has kept."""
        if study.made is not None:
            self.record, self.made = study.restore(), study.made
            study.announce(f"resumed after {self.made} of {self.space.size} members")

    def share(self, shared: SharedStudy, at_a_time: int, study: Study) -> None:
        """Train members until all are trained, here or by other processes, and collect the results of all."""

        def members_of(place: int) -> range:
            return range(place * at_a_time, min((place + 1) * at_a_time, self.space.size))

        def steps_made() -> int:
            return sum(len(members_of(place)) for place in shared.made()) * self.steps_of_member

        status = study.show(steps_made(), self.space.size * self.steps_of_member)

        def about(place: int) -> dict[str, list[float]]:
            return {name: values[members_of(place)].tolist() for name, values in self.space.members.items()}

        def part(place: int) -> tuple[float, dict[str, np.ndarray]]:
            members = members_of(place)
            before = steps_made()
            record: dict[str, np.ndarray] = {}
            made = 0
            while made < len(members):
                found, number = self._train(members[made:], status, before + made * self.steps_of_member)
                record, made = concatenate(record, made, found, number), made + number
            means = record["final_loss"].mean(axis=-1)
            return float(np.where(np.isnan(means), np.inf, means).min()), record

        shared.make(part, about, status.announce)
        for found in shared.arrays():
            number = len(found["final_loss"])
            self.record, self.made = concatenate(self.record, self.made, found, number), self.made + number

    def train_next(self, status: ProgressMeter) -> None:
        """Train and evaluate as many of the next members as are trained at a time."""
        found, number = self._train(range(self.made, self.space.size), status, self.made * self.steps_of_member)
        self.record, self.made = concatenate(self.record, self.made, found, number), self.made + number

    def _train(self, members: range, status: ProgressMeter, before: int) -> tuple[dict[str, np.ndarray], int]:
        """Train and evaluate as many of some members as are trained at a time; return their results and number.

        `before` is the number of steps of all runs that were made before.
        """
        rest = {name: values[members.start : members.stop] for name, values in self.space.members.items()}
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
        runs, step = self.plan.start(hyper, self.seeds), 0
        evaluations = []
        for time in self.times.tolist():
            runs = advance(self.plan, runs, hyper, self.seeds, step, time, status, before)
            before, step = before + len(self.seeds) * number * (time - step), time
            evaluations.append(evaluate(self.family.workload, runs, self.seeds, number))
        initial = self.initial_loss.means(self.seeds, *tail_steps(runs))
        return outcome(runs, number, evaluations, initial), number

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
