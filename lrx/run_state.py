"""Read from a state whether the run is over, whether it has improved, and which parameters belong to it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx._foreign import adapt
from lrx._walk import nodes_on_path, nodes_with, refuse_abstract, state_of
from lrx.brief import brief
from lrx.reading import named_entries
from lrx.states import Observation, array, has_method


def stopped(state: Any) -> jax.Array:
    """Return whether a controller has ended the run.

    `early_stopping` ends it when the loss has not improved for a while, `rollback_on_divergence` when the run diverges
    again after its last rollback. The rate is 0 from then on, so a run that continues moves nothing; `lrx.train` ends.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      () bool; False if nothing in the state can end a run.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.early_stopping(patience=0))
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (1.0, 1.0):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      ...     print(lrx.stopped(state))
      False
      True
    """
    flags = [jnp.asarray(refuse_abstract(flag), bool) for flag in stop_flags(state_of("stopped", state))]
    return functools.reduce(jnp.logical_or, flags, jnp.zeros([], bool))


def can_stop(state: Any) -> bool:
    """Return whether something in a state can end a run."""
    return bool(stop_flags(state_of("can_stop", state)))


def stop_flags(state: Any) -> list[jax.Array]:
    """Return the flag of each state that can end a run."""
    return [array(view.stops()) for view in nodes_with(state, "stops")]


def require_scalars(state: Any) -> None:
    """Check that the states of one run return scalars where a training loop reads scalars.

    Args:
      state: an optimizer state; `jax.eval_shape` may trace it.

    Raises:
      TypeError: if a method `rate()` or `stops()` does not return a scalar, or `shown()` does not return a dict of name
        to scalar.
    """
    for method, rule in (("rate", "() float32"), ("stops", "() bool")):
        for view in nodes_with(state, method):
            if not _is_scalar(value := getattr(view, method)()):
                raise TypeError(
                    f"{type(view).__name__}.{method}() must return a scalar, {rule}, got {brief(value)}: return one "
                    "for the whole run."
                )
    for view in nodes_with(state, "shown"):
        rule = f"{type(view).__name__}.shown() must return a dict of name to scalar"
        shown = view.shown()
        if not isinstance(shown, Mapping) or not all(isinstance(name, str) for name in shown):
            raise TypeError(f"{rule}, got {brief(shown)}.")
        for name, value in shown.items():
            if not _is_scalar(value):
                raise TypeError(f"{rule}, got {name!r}: {brief(value)}. Show a summary of it, such as its mean.")


def _is_scalar(value: Any) -> bool:
    leaves = jax.tree.leaves(value)  # of one array, of flax's variable around it, or of a Python number
    if len(leaves) != 1 or isinstance(value, str | list | tuple | Mapping) or np.ndim(leaves[0]) != 0:
        return False
    dtype = getattr(leaves[0], "dtype", None)
    if dtype is None:
        return isinstance(leaves[0], bool | int | float)
    return jnp.issubdtype(dtype, jnp.bool_) or jnp.issubdtype(dtype, jnp.number)


def tracks_best(state: Any) -> bool:
    """Return whether something in a state knows when a run is at its best, as `early_stopping` does.

    A state with a method `improved_since` does.
    """
    return bool(nodes_with(state_of("tracks_best", state), "improved_since"))


def improved(before: Any, after: Any) -> jax.Array:
    """Return whether a run has reached a new best between two of its states, () bool.

    That happens in the update that is given the loss, or with the observation.
    """
    earlier, later = (nodes_with(state_of("improved", state), "improved_since") for state in (before, after))
    flags = [jnp.asarray(now.improved_since(then), bool) for then, now in zip(earlier, later, strict=True)]
    return functools.reduce(jnp.logical_or, flags, jnp.zeros([], bool))


def handles_divergence(state: Any) -> bool:
    """Return whether a state belongs to a transformation that handles a diverging run by itself."""
    return any(
        view.handles_divergence() for view in nodes_with(state_of("handles_divergence", state), "handles_divergence")
    )


def gave_up(state: Any) -> jax.Array:
    """Return whether a state that handles divergence by itself has ended the run, as after its last rollback, () bool.

    The state is one after an update, not one that a program has frozen.
    """
    views = nodes_with(state_of("gave_up", state), "handles_divergence")
    flags = [
        jnp.asarray(view.stops(), bool) for view in views if view.handles_divergence() and has_method(view, "stops")
    ]
    return functools.reduce(jnp.logical_or, flags, jnp.zeros([], bool))


def minibatches(state: Any) -> list[tuple[jax.Array, jax.Array | None]]:
    """Return how many minibatches are gathered for the next update, and how many make one.

    If a run ends in between, the gathered gradients have not been applied.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state`.

    Returns:
      A pair for each accumulation that is not within another, in calls of `update`, each () int32. The second is None
      if the state does not hold it, as that of `optax.MultiSteps` does not. Empty if nothing accumulates.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> from lrx.run_state import minibatches
      >>> tx = lrx.accumulate(lrx.sgd(0.1), every=4)
      >>> _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
      >>> [(int(gathered), int(every)) for gathered, every in minibatches(state)]
      [(1, 4)]
    """
    return _gathering(state_of("minibatches", state))


def _gathering(node: Any) -> list[tuple[jax.Array, jax.Array | None]]:
    view = adapt(node)
    below = view.groups().values() if has_method(view, "groups") else nodes_on_path(view, node)
    found = [pair for inner in below for pair in _gathering(inner)]
    if not has_method(view, "gathering"):
        return found
    gathered, every = view.gathering()
    gathered, every = array(gathered), None if every is None else array(every)
    if every is None or not found:
        return [(gathered, every)]
    return [(inner * every + gathered, None if length is None else length * every) for inner, length in found]


def listeners(state: Any) -> tuple[str, ...]:
    """Return the names of the controllers that take their loss from `observe`.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      The names of all controllers that were built with `feedback="observed"`, as `monitor` shows them.
    """
    return tuple(
        name for name, entry in named_entries(state_of("listeners", state)) if isinstance(entry.value, Observation)
    )


def eval_params(state: Any, params: Any) -> Any:
    """Return the parameters to evaluate and to keep, from those at which gradients are taken.

    For `nesterov`, the caller holds the look-ahead point y, and the method's iterate is `theta = y + beta v`. For
    `schedule_free_sgd` and `schedule_free_adamw`, it is the average x; for `dog`, the polynomial average; for
    `averaged`, the moving average. Methods that take their gradients at the iterate itself return the parameters
    unchanged. Batch statistics of a model belong to the parameters at which gradients were taken:
    `lrx.training.recompute_batch_stats` computes those of other parameters, and `lrx.train` evaluates with both.

    Args:
      state: the optimizer state that goes with `params`, or an object that carries one as `opt_state`
        (`nnx.Optimizer`, `TrainState`).
      params: the parameters that the updates were added to.

    Returns:
      Parameters of the same structure, shapes and types.

    Raises:
      ValueError: if the state holds several such methods, whose points would depend on each other.
      TypeError: if `state` is a transformation or None.

    Source:
      Y. Nesterov, Soviet Math. Dokl. 27, 1983; A. Defazio et al., 2024, arXiv:2405.15682; M. Ivgi et al., 2023,
      arXiv:2302.12022.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1)
      >>> print(lrx.eval_params(tx.init(jnp.ones(2)), jnp.ones(2)))
      [1. 1.]
    """
    nodes = nodes_with(state_of("eval_params", state), "evaluation_params", nested=False)
    points = [node.evaluation_params(params) for node in nodes]
    moved = [point for point in points if point is not params]
    if len(moved) > 1:
        raise ValueError(
            f"state must hold one method with an evaluation point, got {len(moved)}: give the state of one."
        )
    return moved[0] if moved else params


def moves_evaluation(state: Any, params: Any) -> bool:
    """Return whether the parameters to evaluate differ from those at which gradients are taken."""
    answers = []
    jax.eval_shape(lambda state, params: answers.append(eval_params(state, params) is not params), state, params)
    return answers[0]


def apply_updates(params: Any, updates: Any, state: Any) -> Any:
    """Return the parameters after an update: the sum, or the parameters kept in the state.

    When `rollback_on_divergence` takes a run back, the kept parameters are selected: adding a difference would round
    them, and cannot recover from infinity. For `master_weights` the result is its rounded copies. For every other
    transformation this is `optax.apply_updates`.

    Args:
      params: the parameters before the update.
      updates: the updates that `tx.update` returned.
      state: the state that it returned with them.

    Returns:
      Parameters of the same structure, shapes and types.

    Raises:
      TypeError: if `state` is a transformation or None.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.5)
      >>> params = jnp.ones(2)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(lrx.apply_updates(params, updates, state))
      [0.5 0.5]
    """
    # A leaf without an update stays, as with equinox.apply_updates.
    complete = jax.tree.map(
        lambda u, x: u if u is not None or x is None else jnp.zeros_like(x),
        updates,
        params,
        is_leaf=lambda leaf: leaf is None,
    )
    applied = optax.apply_updates(params, complete)
    return settle_params(state_of("apply_updates", state), applied)


def settle_params(state: Any, params: Any) -> Any:
    """Return the parameters after an update, given the sum of parameters and updates."""
    for view in nodes_with(state, "applied_params", nested=False):
        params = view.applied_params(params)
    return params
