"""Which results of an evaluation a run follows: those that controllers observe, and the one that ranks parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from lrx.run_state import listeners
from lrx.training.workload import Workload

GREATEST = ("accuracy",)  # a result whose name ends so is best if greatest ...
LEAST = ("loss", "error")  # ... and one whose name ends so, if least


class BestBy(NamedTuple):
    """The result by which the best parameters are chosen."""

    metric: str
    mode: str  # "min" or "max"

    def improves(self, value: float, best: float | None) -> bool:
        """Return whether a result is better than the best so far; NaN never is."""
        if math.isnan(value):
            return False
        return best is None or (value < best if self.mode == "min" else value > best)


def read_best(name: str, given: Any) -> BestBy:
    """Read an argument that names a result of `evaluate` and says which is better, the least or the greatest.

    Args:
      name: name of the argument.
      given: the name of a result, "accuracy"; or a pair, ("score", "max").

    Raises:
      ValueError: if the name alone does not say which is better, or the pair has another mode.
      TypeError: if it is of the wrong type.
    """
    if isinstance(given, str):
        metric = given.lower()
        if metric.endswith(GREATEST) or metric.endswith(LEAST):
            return BestBy(given, "max" if metric.endswith(GREATEST) else "min")
        raise ValueError(
            f"{name} must say whether the least or the greatest is best, got {name}={given!r}: give "
            f'({given!r}, "min") or ({given!r}, "max").'
        )
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], str):
        if given[1] not in ("min", "max"):
            raise ValueError(f'the mode of {name} must be "min" or "max", got {name}={given!r}.')
        return BestBy(*given)
    raise TypeError(
        f'{name} must be the name of a result of evaluate, as "loss" or ("accuracy", "max"), got {name}={given!r}.'
    )


def best_by(keep_best: Any, workload: Workload) -> BestBy | None:
    """Return how `train(keep_best=...)` compares evaluations.

    Raises:
      ValueError: if it is not the name of a result, alone if the name says which is best or with "min" or "max", or
        the workload does not evaluate.
      TypeError: if it is of the wrong type.
    """
    if keep_best is None:
        return None
    found = read_best("keep_best", keep_best)
    _require_evaluation("keep_best", keep_best, workload)
    return found


def read_feedback(feedback_metric: Any, workload: Workload, opt_state: Any, *, by_hand: bool) -> dict[str, str]:
    """Return which result each controller observes, given `train(feedback_metric=...)`.

    Args:
      feedback_metric: the name of a result, for all controllers that take observations; or controller to name, None
        for one that is to observe nothing; or None.
      workload: what is trained.
      opt_state: the shapes of the optimizer's state.
      by_hand: whether a callback may observe for controllers that are not named.

    Returns:
      Controller to name of a result.

    Raises:
      ValueError: if nothing evaluates, no controller takes observations, one that is named does not, or one that does
        is not named.
      TypeError: if `feedback_metric` is of the wrong type.
    """
    found = _listeners(opt_state)
    if feedback_metric is None:
        if found and not by_hand:
            raise ValueError(
                f"feedback_metric must say what {_all(found)} observes, got feedback_metric=None: a controller with "
                'feedback="observed" would wait for ever. Give the name of a result of evaluate, '
                'feedback_metric="loss", or build it without, to follow the training loss.'
            )
        return {}
    if not (
        isinstance(feedback_metric, str)
        or (
            isinstance(feedback_metric, Mapping)
            and all(isinstance(metric, str | None) for metric in feedback_metric.values())
        )
    ):
        raise TypeError(
            "feedback_metric must be the name of a result of evaluate, or {controller: name}, got "
            f"feedback_metric={feedback_metric!r}."
        )
    _require_evaluation("feedback_metric", feedback_metric, workload)
    if not found:
        raise ValueError(
            f"feedback_metric needs a controller that takes observations, got feedback_metric={feedback_metric!r} and "
            'none: build it with feedback="observed", as lrx.early_stopping(feedback="observed").'
        )
    if isinstance(feedback_metric, str):
        return dict.fromkeys(found, feedback_metric)
    unknown = [name for name in feedback_metric if name not in found]
    if unknown:
        raise ValueError(
            f"feedback_metric must name controllers that take observations, {_all(found)}, got {unknown[0]!r}."
        )
    missing = [name for name in found if name not in feedback_metric]
    if missing and not by_hand:
        raise ValueError(
            f"feedback_metric must say what {_all(missing)} observes, got feedback_metric={feedback_metric!r}: give "
            "the name of a result, or None where it is to observe nothing."
        )
    return {name: metric for name, metric in feedback_metric.items() if metric is not None}


def _listeners(opt_state: Any) -> tuple[str, ...]:
    """Return what takes observations, by a trace: the state is abstract."""
    found: tuple[str, ...] = ()

    def look(state: Any) -> None:
        nonlocal found
        found = listeners(state)

    jax.eval_shape(look, opt_state)
    return found


def require_results(metrics: dict[str, str], results: Any) -> None:
    """Check that `evaluate` returns the results that arguments name.

    Args:
      metrics: result to the argument that names it.
      results: what was evaluated.
    """
    for metric, argument in metrics.items():
        if metric not in results:
            raise ValueError(f"{argument} must name results of evaluate, {sorted(results)}, got {metric!r}.")


def _require_evaluation(argument: str, value: Any, workload: Workload) -> None:
    if workload.evaluate is None:
        raise ValueError(
            f"{argument} needs a workload that evaluates, got {argument}={value!r} and one without: give "
            "Workload.from_functions(..., evaluate=...)."
        )


def _all(names: Any) -> str:
    return " and ".join(names)
