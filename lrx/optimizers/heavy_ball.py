"""Polyak's heavy ball: momentum with the rate inside the velocity."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import leafwise, zeros_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate, as_scheduled
from lrx.rates import Rate, Schedule
from lrx.states import RateState, array, shows
from lrx.transformations import factory


@shows("momentum")
class HeavyBallState(NamedTuple):
    """State of `heavy_ball`."""

    velocity: Any  # like the parameters, and in their units; with momentum_correction in the gradients' units
    momentum: jax.Array  # () float32: beta of the latest update, dimensionless
    rate: RateState

    def stable_product(self) -> jax.Array:
        """Return 2 + 2 beta."""
        return 2 + 2 * array(self.momentum)


@factory
def heavy_ball(
    learning_rate: ArrayLike | Rate,
    *,
    momentum: ArrayLike | Schedule = 0.9,
    momentum_correction: bool = False,
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Descend with a momentum whose velocity contains the rate (the heavy-ball method).

    The update is `v_t = beta v_{t-1} + alpha_t g_t`, `theta_t = theta_{t-1} - v_t`. The rate is inside the velocity:
    when the rate changes, steps already in the velocity keep their size. With a constant rate it equals
    `sgd(momentum=beta)`, whose rate is outside. `momentum_correction=True` rescales the velocity with the rate,
    `v_t = beta (alpha_t / alpha_{t-1}) v_{t-1} + alpha_t g_t`, which is `sgd(momentum=beta)` for every schedule; it is
    computed as `u_t = beta u_{t-1} + g_t`, `v_t = alpha_t u_t`, so that nothing is divided by a rate of 0.

    Nothing may scale the updates afterwards, because the velocity would not follow. Multiply the rate instead,
    `heavy_ball(schedule * controller)`; `group_rates` puts the factor of each group into the velocity.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      momentum: beta, in [0, 1), dimensionless: a float or a `Schedule`; may be traced.
      momentum_correction: rescale the velocity when the rate changes.
      moment_dtype: dtype of the velocity, such as `jnp.float32`; by default the parameters' own. For complex parameters
        it stays complex.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate` is negative, `momentum` is not in [0, 1), or `moment_dtype` is not a
        floating-point type.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `momentum_correction` is not
        a bool.

    Source:
      B. Polyak, USSR Comput. Math. Math. Phys. 4(5), 1964; P. Goyal et al., arXiv:1706.02677, equation 10.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.heavy_ball(lrx.step_decay(1.0, 1, factor=0.1), momentum=0.9)
      >>> theta, state = jnp.zeros(1), tx.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.ones(1), state)
      ...     theta = theta + updates
      >>> print(theta)
      [-2.]
    """
    rate = as_rate(learning_rate)
    momentum_at = as_scheduled("momentum", momentum, _checks.decay)
    _checks.flag("momentum_correction", momentum_correction)
    _checks.float_type("moment_dtype", moment_dtype)

    def init(params: Any) -> HeavyBallState:
        return HeavyBallState(zeros_like(params, dtype=moment_dtype), momentum_at.first(), rate.init_rate(params))

    def update(
        updates: Any, state: HeavyBallState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, HeavyBallState]:
        alpha, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        beta = momentum_at(state.rate.count)

        def step(gradient: jax.Array, velocity: jax.Array, *, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
            if momentum_correction:
                velocity = jnp.asarray(beta * velocity + gradient)
                return -alpha * velocity, velocity
            velocity = jnp.asarray(beta * velocity + alpha * gradient)
            return -velocity, velocity

        updates, velocity = leafwise(step, updates, state.velocity, rate=alpha, extra_args=extra_args)
        return updates, HeavyBallState(velocity, jnp.array(beta, jnp.float32), rate_state)

    return optax.GradientTransformationExtraArgs(init, update)
