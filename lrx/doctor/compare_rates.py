"""What the rate does to a run: runs at several rates, their paths on one plane of the loss, and their losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.diagnostics.landscape import evaluate_plane, sides_around
from lrx.diagnostics.landscape_result import Landscape
from lrx.diagnostics.losses import require_scalar, which_move
from lrx.diagnostics.planes import coordinates, norm, principal_directions
from lrx.diagnostics.programs import TracedLoss
from lrx.doctor.rate_comparison import RateComparison
from lrx.training.batches import first_of
from lrx.training.checks import initial_shapes
from lrx.training.many import RunFamily
from lrx.training.plan import choose_plan
from lrx.training.progress import ProgressMeter, reporter, require_progress
from lrx.training.runs import advance, curves, tail_loss
from lrx.training.sampling import Sampling, keys_of
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import require_descent_on
from lrx.tuning.space import FromRate, try_out_rates

FAR = 2.0  # of the largest distance of the best run from its start: beyond, a path is cut off
TINY = 1e-30  # of a squared distance
EXAMPLES = 1000  # at most, on which the plane is measured


def compare_rates(
    workload: Workload,
    tx: Callable[[Any], optax.GradientTransformation],
    rates: Mapping[str, float],
    *,
    num_steps: int,
    seed: int = 0,
    num_points: int = 25,
    snapshots: int = 60,
    loss: Callable[[Any], jax.Array] | None = None,
    progress: bool | str | None = None,
) -> RateComparison:
    """Train at several rates from the same parameters, and draw the paths on one plane of the loss.

    The picture shows what a rate does: a rate that is too small leaves the run near its start, one that is too large
    makes it bounce from wall to wall of a valley, or diverge. All runs see the same minibatches and are trained side by
    side, those of `lrx.train` with the same seed. A run whose loss is not finite is frozen before that step.

    The plane goes through the final parameters of the run with the lowest final loss, along the two principal
    directions of all paths (`lrx.landscape`), each path counting the same. A path is cut off where it is more than
    twice as far from the start as the best run ever was: otherwise one that diverges would determine the plane.

    Args:
      workload: the model, its data and its loss.
      tx: `rate -> transformation`, such as `lrx.sgd`; the rate is traced.
      rates: name to rate, at least two: `{"too small": 0.01, "good": 0.3, "too large": 3.0}`.
      num_steps: length of each run.
      seed: seed of the runs.
      num_points: points along each side of the plane, at least 2.
      snapshots: points of each path, at least 2, closer together at the beginning: the first steps follow each other.
      loss: `params -> loss` of the plane; by default the training loss on one minibatch of up to 1,000 examples, with
        the final model state of the best run.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.

    Returns:
      A `RateComparison`.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`), `loss` does not return a scalar,
        or the parameters hold fewer than two floating-point numbers, before anything is trained; if every run diverges.
      TypeError: if an argument is of the wrong type.

    Source:
      H. Li et al., 2018, arXiv:1712.09913, section 7, for the plane.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jax.random.normal(jax.random.key(0), (64, 2)) * jnp.array([[1.0, 4.0]])
      >>> line = lrx.Workload.from_functions(
      ...     lambda w, batch, key: jnp.mean((batch[0] @ w - batch[1]) ** 2),
      ...     lambda key: jnp.zeros(2),
      ...     lrx.Batches((x, x @ jnp.array([1.0, 1.0])), batch_size=64),
      ... )
      >>> rates = {"too small": 1e-3, "good": 0.03, "too large": 0.08}
      >>> found = lrx.compare_rates(line, lrx.sgd, rates, num_steps=40)
      >>> found.best, found.diverged["too large"]
      ('good', False)
      >>> bool(found.final_loss["too large"] > found.final_loss["too small"] > found.final_loss["good"])
      True
    """
    require_workload(workload)
    if not isinstance(rates, Mapping) or len(rates) < 2:
        raise ValueError(
            f'rates must map at least two names to rates, got rates={rates!r}: give {{"small": 0.01, "large": 1.0}}.'
        )
    for name, rate in rates.items():
        _checks.positive(f"rates[{name!r}]", rate)
    _checks.steps("num_steps", num_steps)
    _checks.seed(seed)
    _checks.steps("num_points", num_points, at_least=2, unit="points along each side")
    _checks.steps("snapshots", snapshots, at_least=2, unit="points")
    require_progress(progress)
    params, _ = initial_shapes(workload)
    which_move(params)
    if sum(leaf.size for leaf in jax.tree.leaves(params)) < 2:
        raise ValueError("params must hold at least two numbers, which span a plane, got 1: plot the loss over it.")
    if loss is not None:
        require_scalar(loss, params)
    try_out_rates(tx, rates.values())
    require_descent_on(workload, tx(float(next(iter(rates.values())))))

    names, times = list(rates), snapshot_times(int(num_steps), int(snapshots))
    with reporter(
        progress,
        f"compare_rates, {workload.name}",
        step=0,
        total=len(names) * int(num_steps),
        batch_size=workload.batches.examples_per_step,
        unit="examples",
    ) as status:
        runs = _Runs(workload, tx, np.array([float(rates[name]) for name in names], np.float32), int(seed))
        runs.train(times, status)
        best = runs.best()
        paths = runs.paths
        directions, variance, shown = _plane_of(paths, best)
        origin = jax.tree.map(jnp.asarray, paths[best][-1])
        loss = _minibatch_loss(workload, int(seed), runs.model_states[best]) if loss is None else loss
        projected = [coordinates(path, origin, directions) for path in paths]
        kept = np.concatenate([points[mask] for points, mask in zip(projected, shown, strict=True)])
        sides = sides_around(np.concatenate([kept, np.zeros((1, 2))]), int(num_points), 1.0)
        centre, losses = evaluate_plane(TracedLoss(loss, origin), origin, directions, sides, None)
    plane = Landscape(losses, centre, sides[0], sides[1], tuple(directions), projected[best], variance)
    start = paths[best][0]
    return RateComparison(
        plane=plane,
        rates={name: float(rates[name]) for name in names},
        losses=dict(zip(names, runs.losses, strict=True)),
        final_loss=dict(zip(names, map(float, runs.final_loss), strict=True)),
        diverged=dict(zip(names, map(bool, runs.diverged), strict=True)),
        best=names[best],
        paths=dict(zip(names, projected, strict=True)),
        path_steps=times,
        distances={name: _lengths(path, start) for name, path in zip(names, paths, strict=True)},
        lengths={name: _length(path) for name, path in zip(names, paths, strict=True)},
    )


def snapshot_times(num_steps: int, number: int) -> np.ndarray:
    """Return increasing numbers of steps from 0 to `num_steps`, at most `number`, with growing distances."""
    return np.unique(np.round(num_steps * np.linspace(0, 1, number) ** 2).astype(int))


class _Runs:
    """The runs, a chunk of rates at a time, with the parameters of each at several steps."""

    def __init__(self, workload: Workload, tx: Callable[[Any], Any], rates: np.ndarray, seed: int) -> None:
        self.workload, self.tx, self.rates, self.seed = workload, tx, rates, np.array([seed])
        self.paths: list[list[Any]] = []  # of each run, the parameters at each time, on the host
        self.model_states: list[Any] = []  # final ones
        self.losses: list[np.ndarray] = []
        self.final_loss = np.zeros(0, np.float32)
        self.diverged = np.zeros(0, bool)

    def train(self, times: np.ndarray, status: ProgressMeter) -> None:
        """Train all runs, and keep the parameters at these steps, the first of which is 0."""
        num_steps = int(times[-1])
        family = RunFamily(self.workload, FromRate(self.tx), num_steps, num_steps, keep_diverged=True)
        plan = choose_plan(family, {"rate": self.rates}, self.seed)
        status.start()
        while len(self.paths) < len(self.rates):
            hyper = {"rate": self.rates[len(self.paths) :][: plan.members]}
            number, before = len(hyper["rate"]), len(self.paths) * num_steps
            runs = plan.start(hyper, self.seed)
            kept = [jax.tree.map(np.asarray, runs.state.params)]
            for start, stop in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
                runs = advance(plan, runs, hyper, self.seed, start, stop, status, before + number * start)
                kept.append(jax.tree.map(np.asarray, runs.state.params))
            for member in range(number):
                self.paths.append([_member(params, member) for params in kept])
                self.model_states.append(_member(jax.tree.map(np.asarray, runs.state.model_state), member))
            self.losses += list(curves(runs)[0, :number])
            self.final_loss = np.concatenate([self.final_loss, tail_loss(runs)[0, :number]])
            self.diverged = np.concatenate([self.diverged, np.asarray(runs.diverged)[0, :number]])

    def best(self) -> int:
        """Return which run has the lowest final loss.

        Raises:
          ValueError: if every run diverged.
        """
        if not np.isfinite(self.final_loss).any():
            raise ValueError(
                f"rates must hold one that does not diverge, got {self.rates.tolist()}: give lower rates, which "
                "lrx.range_test finds."
            )
        return int(np.nanargmin(self.final_loss))


def _member(tree: Any, member: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[0, member], tree)


def _plane_of(paths: list[list[Any]], best: int) -> tuple[list[Any], np.ndarray, list[np.ndarray]]:
    """Return the directions of a plane for several paths, the variance along them, and the points that are not far."""
    distances = [_lengths(path, paths[best][0]) for path in paths]
    far = FAR * distances[best].max()
    shown = [np.logical_and.accumulate(np.isfinite(each) & (each <= far)) for each in distances]
    points, weights = [], []
    for path, mask, away in zip(paths, shown, distances, strict=True):
        kept = [point for point, near in zip(path, mask, strict=True) if near]
        points += kept
        # So that a short path counts as much as a long one.
        weights += [1 / max(float(np.sum(away[mask] ** 2)), TINY)] * len(kept)
    directions, variance = principal_directions(points, weights)
    return directions, variance, shown


def _lengths(path: list[Any], start: Any) -> np.ndarray:
    """Return the distance of each point of a path from its start, (points,) float64."""
    return np.array([norm(jax.tree.map(np.subtract, point, start)) for point in path])


def _length(path: list[Any]) -> float:
    return sum(norm(jax.tree.map(np.subtract, after, before)) for before, after in itertools.pairwise(path))


def _minibatch_loss(workload: Workload, seed: int, model_state: Any) -> Callable[[Any], jax.Array]:
    """Return the training loss on one large minibatch; on a minibatch of the run if they were made elsewhere."""
    batches = workload.batches
    if batches.transform is first_of:
        return workload.loss_at(seed, model_state=model_state)
    sampling = Sampling(max(batches.batch_size, min(EXAMPLES, batches.num_examples)), batches.transform, True)

    @jax.jit
    def draw(arrays: Any, seed: jax.Array) -> Any:
        keys = keys_of(seed)
        permutation = sampling.permutation(arrays, keys.shuffle, jnp.int32(0))
        return sampling.draw(arrays, permutation, keys.step, jnp.int32(0))[0]

    return workload.loss_at(draw(batches.arrays, jnp.int32(seed)), model_state=model_state)
