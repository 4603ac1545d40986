"""The point to evaluate at, for methods that take gradients elsewhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx._leaves import wide
from lrx.optimizers.nesterov import NesterovState


def eval_params(state: Any, params: Any) -> Any:
    """Give the parameters to evaluate and to keep, from those at which gradients are taken.

    For `nesterov` the caller holds the point looked ahead to, y, and `theta = y + beta v` is the method's own iterate.
    For methods that take their gradients at the iterate itself, the parameters come back as they are.

    Args:
      state: the optimizer state that goes with `params`.
      params: the parameters that the updates were added to.

    Returns:
      Parameters of the same structure, shapes and types.

    Raises:
      ValueError: if the state holds several such methods, whose points would depend on each other.

    Source:
      Y. Nesterov, Soviet Math. Dokl. 27, 1983.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1)
      >>> print(lrx.eval_params(tx.init(jnp.ones(2)), jnp.ones(2)))
      [1. 1.]
    """
    state = getattr(state, "opt_state", state)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, NesterovState))
    found = [node for node in nodes if isinstance(node, NesterovState)]
    if not found:
        return params
    if len(found) > 1:
        raise ValueError(
            f"state must hold one method with an evaluation point, got {len(found)}: give the state of one."
        )
    momentum = jax.tree.leaves(found[0].momentum)[0]

    def move(velocity: Any, leaf: Any) -> Any:
        if isinstance(velocity, optax.MaskedNode):  # not this method's: stays
            return leaf
        return (wide(leaf) + momentum * wide(velocity)).astype(jnp.result_type(leaf))

    velocities, structure = jax.tree.flatten(found[0].velocity, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    if any(isinstance(velocity, optax.MaskedNode) for velocity in velocities):
        leaves = structure.flatten_up_to(params)  # type: ignore[attr-defined]
    else:  # flax may keep velocities in other containers than parameters, so only the order of leaves counts
        leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [move(*pair) for pair in zip(velocities, leaves, strict=True)])
