"""Successive halving: many members for a few steps, the better ones for more, the best to the end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.training.batch_stats import evaluation_point
from lrx.training.following import BestBy
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import choose_plan
from lrx.training.progress import ProgressMeter, require_progress
from lrx.training.runs import advance, curves, evaluate, tail_loss, tail_steps, to_host
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import LEAST_TRAINING_LOSS, as_best, as_seeds, require_descent_on
from lrx.tuning.execution import AUTO, NUM_POINTS, Execution, require_execution
from lrx.tuning.halving_result import HalvingResult
from lrx.tuning.initial_loss import InitialLoss, differs, is_below
from lrx.tuning.rungs import Rung, plan_rungs
from lrx.tuning.space import FromHyperparameters, Random, make_space, try_out
from lrx.tuning.study import Study


def successive_halving(
    workload: Workload,
    tx: Callable[..., optax.GradientTransformation],
    space: Mapping[str, Any] | Random,
    *,
    num_steps: int,
    min_steps: int | None = None,
    eta: int = 3,
    brackets: int = 1,
    metric: str | tuple[str, str] | None = None,
    seeds: int | Sequence[int] = 1,
    execution: Execution = AUTO,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> HalvingResult:
    """Train all members for a few steps, keep one in `eta`, train these `eta` times as long, and so on.

    With n members, eta and R = `num_steps`, rung i trains the best `ceil(n / eta^i)` members up to step `min_steps
    eta^i`, the last one up to R. Survivors continue from where they were: nothing is trained twice. `brackets` above 1
    gives Hyperband: bracket b begins with runs eta^b times as long, and has `ceil(n eta^-b K / (K - b))` members of its
    own, where K is the number of rungs, so that members that improve late are not all discarded early.

    Args:
      workload: the model, its data and its loss.
      tx: as for `sweep`. Its schedules see a member's step, but not the step at which the member will be stopped.
      space: as for `sweep`; a grid allows one bracket only. The number of samples is that of the first bracket.
      num_steps: length of the members that are trained to the end.
      min_steps: length of the first rung; by default so that one member is left for the last.
      eta: the factor, at least 2.
      brackets: number of brackets, at most the number of rungs.
      metric: a result of the workload's `evaluate` to compare by, such as "accuracy"; ("score", "max") if the name does
        not say which is better; by default the training loss of the last tenth of the steps.
      seeds: number of runs of each member, or their seeds; members are compared by the mean over them.
      execution: how the runs are compiled, and how many at a time.
      checkpoint: a folder. The survivors are kept there after each rung, and the same call continues with the next one.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `HalvingResult`.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`), there are too few steps for one
        rung, every member diverged or has a metric that is not finite, the best one has learnt nothing (its loss is not
        below that of the initial parameters; with a metric: its metric equals theirs), or the folder holds another
        search.
      TypeError: if an argument is of the wrong type.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Source:
      K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016,
      arXiv:1502.07943; L. Li et al., "Hyperband", 2018, arXiv:1603.06560, algorithm 1.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     lrx.Batches((x, 3.0 * x), batch_size=16),
      ... )
      >>> rates = [1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 10.0, 30.0, 100.0]
      >>> found = lrx.successive_halving(line, lambda lr: lrx.sgd(lr), {"lr": rates}, num_steps=45)
      >>> sorted(found.steps_made.tolist()), found.best["lr"], round(found.cost, 2)
      ([5, 5, 5, 5, 5, 5, 15, 15, 45], 0.3, 2.33)
    """
    require_workload(workload)
    seed_array = as_seeds(seeds)
    _checks.steps("num_steps", num_steps)
    _checks.steps("eta", eta, at_least=2, unit="members")
    _checks.steps("brackets", brackets, unit="brackets")
    require_execution(execution)
    require_progress(progress)
    first = make_space(space, seed=int(seed_array[0]))
    if first.is_grid and brackets > 1:
        raise ValueError(f"brackets must be 1 with a grid, whose members are given, got brackets={brackets}: sample.")
    rungs = plan_rungs(first.size, num_steps, min_steps, eta, brackets)
    sizes = [rung.size for rung in rungs if rung.is_first]
    spaces = [first]
    if isinstance(space, Random):
        for bracket, size in enumerate(sizes[1:], 1):
            sample = dataclasses.replace(space, num_samples=size)
            spaces.append(make_space(sample, seed=int(seed_array[0]) + bracket))
    for each in spaces:
        try_out(tx, each)
    best_by = as_best(metric, workload)
    require_descent_on(workload, tx(**first.first))
    members = {name: np.concatenate([each.members[name] for each in spaces]) for name in first.members}
    family = RunFamily(workload, FromHyperparameters(tx), num_steps, min(NUM_POINTS, num_steps))
    search = _Search(family, members, sizes, seed_array, best_by, execution)
    identity = {
        "kind": "successive_halving",
        "seeds": seed_array.tolist(),
        "metric": list(best_by),
        "rungs": [[rung.bracket, rung.stop, rung.size] for rung in rungs],
        "members": {name: values.tolist() for name, values in members.items()},
    }
    with Study(
        f"search, {workload.name}", checkpoint, progress, lambda: family.identity(members, **identity), "rung"
    ) as study:
        search.restore(study, rungs)
        steps = [rung.size * (rung.stop - rung.start) * len(seed_array) for rung in rungs]  # of all members
        search.steps_given = sum(steps[: search.rungs_made])
        status = study.show(search.steps_given, sum(steps))
        for index in range(search.rungs_made, len(rungs)):
            search.train_rung(rungs, index, status)
            study.save(search.rungs_made, search.record, (search.runs, search.winner))
    return search.result()


def _concatenate(*parts: Any) -> Any:
    """Concatenate the members of chunks, which are on the host."""
    return (np if isinstance(parts[0], np.ndarray) else jnp).concatenate(parts, axis=1)


class _Search:
    """The state of a search between two rungs."""

    def __init__(
        self,
        family: RunFamily,
        members: dict[str, np.ndarray],
        sizes: list[int],
        seeds: np.ndarray,
        best_by: BestBy,
        execution: Execution,
    ) -> None:
        self.family, self.members, self.seeds, self.best_by = family, members, seeds, best_by
        self.execution = execution
        self.initial_loss = InitialLoss(family.workload)
        self.rungs_made, self.steps_given = 0, 0
        self.first_of = np.concatenate([[0], np.cumsum(sizes)])
        number = int(self.first_of[-1])
        self.record: dict[str, np.ndarray] = {
            "bracket": np.repeat(np.arange(len(sizes)), sizes),
            "steps_made": np.zeros(number, np.int64),
            "final_loss": np.full((number, len(seeds)), np.inf, np.float32),
            "initial_loss": np.full((number, len(seeds)), np.nan, np.float32),
            "metric": np.full(number, np.nan, np.float32),
            "losses": np.full((number, len(seeds), family.num_points), np.nan, np.float32),
            "running": np.zeros(0, np.int64),  # the members of `runs`, the best first
            "winner": np.full(1, -1, np.int64),
        }
        self.runs: Runs | tuple[()] = ()  # of the members that the next rung trains
        self.winner: Any = ()  # the state of the best member that was trained to the end

    @property
    def _less_is_better(self) -> bool:
        return self.best_by.mode == "min"

    @property
    def _by_training_loss(self) -> bool:
        return self.best_by is LEAST_TRAINING_LOSS

    def restore(self, study: Study, rungs: list[Rung]) -> None:
        """Take over what an earlier call has kept."""
        made = study.made
        if made is None:
            return
        one, last = self.family.shapes(self.members), rungs[made - 1]
        runs: Any = ()
        if not last.is_last:
            shape = len(self.seeds), rungs[made].size
            runs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*shape, *x.shape), x.dtype), one)
        winner = one.state if any(rung.is_last for rung in rungs[:made]) else ()
        self.runs, self.winner = study.restore_state((runs, winner))
        self.record |= {"running": np.zeros(0, np.int64)} | study.restore()
        self.rungs_made = made
        study.announce(f"resumed after {made} of {len(rungs)} rungs")

    def train_rung(self, rungs: list[Rung], index: int, status: ProgressMeter) -> None:
        """Train the members of a rung to its end, and keep the best of them for the next."""
        rung, record = rungs[index], self.record
        if rung.is_first:
            running = np.arange(self.first_of[rung.bracket], self.first_of[rung.bracket + 1])
        else:
            running = record["running"]
        hyper = {name: values[running] for name, values in self.members.items()}
        strategy, chunk_size = self.execution.strategy, self.execution.chunk_size
        plan = choose_plan(
            self.family, hyper, self.seeds, strategy=strategy, chunk_size=chunk_size, devices=self.execution.devices
        )
        self.execution = dataclasses.replace(self.execution, strategy=plan.strategy)  # measured once
        status.start()
        pieces = []
        for first in range(0, len(running), plan.members):
            part = slice(first, first + plan.members)
            here = {name: values[part] for name, values in hyper.items()}
            number = len(running[part])
            if rung.is_first:
                runs = plan.start(here, self.seeds)
                if index == first == 0 and not self._by_training_loss:
                    self._compare(runs, 1)  # a metric that is not there is refused before anything is trained
            else:
                runs = plan.put(jax.tree.map(lambda x, part=part: x[:, part], self.runs))
            done = self.steps_given
            runs = advance(plan, runs, here, self.seeds, rung.start, rung.stop, status, done)
            self.steps_given += len(self.seeds) * number * (rung.stop - rung.start)
            members = running[part]
            record["steps_made"][members] = rung.stop
            record["final_loss"][members] = tail_loss(runs).T[:number]
            record["initial_loss"][members] = self.initial_loss.means(self.seeds, *tail_steps(runs)).T[:number]
            record["losses"][members] = np.moveaxis(curves(runs), 0, 1)[:number]
            record["metric"][members] = self._compare(runs, number)
            pieces.append(to_host(runs, number))
        self.runs = jax.tree.map(_concatenate, *pieces)
        values, order = self._order(running)
        if not np.isfinite(values).any() and rung.bracket == rungs[-1].bracket and record["winner"][0] < 0:
            self._refuse_failure(running, rung)
        if rung.is_last:
            self._keep_winner(running[order[0]], int(order[0]), values[order[0]])
            self.runs, record["running"] = (), np.zeros(0, np.int64)
        else:
            order = order[: rungs[index + 1].size]
            self.runs = jax.tree.map(lambda x: x[:, order], self.runs)
            record["running"] = running[order]
        self.rungs_made = index + 1

    def _order(self, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values that members are compared by, and the places of the members, the best first."""
        diverged = ~np.isfinite(self.record["final_loss"][running]).all(axis=1)
        compared = self.record["metric"][running]
        worst = np.inf if self._less_is_better else -np.inf
        values = np.where(diverged | ~np.isfinite(compared), worst, compared)
        return values, np.argsort(values if self._less_is_better else -values, kind="stable")

    def _refuse_failure(self, running: np.ndarray, rung: Rung) -> None:
        if np.isfinite(self.record["final_loss"][running]).all(axis=1).any():
            raise ValueError(
                f"the {self.best_by.metric} of every member is not finite within {rung.stop} steps, though not all "
                "diverged: look at what the workload's evaluate gives."
            )
        raise ValueError(f"every member diverged within {rung.stop} steps: search lower rates, or a longer warm-up.")

    def _keep_winner(self, member: int, place: int, value: float) -> None:
        """Keep the state of a bracket's best member if it is better than that of earlier brackets."""
        before = self.record["winner"][0]
        better = before < 0 or (value < self.record["metric"][before]) == self._less_is_better
        if better and np.isfinite(value):
            self.record["winner"] = np.array([member])
            self.winner = jax.tree.map(lambda x: x[0, place], self.runs.state)  # type: ignore[union-attr]

    def _compare(self, runs: Runs, number: int) -> np.ndarray:
        """(number,): the values that members are compared by, means over seeds."""
        if self._by_training_loss:
            return tail_loss(runs).mean(axis=0)[:number]
        results, metric = evaluate(self.family.workload, runs, self.seeds, number), self.best_by.metric
        if results and metric not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={metric!r}.")
        return results[metric].mean(axis=0)[:number] if results else np.full(number, np.nan, np.float32)

    def result(self) -> HalvingResult:
        """Return the result of all members.

        Raises:
          ValueError: if the best member has learnt nothing.
        """
        record, winner = self.record, int(self.record["winner"][0])
        steps = record["steps_made"]
        initial, final = (float(record[name][winner].mean()) for name in ("initial_loss", "final_loss"))
        if not (is_below if self._by_training_loss else differs)(initial, final):
            raise ValueError(
                f"no member has learnt anything: the best one has a final loss of {final:.6g}, and the initial "
                f"parameters have {initial:.6g} on the same minibatches. Search higher rates, give more num_steps, or "
                "look at the gradients."
            )
        params, model_state = evaluation_point(self.family.workload, self.winner, int(self.seeds[0]))
        return HalvingResult(
            self.members,
            record["bracket"],
            steps,
            record["final_loss"],
            record["initial_loss"],
            record["metric"],
            record["losses"],
            self.family.point_steps,
            float(steps.sum() / self.family.num_steps),
            {name: float(values[winner]) for name, values in self.members.items()},
            params,
            model_state,
            self.best_by.mode,
        )
