"""Adam: the gradient's running mean, divided by the root of the running mean of its square."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx.optimizers._leaves import leafwise, zeros_like
from lrx.rates import ArrayLike, Rate, as_rate


class AdamState(NamedTuple):
    """State of `scale_by_adam`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates
    first_moment: Any  # like the parameters: m, in the gradients' units
    second_moment: Any  # like the parameters, at least float32: v, in the gradients' units squared


def _remaining_weight(decay: ArrayLike, count: jax.Array) -> jax.Array:
    """1 - decay^count, without the cancellation that costs 1e-5 at decay 0.999 and count 1 in float32."""
    if _checks.is_concrete(decay):
        known = float(decay)
        logarithm = jnp.float32(math.log(known) if known > 0 else -math.inf)
    else:
        logarithm = jnp.log(jnp.asarray(decay, jnp.float32))
    return -jnp.expm1(count.astype(jnp.float32) * logarithm)


def scale_by_adam(
    *, b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Normalise the gradient's mean by its root mean square.

    The direction is `m^ / (sqrt(v^) + eps)`, where `m_t = b1 m_{t-1} + (1 - b1) g_t`,
    `v_t = b2 v_{t-1} + (1 - b2) g_t^2`, `m^ = m_t / (1 - b1^t)` and `v^ = v_t / (1 - b2^t)`, t counted from 1. Close a
    chain with a rate behind it: this is the core of `adam`.

    Args:
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      eps: added to the root, after the bias correction, >= 0, in the gradients' units; may be traced.

    Returns:
      A transformation without sign. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a decay is not in [0, 1) or `eps` is negative.

    Differs from the source:
      The second moment is kept in float32 for narrower parameters too: 1 - b2 lies below the resolution of bfloat16,
      where it would never change.

    Source:
      D. Kingma, J. Ba, "Adam", ICLR 2015, arXiv:1412.6980, algorithm 1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.scale_by_adam()
      >>> direction, state = tx.update(jnp.array([3.0, -0.02]), tx.init(jnp.zeros(2)))
      >>> print(direction.round(4))
      [ 1. -1.]
    """
    _checks.in_interval("b1", b1, "[0, 1)")
    _checks.in_interval("b2", b2, "[0, 1)")
    _checks.non_negative("eps", eps)

    def init(params: Any) -> AdamState:
        return AdamState(jnp.zeros([], jnp.int32), zeros_like(params), zeros_like(params, wide=True))

    def update(updates: Any, state: AdamState, params: Any = None, **extra_args: Any) -> tuple[Any, AdamState]:
        del params, extra_args
        count = optax.safe_increment(state.count)
        weight1, weight2 = _remaining_weight(b1, count), _remaining_weight(b2, count)

        def step(gradient: jax.Array, m: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            m = jnp.asarray(b1 * m + (1 - b1) * gradient)
            v = jnp.asarray(b2 * v + (1 - b2) * jnp.square(gradient))
            root = jnp.sqrt(v / weight2)
            denominator = root + eps
            # With eps = 0 a coordinate that has never seen a gradient stays where it is; not a number stays visible.
            return jnp.where(denominator == 0, 0.0, (m / weight1) / denominator), m, v

        updates, first, second = leafwise(step, updates, state.first_moment, state.second_moment)
        return updates, AdamState(count, first, second)

    return optax.GradientTransformationExtraArgs(init, update)


def adam(
    learning_rate: ArrayLike | Rate = 1e-3,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Give each coordinate a step of about the rate's size, whatever the size of its gradients.

    The update is `theta_t = theta_{t-1} - alpha_t m^ / (sqrt(v^) + eps)`, with the bias-corrected running means of the
    gradient and of its square (see `scale_by_adam`).

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      eps: added to the root, after the bias correction, >= 0, in the gradients' units; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate` or `eps` is negative, or a decay is not in [0, 1).
      TypeError: if `learning_rate` is no rate.

    Source:
      D. Kingma, J. Ba, "Adam", ICLR 2015, arXiv:1412.6980, algorithm 1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adam(lrx.warmup(1e-3, 100))
      >>> state = tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.ones(2), state)
      >>> print(lrx.learning_rate(state))
      0.0
    """
    return optax.chain(scale_by_adam(b1=b1, b2=b2, eps=eps), as_rate(learning_rate))
