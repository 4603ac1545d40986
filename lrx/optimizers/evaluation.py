"""The point to evaluate at, for methods that take gradients elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._leaves import wide
from lrx.reading import state_of
from lrx.states import Snapshot, tells


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
    points = [node.evaluation_params(params) for node in _nodes(state_of("eval_params", state))]
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


def _has_evaluation(node: Any) -> bool:
    return isinstance(node, Snapshot) or tells(node, "evaluation_params")


def _nodes(state: Any) -> list[Any]:
    """The states with an evaluation point; not those that are only kept for later."""
    nodes = jax.tree.leaves(state, is_leaf=_has_evaluation)
    return [node for node in nodes if _has_evaluation(node) and not isinstance(node, Snapshot)]


def combined(function: Callable[..., jax.Array], params: Any, tree: Any) -> Any:
    """Return `function(parameter, leaf of the state)`, computed in at least float32, in the parameters' types.

    What is not a floating-point number and what a mask hides from the method stay as they are.
    """

    def move(kept: Any, leaf: Any) -> Any:
        if isinstance(kept, optax.MaskedNode) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return leaf
        point = function(wide(leaf), wide(kept))
        # A copy: the next step may take the buffers of the state.
        return (jnp.array(point) if point is kept else point).astype(jnp.result_type(leaf))

    kept, structure = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in kept):
        leaves = structure.flatten_up_to(params)  # type: ignore[attr-defined]
    else:  # flax may keep a state in other containers than parameters, so only the order of leaves counts
        leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [move(*pair) for pair in zip(kept, leaves, strict=True)])
