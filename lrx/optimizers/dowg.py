"""DoWG: distance over weighted gradients, which follows the largest distance rather than the average one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, copies, finite_or, leafwise, require_params, square_root, total
from lrx._numbers import ArrayLike
from lrx._positions import add_steps, are_kept, exact_positions, upcast_gradients, updates_to
from lrx.arguments import as_rate
from lrx.rates import Rate
from lrx.states import RateState, shows
from lrx.transformations import factory


@shows("squared_distance", "weighted_squares")
class DowgState(NamedTuple):
    """State of `dowg`."""

    squared_distance: jax.Array  # () float32: r^2, in the parameters' units squared
    weighted_squares: jax.Array  # () float32: v, the sum of r^2 |g|^2
    initial_params: Any  # x_0
    position: Any  # x in float32 if a parameter is narrower, else ()
    rate: RateState


@factory
def dowg(
    learning_rate: ArrayLike | Rate = 1.0, *, r0: ArrayLike = 1e-2, eps: ArrayLike = 1e-4
) -> optax.GradientTransformationExtraArgs:
    """Descend at the rate of squared distance over weighted gradients.

    With `r_t = max(r_{t-1}, |x_t - x_0|)` and `v_t = v_{t-1} + r_t^2 |g_t|^2` the update is
    `-gamma_t r_t^2 / (sqrt(v_t) + eps) g_t`. Leave `learning_rate` at 1. `learning_rate(state)` shows the whole
    rate.

    Args:
      learning_rate: gamma, >= 0, a multiple of the rule's rate: a float, a `Schedule` or another `Rate`; may be traced.
      r0: the first distance, > 0, in the parameters' units; may be traced.
      eps: added to the root, > 0; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and `value=` only if the rate
      does.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Differs from the source:
      For parameters narrower than float32, x is kept in float32, in which no step is rounded away.
      `optax.tree.map_params` does not recognize this tree as parameters, and passes it to `transform_non_params` as a
      whole.

    Source:
      A. Khaled, K. Mishchenko, C. Jin, NeurIPS 2023, arXiv:2305.16284, algorithm 1; eps as in optax.contrib.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.dowg()
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(50):
      ...     updates, state = tx.update(theta, state, theta)
      ...     theta = theta + updates
      >>> print(bool(jnp.all(jnp.abs(theta) < 0.1)))
      True
    """
    rate = as_rate(learning_rate)
    _checks.positive("r0", r0, "a distance of 0 goes nowhere")
    _checks.positive("eps", eps)

    def init(params: Any) -> DowgState:
        first = jnp.square(jnp.array(r0, jnp.float32))
        return DowgState(
            first, jnp.zeros([], jnp.float32), copies(params), exact_positions(params), rate.init_rate(params)
        )

    def update(updates: Any, state: DowgState, params: Any = None, **extra_args: Any) -> tuple[Any, DowgState]:
        require_params("dowg", params, updates, "whose way from the start it measures")
        gamma, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        exact = are_kept(state.position)
        gradients, position = (upcast_gradients(updates), state.position) if exact else (updates, params)
        away = total(
            lambda _, x, x0: abs_square(x - x0), gradients, position, state.initial_params, extra_args=extra_args
        )
        distance = finite_or(jnp.maximum(state.squared_distance, away), state.squared_distance)
        squares = finite_or(
            state.weighted_squares + distance * total(abs_square, updates, extra_args=extra_args),
            state.weighted_squares,
        )
        eta = distance / (square_root(squares) + eps)

        def step(g: jax.Array, *, alpha: jax.Array) -> tuple[jax.Array]:
            return (-alpha * eta * g,)

        (scaled,) = leafwise(step, gradients, rate=gamma, extra_args=extra_args)
        if exact:
            position = add_steps(state.position, scaled, updates)
            scaled = updates_to(position, params, updates)
        kept = position if exact else state.position
        return scaled, DowgState(distance, squares, copies(state.initial_params), kept, rate_state.show(gamma * eta))

    return optax.GradientTransformationExtraArgs(init, update)
