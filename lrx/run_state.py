"""What a training loop asks of a state: is the run over, is it better than before, which parameters go with it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._foreign import speaker
from lrx._walk import nodes_on_path, refuse_abstract, state_of, tellers
from lrx.reading import named_entries
from lrx.states import Observation, array, tells


def stopped(state: Any) -> jax.Array:
    """Say whether a controller has ended the run.

    `early_stopping` ends it when the loss has not improved for a while, `rollback_on_divergence` when it has taken the
    run back as often as it may. The rate is 0 from then on, so a run that goes on moves nothing; `lrx.train` ends.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      () bool, False where nothing in the state can end a run.

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
    """Whether something in a state can end a run."""
    return bool(stop_flags(state_of("can_stop", state)))


def stop_flags(state: Any) -> list[jax.Array]:
    """Return what each state that can end a run says about it."""
    return [array(said.stops()) for said in tellers(state, "stops")]


def tracks_best(state: Any) -> bool:
    """Return whether something in a state follows how good a run is, so that its best parameters are known.

    That is what `early_stopping` does, and every state with a method `improved_since`.
    """
    return bool(tellers(state_of("tracks_best", state), "improved_since"))


def improved(before: Any, after: Any) -> jax.Array:
    """Return whether the best loss so far has come between two states of a run, () bool.

    It comes with the update that is given the loss, or with the observation.
    """
    earlier, later = (tellers(state_of("improved", state), "improved_since") for state in (before, after))
    flags = [jnp.asarray(now.improved_since(then), bool) for then, now in zip(earlier, later, strict=True)]
    return functools.reduce(jnp.logical_or, flags, jnp.zeros([], bool))


def handles_divergence(state: Any) -> bool:
    """Return whether a state belongs to a transformation that takes a diverging run back by itself."""
    return any(
        said.handles_divergence() for said in tellers(state_of("handles_divergence", state), "handles_divergence")
    )


def minibatches(state: Any) -> list[tuple[jax.Array, jax.Array | None]]:
    """Return how many minibatches are gathered for the next update, and how many make one.

    What has been gathered when a run ends has not been applied.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state`.

    Returns:
      A pair for each accumulation that is not within another, in calls of `update`, each () int32; None for the second
      where the state does not say it, as that of `optax.MultiSteps`. Empty where nothing accumulates.

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
    said = speaker(node)
    below = said.groups().values() if tells(said, "groups") else nodes_on_path(said, node)
    found = [pair for inner in below for pair in _gathering(inner)]
    if not tells(said, "gathering"):
        return found
    gathered, every = said.gathering()
    gathered, every = array(gathered), None if every is None else array(every)
    if every is None or not found:
        return [(gathered, every)]
    return [(inner * every + gathered, None if length is None else length * every) for inner, length in found]


def listeners(state: Any) -> tuple[str, ...]:
    """Name what takes its loss from `observe`, as `monitor` and `observe(..., to=...)` do.

    Args:
      state: an optimizer state, or an object that carries one as `opt_state` (`nnx.Optimizer`, `TrainState`).

    Returns:
      The names of all that was built with `feedback="observed"`; the empty tuple where nothing was.
    """
    return tuple(
        name for name, entry in named_entries(state_of("listeners", state)) if isinstance(entry.value, Observation)
    )


def eval_params(state: Any, params: Any) -> Any:
    """Give the parameters to evaluate and to keep, from those at which gradients are taken.

    For `nesterov` the caller holds the point looked ahead to, y, and `theta = y + beta v` is the method's own iterate;
    for `schedule_free_sgd` and `schedule_free_adamw` it is the average x, for `dog` the polynomial average, for
    `averaged` the moving one. For methods
    that take their gradients at the iterate itself, the parameters come back as they are. Batch statistics of the model
    belong to the parameters that gradients were taken at: `lrx.training.recompute_batch_stats` gives those that belong
    to the others; `lrx.train` evaluates with both.

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
    nodes = tellers(state_of("eval_params", state), "evaluation_params", nested=False)
    points = [node.evaluation_params(params) for node in nodes]
    moved = [point for point in points if point is not params]
    if len(moved) > 1:
        raise ValueError(
            f"state must hold one method with an evaluation point, got {len(moved)}: give the state of one."
        )
    return moved[0] if moved else params


def moves_evaluation(state: Any, params: Any) -> bool:
    """Whether the parameters to evaluate are others than those at which gradients are taken."""
    answers = []
    jax.eval_shape(lambda state, params: answers.append(eval_params(state, params) is not params), state, params)
    return answers[0]


def apply_updates(params: Any, updates: Any, state: Any) -> Any:
    """Return the parameters after an update: the sum, or what the state keeps of them.

    Adding a difference would round what `rollback_on_divergence` takes back, and could not leave infinity; so the
    parameters that were kept are selected. Those of `master_weights` are its copies, rounded. For every other
    transformation this is `optax.apply_updates`.

    Args:
      params: the parameters before the update.
      updates: what `tx.update` gave.
      state: the state that it gave with them.

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
    """Return the parameters after an update: what the states make of those to which the updates have been added."""
    for said in tellers(state, "applied_params", nested=False):
        params = said.applied_params(params)
    return params
