"""Functions of many runs: advance and evaluate them, read their curves, and collect their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lrx.training.batch_stats import evaluation_point
from lrx.training.many import Runs
from lrx.training.pace import Pace
from lrx.training.placement import data_devices
from lrx.training.plan import Plan
from lrx.training.progress import ProgressMeter
from lrx.training.step import State
from lrx.training.workload import Workload

TAIL = 0.1  # of the steps, over which the final loss is a mean


def advance(
    plan: Plan,
    runs: Runs,
    hyper: Mapping[str, np.ndarray],
    seeds: np.ndarray,
    start: int,
    stop: int,
    status: ProgressMeter | None = None,
    before: int = 0,
) -> Runs:
    """Run all steps from `start` to `stop`, in segments of about a second if progress is shown.

    `before` is the number of steps of all runs that `status` has counted until now.
    """
    watched = status is not None and status.enabled
    step, pace = start, Pace(stop)
    runs_at_once = len(seeds) * len(next(iter(hyper.values())))
    while step < stop:
        until = min(stop, step + pace.length) if watched else stop
        pace.begin()
        runs = plan.advance(runs, hyper, seeds, step, until)
        if watched and status is not None:
            left = ~np.asarray(runs.diverged)
            pace.end(until - step)
            status.update(
                before + runs_at_once * (until - start),
                float(np.min(tail_loss(runs)[left], initial=np.inf)),
                np.nan,
            )
        step = until
    return runs


def curves(runs: Runs, sums: jax.Array | None = None) -> np.ndarray:
    """Return (seeds, members, points) float32: means of the losses, or of other sums; NaN where no step was made."""
    counts = np.asarray(runs.loss_counts)
    added = np.asarray(runs.loss_sums if sums is None else sums)
    return np.where(counts > 0, added / np.maximum(counts, 1), np.nan).astype(np.float32)


def tail_loss(runs: Runs) -> np.ndarray:
    """Return (seeds, members) float32: the mean loss of the last tenth of the steps made, infinite if diverged."""
    counts, sums, later = np.asarray(runs.loss_counts), np.asarray(runs.loss_sums), _in_tail(runs)
    means = np.where(later, sums, 0).sum(axis=-1) / np.maximum((counts * later).sum(axis=-1), 1)
    return np.where(np.asarray(runs.diverged), np.inf, means).astype(np.float32)


def tail_steps(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Return (seeds, members) int: the first of the steps that `tail_loss` averages, and the number of steps made."""
    counts = np.asarray(runs.loss_counts)
    return (counts * ~_in_tail(runs)).sum(axis=-1), counts.sum(axis=-1)


def _in_tail(runs: Runs) -> np.ndarray:
    """Return (seeds, members, points) bool: whether a point reaches into the last tenth of the steps made."""
    counts = np.asarray(runs.loss_counts)
    return counts.cumsum(axis=-1) > (1 - TAIL) * counts.sum(axis=-1, keepdims=True)


def outcome(
    runs: Runs, number: int, evaluations: Sequence[dict[str, np.ndarray]], initial_loss: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the results of the first `number` members of a chunk: arrays with the leading axes (members, seeds).

    `evaluations` holds the results of `evaluate`, one after the other, each empty if no run was left to evaluate.
    """
    found = {
        "final_loss": tail_loss(runs),
        "initial_loss": initial_loss,
        "losses": curves(runs),
        "rates": curves(runs, runs.rate_sums),
    }
    for name in dict.fromkeys(name for each in evaluations for name in each):
        missing = np.full(found["final_loss"].shape, np.nan, np.float32)
        found[f"evaluations/{name}"] = np.stack([each.get(name, missing) for each in evaluations], axis=-1)
    return {name: np.moveaxis(values, 0, 1)[:number] for name, values in found.items()}


def concatenate(
    done: Mapping[str, np.ndarray], made: int, found: Mapping[str, np.ndarray], number: int
) -> dict[str, np.ndarray]:
    """Append `number` members to the `made` ones; NaN where all runs of one part diverged before their evaluation."""
    both = {}
    for name in {**done, **found}:
        shape = (done if name in done else found)[name].shape[1:]
        parts = (done, made), (found, number)
        both[name] = np.concatenate(
            [part.get(name, np.full((size, *shape), np.nan, np.float32)) for part, size in parts]
        )
    return both


def evaluate(
    workload: Workload,
    runs: Runs,
    seeds: np.ndarray,
    number: int,
    point: Callable[[State, int], tuple[Any, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """Evaluate each run that did not diverge: return name to (seeds, members) float32, NaN where a run diverged.

    `point` returns parameters and model state to evaluate at, from the state of a run and its seed; by default it is
    `evaluation_point`.
    """
    if workload.evaluate is None:
        return {}
    diverged = np.asarray(runs.diverged)
    results: dict[str, np.ndarray] = {}
    device = data_devices(workload.batches)[0]
    for place in np.ndindex(diverged.shape[0], number):
        if not diverged[place]:
            state, seed = jax.device_put(run_at(runs.state, *place), device), int(seeds[place[0]])
            at = evaluation_point(workload, state, seed) if point is None else point(state, seed)
            for name, value in jax.device_get(workload.evaluate(*at)).items():
                results.setdefault(name, np.full(diverged.shape, np.nan, np.float32))[place] = value
    return results


@jax.jit
def run_at(state: State, seed: jax.Array, member: jax.Array) -> State:
    """Return the state of one run; one program for all places."""
    return jax.tree.map(lambda x: x[seed, member], state)


def to_host(runs: Runs, number: int | None = None) -> Runs:
    """Return the first `number` members of runs, by default all, on the host, where there is room for many."""
    return jax.tree.map(lambda x: _on_host(x)[:, :number], runs)


def _on_host(x: jax.Array) -> np.ndarray | jax.Array:
    """An array of NumPy, whose parts are taken without compiling anything; a key stays an array of JAX."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.device_put(x, jax.devices("cpu")[0])
    return np.asarray(x)
