"""What the tools of this package check of their arguments before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax

from lrx import _checks
from lrx.optimizers.accumulation import AccumulationState
from lrx.training.checks import initial_shapes, optimizer_shapes, require_descent_once, require_scalars_once
from lrx.training.following import BestBy, read_best
from lrx.training.workload import Workload

LEAST_TRAINING_LOSS = BestBy("training loss", "min")


def as_best(metric: Any, workload: Workload | None) -> BestBy:
    """Return by which result runs are compared, and whether less of it or more is better.

    Args:
      metric: the name of a result of `evaluate`, such as "accuracy"; ("score", "max") if the name does not say which is
        better; or None for the training loss.
      workload: what is trained; None skips the check that it evaluates.

    Raises:
      ValueError: if the name alone does not say which is better, or the workload does not evaluate.
      TypeError: if it is of the wrong type.
    """
    if metric is None:
        return LEAST_TRAINING_LOSS
    best = read_best("metric", metric)
    if workload is not None and workload.evaluate is None:
        raise ValueError(f"metric needs a workload that evaluates, got metric={metric!r} and one without.")
    return best


def require_descent_on(workload: Workload, tx: optax.GradientTransformation) -> None:
    """Check that the updates of an optimizer descend on a workload's parameters; nothing is trained."""
    params = initial_shapes(workload)[0]
    require_scalars_once(tx, params)
    require_descent_once(tx, params)


def require_no_accumulation(workload: Workload, tx: optax.GradientTransformation) -> None:
    """Check that an optimizer does not accumulate gradients, since several rates would share an update."""
    state = optimizer_shapes(tx, initial_shapes(workload)[0])
    kinds = (AccumulationState, optax.MultiStepsState, optax.ApplyEvery)
    for leaf in jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds)):
        if isinstance(leaf, kinds):
            raise ValueError(
                f"tx must not accumulate gradients, got a state that holds {type(leaf).__name__}: several rates would "
                "go by in each of its rounds. Give the optimizer without it, and accumulate=4 for rounds of four."
            )


def as_seeds(seeds: Any) -> np.ndarray:
    """Return the seeds of runs: those given, or 0, 1, ... if their number is given.

    Raises:
      ValueError: if there is none, or one is not a whole number from 0 to 2^31 - 1.
    """
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        _checks.steps("seeds", seeds, unit="runs")
        return np.arange(seeds)
    listed = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else []
    if not listed or not all(isinstance(seed, int | np.integer) and 0 <= seed <= _checks.INT32_MAX for seed in listed):
        raise ValueError(f"seeds must be a number of runs, or a list of whole numbers >= 0, got seeds={seeds!r}.")
    return np.asarray(listed)
