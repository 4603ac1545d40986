"""Successive halving: many members for a few steps, the better ones for more, the best to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.training.batch_stats import evaluation_point
from lrx.training.checkpoints import RunFolder
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import STRATEGIES, choose_plan
from lrx.training.progress import Status, reporter, require_progress, say
from lrx.training.runs import advance, curves, evaluate, tail_loss, tail_steps
from lrx.tuning.learnt import InitialLoss, changed, fell
from lrx.tuning.problem import as_seeds, as_workload, require_comparable, require_trains
from lrx.tuning.space import Range, make_space, try_out
from lrx.tuning.sweep import NUM_POINTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class HalvingResult:
    """What successive halving found. Members are in the order of the grid or of the samples, bracket by bracket.

    Attributes:
      members: hyperparameter to its values, (members,).
      bracket: (members,) int, the bracket that each belongs to.
      steps_made: (members,) int, the steps that each was given.
      final_loss: (members, seeds) float32, the mean training loss of the last tenth of those; infinite where a run
        diverged.
      initial_loss: (members, seeds) float32, the mean loss that the initial parameters have on the same minibatches.
      metric: (members,) float32, what members were compared by, at the end of their last rung.
      losses: (members, seeds, points) float32, the curves; NaN where no step was made.
      steps: (points,) the step in the middle of each point of a curve.
      cost: steps of all members, in runs of full length of one member.
      best: the hyperparameters of the best member that was trained to the end.
      params: its parameters, with the first seed.
      model_state: its model state.
      mode: "min" or "max", what is better.
    """

    members: dict[str, np.ndarray]
    bracket: np.ndarray
    steps_made: np.ndarray
    final_loss: np.ndarray
    initial_loss: np.ndarray
    metric: np.ndarray
    losses: np.ndarray
    steps: np.ndarray
    cost: float
    best: dict[str, float]
    params: Any
    model_state: Any
    mode: str

    def __repr__(self) -> str:
        best = ", ".join(f"{name}={value:.6g}" for name, value in self.best.items())
        return f"HalvingResult({len(self.steps_made)} members of {', '.join(self.members)}; best: {best})"

    def plot(self) -> Figure:
        """Draw the loss of every member over the steps that it was given; needs matplotlib."""
        from lrx.tuning.figures import halving_curves

        shown = np.where(np.isfinite(self.losses), self.losses, np.nan)
        return halving_curves(self.steps, shown.mean(axis=1), self.members)


@dataclasses.dataclass(frozen=True)
class _Rung:
    """A part of a bracket: how far its members go, and how many of them there are."""

    bracket: int
    stop: int
    size: int
    is_first: bool
    is_last: bool


def successive_halving(
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    tx: Callable[..., optax.GradientTransformation],
    grid: Mapping[str, Any] | None = None,
    sample: Mapping[str, Range] | None = None,
    num_samples: int | None = None,
    num_steps: int,
    min_steps: int | None = None,
    eta: int = 3,
    brackets: int = 1,
    metric: str | None = None,
    mode: str = "min",
    seeds: int | Sequence[int] = 1,
    has_state: bool = False,
    strategy: str = "auto",
    chunk_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | str | None = None,
) -> HalvingResult:
    """Train all members for a few steps, keep one in `eta`, train these `eta` times as long, and so on.

    With n members, eta and R = `num_steps`, rung i trains the best `ceil(n / eta^i)` members up to step `min_steps
    eta^i`, the last one up to R. Survivors go on from where they were: nothing is trained twice. `brackets` above 1
    gives Hyperband: bracket b begins eta^b times later, with `ceil(n eta^-b K / (K - b))` members of its own, K the
    number of rungs, so that what needs long to show itself is not all thrown away early.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: as for `sweep`.
      tx: as for `sweep`. Its schedules see how far a member has come, and not how far it will be let.
      grid: as for `sweep`; one bracket only.
      sample: as for `sweep`.
      num_samples: members of the first bracket.
      num_steps: length of the members that are trained to the end.
      min_steps: length of the first rung; by default so that one member is left for the last.
      eta: the factor, at least 2.
      brackets: how many; at most the number of rungs.
      metric: a result of the workload's `evaluate` to compare by; by default the training loss of the last tenth of
        the steps.
      mode: "min" or "max", what is better.
      seeds: how many runs of each member, or their seeds; members are compared by the mean.
      has_state: as for `sweep`.
      strategy: as for `sweep`.
      chunk_size: as for `sweep`.
      checkpoint: a folder. After each rung the survivors are kept there, and the same call goes on with the next one.
      progress: True shows a bar, or lines where there is no terminal; by default a bar, on a terminal alone; a string
        is its title; False shows nothing.

    Returns:
      A `HalvingResult`.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`), there are too few steps for one
        rung, every member diverged or has a metric that is not finite, the best one has a loss no lower than that of
        the initial parameters (with a metric: one that is not another), an iterable of batches ends early, or the
        folder holds another search.
      TypeError: if an argument is of another kind.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Source:
      K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016,
      arXiv:1502.07943; L. Li et al., "Hyperband", 2018, arXiv:1603.06560, algorithm 1.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> found = lrx.successive_halving(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=Batches((x, 3.0 * x), batch_size=16),
      ...     tx=lambda lr: lrx.sgd(lr),
      ...     grid={"lr": [1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 10.0, 30.0, 100.0]},
      ...     num_steps=45,
      ... )
      >>> sorted(found.steps_made.tolist()), found.best["lr"], round(found.cost, 2)
      ([5, 5, 5, 5, 5, 5, 15, 15, 45], 0.3, 2.33)
    """
    seed_array = as_seeds(seeds)
    _checks.steps("num_steps", num_steps)
    _checks.steps("eta", eta, at_least=2, unit="members")
    _checks.steps("brackets", brackets, unit="brackets")
    _checks.one_of("strategy", strategy, ("auto", *STRATEGIES))
    require_progress(progress)
    if chunk_size is not None:
        _checks.steps("chunk_size", chunk_size, unit="members")
    if grid is not None and brackets > 1:
        raise ValueError(f"brackets must be 1 with a grid, whose members are given, got brackets={brackets}: sample.")
    first = make_space(grid, sample, num_samples, seed=int(seed_array[0]))
    rungs = _rungs(first.size, num_steps, min_steps, eta, brackets)
    sizes = [rung.size for rung in rungs if rung.is_first]
    spaces = [first] + [
        make_space(None, sample, size, seed=int(seed_array[0]) + bracket) for bracket, size in enumerate(sizes[1:], 1)
    ]
    for space in spaces:
        try_out(tx, space)
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=num_steps)
    require_comparable(metric, mode, workload)
    require_trains(workload, tx(**first.first))
    members = {name: np.concatenate([space.members[name] for space in spaces]) for name in first.members}
    family = RunFamily(workload, lambda hyper, count: tx(**hyper), num_steps, min(NUM_POINTS, num_steps))  # noqa: ARG005
    search = _Search(family, members, sizes, seed_array, metric, mode, strategy, chunk_size)
    with contextlib.ExitStack() as stack:
        if checkpoint is not None:
            search.open(stack.enter_context(contextlib.closing(RunFolder(checkpoint))), rungs)
        steps = [
            rung.size * (rung.stop - _begin(rungs, i)) * len(seed_array) for i, rung in enumerate(rungs)
        ]  # of all members of each rung
        search.steps_given = sum(steps[: search.rungs_made])
        with reporter(
            progress, f"search, {workload.name}", step=search.steps_given, total=sum(steps), batch_size=1, unit="steps"
        ) as status:
            for index in range(search.rungs_made, len(rungs)):
                search.climb(rungs, index, status)
    return search.result()


def _begin(rungs: list[_Rung], index: int) -> int:
    """The step at which a rung begins."""
    return 0 if rungs[index].is_first else rungs[index - 1].stop


def _rungs(members: int, num_steps: int, min_steps: Any, eta: int, brackets: int) -> list[_Rung]:
    number = 1 + math.floor(math.log(members, eta) + 1e-9)
    if min_steps is None:
        number = min(number, 1 + math.floor(math.log(num_steps, eta) + 1e-9))
        min_steps = max(1, num_steps // eta ** (number - 1))
    else:
        _checks.steps("min_steps", min_steps)
        if min_steps > num_steps:
            raise ValueError(
                f"min_steps must be <= num_steps, got min_steps={min_steps}, num_steps={num_steps}: there would be no "
                "rung."
            )
        number = min(number, 1 + math.floor(math.log(num_steps / min_steps, eta) + 1e-9))
    if brackets > number:
        raise ValueError(
            f"brackets must be at most the number of rungs, {number}, got brackets={brackets}: give more members or "
            "fewer min_steps."
        )
    rungs = []
    for bracket in range(brackets):
        size = math.ceil(members * eta**-bracket * number / (number - bracket) - 1e-9)
        for rung in range(number - bracket):
            is_last = rung == number - bracket - 1
            stop = num_steps if is_last else min_steps * eta ** (bracket + rung)
            rungs.append(_Rung(bracket, stop, math.ceil(size / eta**rung - 1e-9), rung == 0, is_last))
    return rungs


def _kept(x: jax.Array, number: int) -> jax.Array:
    """The first `number` members on the host, where there is room for all of them."""
    return jax.device_put(x[:, :number], jax.devices("cpu")[0])


class _Search:
    """The state of a search between two rungs."""

    folder: RunFolder | None = None

    def __init__(
        self,
        family: RunFamily,
        members: dict[str, np.ndarray],
        sizes: list[int],
        seeds: np.ndarray,
        metric: str | None,
        mode: str,
        strategy: str,
        chunk_size: int | None,
    ) -> None:
        self.family, self.members, self.seeds = family, members, seeds
        self.metric, self.mode, self.strategy, self.chunk_size = metric, mode, strategy, chunk_size
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
        self.runs: Runs | tuple[()] = ()  # of the members that the next rung goes on with
        self.winner: Any = ()  # the state of the best member that was trained to the end

    def open(self, folder: RunFolder, rungs: list[_Rung]) -> None:
        """Go on where the newest checkpoint is."""
        self.folder = folder
        self.about = self.family.identity(
            self.members,
            kind="successive_halving",
            seeds=self.seeds.tolist(),
            metric=self.metric,
            mode=self.mode,
            rungs=[[rung.bracket, rung.stop, rung.size] for rung in rungs],
            members={name: values.tolist() for name, values in self.members.items()},
        )
        made = folder.latest()
        if made is None:
            return
        folder.require_same_run(self.about)
        one = self.family.shapes(self.members)
        last = rungs[made - 1]
        kept = () if last.is_last else rungs[made].size
        runs = (
            ()
            if last.is_last
            else jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(self.seeds), kept, *x.shape), x.dtype), one)
        )
        winner = one.state if any(rung.is_last for rung in rungs[:made]) else ()
        _, (self.runs, self.winner), self.record = folder.restore((runs, winner))
        self.record = {name: np.asarray(values) for name, values in self.record.items()}
        self.record.setdefault("running", np.zeros(0, np.int64))
        self.rungs_made = made
        say(f"search, {self.family.workload.name}", f"resumed after {made} of {len(rungs)} rungs")

    def climb(self, rungs: list[_Rung], index: int, status: Status) -> None:
        """Train the members of a rung to its end, and keep the best of them for the next."""
        rung, begin = rungs[index], _begin(rungs, index)
        record = self.record
        if rung.is_first:
            running = np.arange(self.first_of[rung.bracket], self.first_of[rung.bracket + 1])
        else:
            running = record["running"]
        hyper = {name: values[running] for name, values in self.members.items()}
        plan = choose_plan(self.family, hyper, self.seeds, strategy=self.strategy, chunk_size=self.chunk_size)
        self.strategy = plan.strategy  # measured once
        status.start()
        pieces = []
        for first in range(0, len(running), plan.members):
            part = slice(first, first + plan.members)
            here = {name: values[part] for name, values in hyper.items()}
            number = len(running[part])
            if rung.is_first:
                runs = plan.start(here, self.seeds)
                if index == first == 0 and self.metric is not None:
                    self._compared(runs, 1)  # a metric that is not there is refused before anything is trained
            else:
                runs = plan.put(jax.tree.map(lambda x, part=part: x[:, part], self.runs))
            done = self.steps_given
            runs = advance(plan, runs, here, self.seeds, begin, rung.stop, status, done)
            self.steps_given += len(self.seeds) * number * (rung.stop - begin)
            members = running[part]
            record["steps_made"][members] = rung.stop
            record["final_loss"][members] = tail_loss(runs).T[:number]
            record["initial_loss"][members] = self.initial_loss.means(self.seeds, *tail_steps(runs)).T[:number]
            record["losses"][members] = np.moveaxis(curves(runs), 0, 1)[:number]
            record["metric"][members] = self._compared(runs, number)
            pieces.append(jax.tree.map(functools.partial(_kept, number=number), runs))
        self.runs = jax.tree.map(lambda *parts: jax.numpy.concatenate(parts, axis=1), *pieces)
        worst = np.inf if self.mode == "min" else -np.inf
        diverged = ~np.isfinite(record["final_loss"][running]).all(axis=1)
        compared = record["metric"][running]
        values = np.where(diverged | ~np.isfinite(compared), worst, compared)
        order = np.argsort(values if self.mode == "min" else -values, kind="stable")
        if not np.isfinite(values).any() and rung.bracket == rungs[-1].bracket and record["winner"][0] < 0:
            if not diverged.all():
                raise ValueError(
                    f"the {self.metric} of every member is not finite within {rung.stop} steps, though not all "
                    "diverged: look at what the workload's evaluate gives."
                )
            raise ValueError(
                f"every member diverged within {rung.stop} steps: search lower rates, or a longer warm-up."
            )
        if rung.is_last:
            self._crown(running[order[0]], int(order[0]), values[order[0]])
            self.runs, record["running"] = (), np.zeros(0, np.int64)
        else:
            order = order[: rungs[index + 1].size]
            self.runs = jax.tree.map(lambda x: x[:, order], self.runs)
            record["running"] = running[order]
        self.rungs_made = index + 1
        if self.folder is not None:
            self.folder.save(self.rungs_made, (self.runs, self.winner), record, self.about)

    def _crown(self, member: int, place: int, value: float) -> None:
        """Keep the state of a bracket's best where it is better than that of earlier brackets."""
        before = self.record["winner"][0]
        better = before < 0 or (value < self.record["metric"][before]) == (self.mode == "min")
        if better and np.isfinite(value):
            self.record["winner"] = np.array([member])
            self.winner = jax.tree.map(lambda x: x[0, place], self.runs.state)  # type: ignore[union-attr]

    def _compared(self, runs: Runs, number: int) -> np.ndarray:
        if self.metric is None:
            return tail_loss(runs).mean(axis=0)[:number]
        results = evaluate(self.family.workload, runs, self.seeds, number)
        if results and self.metric not in results:
            raise ValueError(f"metric must be one of {sorted(results)}, got metric={self.metric!r}.")
        return results[self.metric].mean(axis=0)[:number] if results else np.full(number, np.nan, np.float32)

    def result(self) -> HalvingResult:
        """Give what was found."""
        record, winner = self.record, int(self.record["winner"][0])
        steps = record["steps_made"]
        initial, final = (float(record[name][winner].mean()) for name in ("initial_loss", "final_loss"))
        if not (fell if self.metric is None else changed)(initial, final):
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
            self.mode,
        )
