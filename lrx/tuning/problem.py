"""What the tools of this package take: a `Workload`, or the plain functions that most training code has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.direction import require_descent
from lrx.optimizers.accumulation import AccumulationState
from lrx.training import Batches, Workload


def as_workload(loss_fn: Any, init_fn: Any, batches: Any, *, has_state: bool, num_batches: int) -> Workload:
    """Give the workload that the tools of this package train.

    Args:
      loss_fn: a `Workload`, then the next two are None; or `(params, batch, key) -> loss`, with `has_state` `(params,
        model_state, batch, key) -> (loss, model_state)`.
      init_fn: `key -> params`, with `has_state` `key -> (params, model_state)`.
      batches: a `Batches`; or arrays whose leading axis counts batches, over which steps go round; or an iterable of
        batches, of which `num_batches` are taken.
      has_state: whether the functions have a model state.
      num_batches: how many steps there will be.

    Raises:
      ValueError: if the iterable ends before `num_batches`, its batches differ in shape, or arrays hold no batch.
      TypeError: if something is of another kind.
    """
    _checks.flag("has_state", has_state)
    if isinstance(loss_fn, Workload):
        if init_fn is not None or batches is not None:
            given = "init_fn" if init_fn is not None else "batches"
            raise TypeError(f"{given} must be left out where a Workload is given, which has its own.")
        return loss_fn
    for name, value in (("loss_fn", loss_fn), ("init_fn", init_fn)):
        if not callable(value):
            kinds = "a Workload, or a function" if name == "loss_fn" else "a function of a key"
            raise TypeError(f"{name} must be {kinds}, got {name}={value!r}.")
    if not isinstance(batches, Batches):
        batches = Batches.stack(batches, num_batches)
    return Workload.from_functions(loss_fn, init_fn, batches, name="tuning", has_state=has_state)


def require_comparable(metric: str | None, mode: str, workload: Workload | None) -> None:
    """Raise a ValueError where runs cannot be compared by a metric; a workload of None has none to be asked."""
    _checks.one_of("mode", mode, ("min", "max"))
    if metric is None and mode == "max":
        raise ValueError(
            "mode='max' needs a metric, for without one runs are compared by a loss, of which the greatest is worst: "
            'give metric="accuracy", say.'
        )
    if metric is not None and workload is not None and workload.evaluate is None:
        raise ValueError(f"metric needs a workload that evaluates, got metric={metric!r} and one without.")


def require_trains(workload: Workload, tx: optax.GradientTransformation) -> None:
    """Raise a ValueError where the updates of an optimizer go uphill on a workload's parameters; nothing is trained."""
    require_descent(tx, _parameters_of(workload))


def require_no_accumulation(workload: Workload, tx: optax.GradientTransformation) -> None:
    """Raise a ValueError where an optimizer gathers the gradients of several steps, in each of which a rate goes by."""
    state = jax.eval_shape(tx.init, _parameters_of(workload))
    kinds = (AccumulationState, optax.MultiStepsState, optax.ApplyEvery)
    for leaf in jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds)):
        if isinstance(leaf, kinds):
            raise ValueError(
                f"tx must not accumulate gradients, got a state that holds {type(leaf).__name__}: several rates would "
                "go by in each of its rounds. Give the optimizer without it, and accumulate=4 for rounds of four."
            )


def _parameters_of(workload: Workload) -> Any:
    return jax.eval_shape(lambda key: workload.init(key)[0], jax.random.key(0))


def as_seeds(seeds: Any) -> np.ndarray:
    """Give the seeds of runs: 0, 1, ... where their number is given.

    Raises:
      ValueError: if there is none, or one is no whole number from 0 to 2^31 - 1.
    """
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        _checks.steps("seeds", seeds, unit="runs")
        return np.arange(seeds)
    listed = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else []
    if not listed or not all(isinstance(seed, int | np.integer) and 0 <= seed <= _checks.INT32_MAX for seed in listed):
        raise ValueError(f"seeds must be a number of runs, or a list of whole numbers >= 0, got seeds={seeds!r}.")
    return np.asarray(listed)
