"""COCOB: every coordinate bets its past gains on the next gradient, without a learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaf_factors import note_start
from lrx._leaves import (
    abs_square,
    clip_to_float32,
    copies,
    finite_or,
    inner,
    leafwise,
    quotient,
    require_params,
    square_root,
    sum_of_finite,
    sum_scalars,
    total,
    upcast,
    zero_squares_like,
    zeros_like,
)
from lrx._numbers import ArrayLike
from lrx._paths import named_leaves
from lrx.states import ComputedRate, shows
from lrx.transformations import factory


@shows()
class CocobState(NamedTuple):
    """State of `cocob`."""

    initial_params: Any  # w_1
    largest_gradient: Any  # like the parameters, at least float32: L
    sum_magnitudes: Any  # like the parameters, at least float32: G, the sum of |g|
    reward: Any  # like the parameters, at least float32: the gains of the bets so far
    sum_gradients: Any  # like the parameters, at least float32: theta, minus the sum of g
    rate: ComputedRate


@factory
def cocob(*, alpha: ArrayLike = 100.0, eps: ArrayLike = 1e-8) -> optax.GradientTransformationExtraArgs:
    """Bet on the gradients, coordinate by coordinate (COCOB-Backprop).

    In each coordinate

        L <- max(L, |g|),   G <- G + |g|,   reward <- max(reward - g (w - w_1), 0),   theta <- theta - g
        w <- w_1 + theta / (L max(G + L, alpha L)) (L + reward)

    There is no rate to set or to schedule. `learning_rate(state)` shows the length of the latest update over
    that of its gradient. Nothing may scale the updates afterwards, because the rewards would not follow.

    Args:
      alpha: bounds the first bets to 1 / alpha of the wealth, > 0, dimensionless; may be traced.
      eps: the first L, > 0, in the gradients' units; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`.

    Differs from the source:
      Gradients are divided by L first, so that no product overflows. optax.contrib also has a `learning_rate`, which
      has no effect if it is constant.

    Source:
      F. Orabona, T. Tommasi, NeurIPS 2017, arXiv:1705.07795, algorithm 2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.cocob()
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(100):
      ...     updates, state = tx.update(theta, state, theta)
      ...     theta = theta + updates
      >>> print(bool(jnp.all(jnp.abs(theta) < 0.2)))
      True
    """
    _checks.positive("alpha", alpha)
    _checks.positive("eps", eps, "it is what the first gradients are divided by")

    def init(params: Any) -> CocobState:
        largest = jax.tree.map(lambda zero: zero + jnp.asarray(eps, zero.dtype), zero_squares_like(params))
        magnitudes, reward = zero_squares_like(params), zero_squares_like(params)
        theta = zeros_like(params, upcast=True)
        count = jnp.zeros([], jnp.int32)
        note_start(count, lambda: {path: "" for path, _ in named_leaves(params)})
        rate = ComputedRate(count, jnp.zeros([], jnp.float32))
        return CocobState(copies(params), largest, magnitudes, reward, theta, rate)

    def update(updates: Any, state: CocobState, params: Any = None, **extra_args: Any) -> tuple[Any, CocobState]:
        del extra_args
        require_params("cocob", params, updates, "from whose start it bets")
        lengths: list[jax.Array] = []

        def bet(
            g: jax.Array,
            largest: jax.Array,
            magnitudes: jax.Array,
            reward: jax.Array,
            theta: jax.Array,
            *,
            w: Any,
            w1: Any,
        ) -> tuple[jax.Array, ...]:
            start, now = upcast(w1), upcast(w)
            largest = jnp.maximum(largest, jnp.abs(g))
            magnitudes = clip_to_float32(magnitudes + jnp.abs(g))
            reward = clip_to_float32(jnp.maximum(reward - inner(g, now - start), 0.0))
            theta = clip_to_float32(theta - g)
            share = quotient(quotient(theta, largest, eps), jnp.maximum(magnitudes / largest + 1, alpha), 1.0)
            moved = start + share * (1 + reward / largest) - now
            lengths.append(sum_of_finite(abs_square(moved)))
            return moved, largest, magnitudes, reward, theta

        memories = (state.largest_gradient, state.sum_magnitudes, state.reward, state.sum_gradients)
        trees = {"w": params, "w1": state.initial_params}
        bets, *after = leafwise(bet, updates, *memories, trees=trees)
        gradient = square_root(total(abs_square, updates))
        applied = finite_or(quotient(square_root(sum_scalars(lengths)), gradient, 0.0), state.rate.learning_rate)
        rate = ComputedRate(optax.safe_increment(state.rate.count), applied)
        return bets, CocobState(copies(state.initial_params), after[0], after[1], after[2], after[3], rate)

    return optax.GradientTransformationExtraArgs(init, update)
