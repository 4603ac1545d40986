"""Gradient accumulation: several small batches make one update, and time is counted in updates."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import leafwise, zeros_like
from lrx.feedback import check_loss
from lrx.rates import ArrayLike
from lrx.states import shows
from lrx.transformations import factory


@shows("gathered", "value")
class AccumulationState(NamedTuple):
    """State of `accumulate`."""

    gathered: jax.Array  # () int32: gradients since the latest applied update
    gradients: Any  # like the parameters, at least float32: their sum
    value: jax.Array  # () float32: the sum of their losses
    inner: Any


@factory
def accumulate(tx: optax.GradientTransformation, every: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Apply one update for so many gradients, to their mean.

    With k = `every`, calls 1 to k - 1 of each round give updates of zero and only add up. The k-th hands
    `g = (g_1 + ... + g_k) / k` and the mean of the `value=`s to `tx`. Everything within counts applied updates: Adam's
    bias correction, schedules (so that `warmup(..., 500)` takes 500 updates whatever k is), and controllers, which see
    one mean loss for each update. The result is that of a batch k times as large, up to the order of summation.
    Between, `learning_rate` shows the rate of the latest applied update.

    Args:
      tx: the transformation to apply; with an lrx optimizer the rate and feedback are read through.
      every: k, gradients in a round, >= 1; may be traced. For a mean over examples, batches must be of equal size.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs what `tx` needs; `params` and other
      extra arguments are those of the last call of a round.

    Raises:
      ValueError: if `every` is not a whole number >= 1; in `update`, if `value` is not a scalar.
      TypeError: if `tx` is no gradient transformation, or `value` is not a number.

    Source:
      P. Goyal et al., 2017, arXiv:1706.02677, remark 3: the mean is over all examples of the large batch.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.accumulate(lrx.sgd(lrx.linear_decay(1.0, 4)), every=2)
      >>> state = tx.init(jnp.zeros(1))
      >>> for gradient in (1.0, 3.0, 1.0, 3.0):
      ...     updates, state = tx.update(jnp.full(1, gradient), state)
      ...     print(updates, lrx.learning_rate(state))
      [0.] 1.0
      [-2.] 1.0
      [0.] 1.0
      [-1.5] 0.75
    """
    _checks.transformation(tx)
    _checks.steps("every", every, unit="gradients")
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> AccumulationState:
        zero = jnp.zeros([], jnp.float32)
        return AccumulationState(jnp.zeros([], jnp.int32), zeros_like(params, wide=True), zero, inner.init(params))

    def update(
        updates: Any, state: AccumulationState, params: Any = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[Any, AccumulationState]:
        length = jnp.maximum(jnp.asarray(every).astype(jnp.int32), 1)
        gathered = state.gathered + 1
        complete = gathered >= length
        feedback = dict(extra_args)
        total = state.value
        if value is not None:
            check_loss(value)
            total = total + jnp.asarray(value, jnp.float32)
            feedback["value"] = total / length.astype(jnp.float32)

        def add(gradient: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
            total = total + gradient
            return total / length.astype(total.dtype), jnp.where(complete, 0.0, total)

        means, gradients = leafwise(add, updates, state.gradients)

        def apply(state: Any) -> tuple[Any, Any]:
            applied, state = inner.update(means, state, params, **feedback)
            return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), applied, means), state

        def wait(state: Any) -> tuple[Any, Any]:
            return jax.tree.map(jnp.zeros_like, means), state

        applied, inner_state = jax.lax.cond(complete, apply, wait, state.inner)
        total = jnp.where(complete, 0.0, total)
        return applied, AccumulationState(jnp.where(complete, 0, gathered), gradients, total, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
