"""Nesterov's accelerated gradient: the gradient is taken at the look-ahead point, to which the velocity leads."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import leafwise, zeros_like
from lrx._numbers import ArrayLike
from lrx._positions import combine
from lrx.arguments import as_rate, as_scheduled
from lrx.rates import Rate, Schedule
from lrx.states import RateState, array, shows
from lrx.transformations import factory


@shows("momentum")
class NesterovState(NamedTuple):
    """State of `nesterov`."""

    velocity: Any  # like the parameters, and in their units
    momentum: jax.Array  # () float32: the beta of the look-ahead point, dimensionless
    rate: RateState

    def stable_product(self) -> jax.Array:
        """Return (2 + 2 beta) / (1 + 2 beta)."""
        beta = array(self.momentum)
        return (2 + 2 * beta) / (1 + 2 * beta)

    def evaluation_params(self, params: Any) -> Any:
        """Return theta, from y and v."""
        beta = array(self.momentum)
        return combine(lambda y, v: y + beta * v, params, self.velocity)


@factory
def nesterov(
    learning_rate: ArrayLike | Rate, *, momentum: ArrayLike | Schedule = 0.9, moment_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Look ahead along the velocity, and correct the velocity by the gradient at that point.

    The method is `y_t = theta_{t-1} + beta_t (theta_{t-1} - theta_{t-2})`, `v_t = beta_t v_{t-1} + alpha_t g(y_t)`,
    `theta_t = theta_{t-1} - v_t`. The parameters that the caller holds are y_t, at which the gradient is taken, so the
    update is `y_{t+1} - y_t = beta_t v_{t-1} - (1 + beta_{t+1}) v_t`, and `eval_params(state, params)` returns theta_t.
    `sgd(momentum=..., nesterov=True)` is the same with a constant rate, and differs when the rate changes, since there
    the rate is outside the velocity.

    Nothing may scale the updates afterwards, because the velocity would not follow. Multiply the rate instead,
    `nesterov(schedule * controller)`; `group_rates` puts the factor of each group into the velocity.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      momentum: beta, in [0, 1), dimensionless: a float or a `Schedule`; may be traced.
      moment_dtype: dtype of the velocity, such as `jnp.float32`; by default the parameters' own. For complex parameters
        it stays complex.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate` is negative, `momentum` is not in [0, 1), or `moment_dtype` is not a
        floating-point type.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source:
      Y. Nesterov, Soviet Math. Dokl. 27, 1983; the constant momentum as in I. Sutskever et al., ICML 2013.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.nesterov(0.1, momentum=0.9)
      >>> y, state = jnp.ones(1), tx.init(jnp.ones(1))
      >>> updates, state = tx.update(y, state, y)
      >>> y = y + updates
      >>> print(y, lrx.eval_params(state, y))
      [0.81] [0.9]
    """
    rate = as_rate(learning_rate)
    momentum_at = as_scheduled("momentum", momentum, _checks.decay)
    _checks.float_type("moment_dtype", moment_dtype)

    def init(params: Any) -> NesterovState:
        return NesterovState(zeros_like(params, dtype=moment_dtype), momentum_at.first(), rate.init_rate(params))

    def update(updates: Any, state: NesterovState, params: Any = None, **extra_args: Any) -> tuple[Any, NesterovState]:
        alpha, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        # The gradient was taken at the point to which the momentum in the state leads.
        beta, following = state.momentum, jnp.array(momentum_at(rate_state.count), jnp.float32)

        def step(gradient: jax.Array, before: jax.Array, *, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
            push = alpha * gradient
            # beta v_{t-1} - (1 + beta') v_t with v_t written out, so that nothing cancels and an overflow stays
            # infinite.
            return -(beta * following * before + (1 + following) * push), beta * before + push

        updates, velocity = leafwise(step, updates, state.velocity, rate=alpha, extra_args=extra_args)
        return updates, NesterovState(velocity, following, rate_state)

    return optax.GradientTransformationExtraArgs(init, update)
