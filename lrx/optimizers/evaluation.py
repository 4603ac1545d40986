"""The point to evaluate at, for methods that take gradients elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._leaves import wide
from lrx.reading import state_of
from lrx.states import Snapshot


def eval_params(state: Any, params: Any) -> Any:
    """Give the parameters to evaluate and to keep, from those at which gradients are taken.

    For `nesterov` the caller holds the point looked ahead to, y, and `theta = y + beta v` is the method's own iterate;
    for `schedule_free_sgd` and `schedule_free_adamw` it is the average x, for `dog` the polynomial average. For methods
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
    found = _evaluations(state_of("eval_params", state))
    if not found:
        return params
    if len(found) > 1:
        raise ValueError(
            f"state must hold one method with an evaluation point, got {len(found)}: give the state of one."
        )
    tree, function = found[0]
    return _moved(tree, function, params)


def moves_evaluation(state: Any) -> bool:
    """Whether the parameters to evaluate are others than those at which gradients are taken."""
    return bool(_evaluations(state))


def _evaluations(state: Any) -> list[tuple[Any, Callable[..., jax.Array]]]:
    found = [node.evaluation() for node in _nodes(state)]
    return [one for one in found if one is not None]


def _has_evaluation(node: Any) -> bool:
    return isinstance(node, Snapshot) or hasattr(type(node), "evaluation")


def _nodes(state: Any) -> list[Any]:
    """The states with an evaluation point; not those that are only kept for later."""
    nodes = jax.tree.leaves(state, is_leaf=_has_evaluation)
    return [node for node in nodes if _has_evaluation(node) and not isinstance(node, Snapshot)]


def _moved(tree: Any, function: Callable[..., jax.Array], params: Any) -> Any:
    def move(kept: Any, leaf: Any) -> Any:
        if isinstance(kept, optax.MaskedNode):  # not this method's: stays
            return leaf
        return function(wide(leaf), wide(kept)).astype(jnp.result_type(leaf))

    kept, structure = jax.tree.flatten(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in kept):
        leaves = structure.flatten_up_to(params)  # type: ignore[attr-defined]
    else:  # flax may keep a state in other containers than parameters, so only the order of leaves counts
        leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [move(*pair) for pair in zip(kept, leaves, strict=True)])
