"""Stochastic gradient descent, plain, or with momentum whose rate is outside the velocity."""

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
from lrx.states import array, shows
from lrx.transformations import factory


@shows("momentum")
class MomentumState(NamedTuple):
    """State of `scale_by_momentum`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates
    momentum: jax.Array  # () float32: beta of the latest update, dimensionless
    nesterov: jax.Array  # () bool: whether the direction is that at the look-ahead point
    velocity: Any  # like the parameters: the decaying sum of gradients, in the gradients' units

    def stable_product(self) -> jax.Array:
        """Return 2 + 2 beta, over 1 + 2 beta at the look-ahead point."""
        beta = array(self.momentum)
        return (2 + 2 * beta) / jnp.where(array(self.nesterov), 1 + 2 * beta, 1.0)


@factory
def scale_by_momentum(
    momentum: ArrayLike | Schedule, *, nesterov: bool = False, moment_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Replace the gradient by a decaying sum of gradients.

    The direction is `u_t = beta u_{t-1} + g_t`, or `g_t + beta u_t` with `nesterov=True`. In a chain, a rate comes
    after it: this is the core of `sgd(momentum=...)`.

    Args:
      momentum: beta, in [0, 1), dimensionless: a float or a `Schedule`; may be traced.
      nesterov: take the direction at the look-ahead point.
      moment_dtype: dtype of the velocity, such as `jnp.float32`; by default the parameters' own. For complex parameters
        it stays complex.

    Returns:
      A transformation without sign. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `momentum` is not in [0, 1), or `moment_dtype` is not a floating-point type.
      TypeError: if `nesterov` is not a bool.

    Source:
      I. Sutskever, J. Martens, G. Dahl, G. Hinton, ICML 2013; P. Goyal et al., arXiv:1706.02677, equation 9.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.scale_by_momentum(0.5)
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(2):
      ...     direction, state = tx.update(jnp.ones(1), state)
      >>> print(direction)
      [1.5]
    """
    momentum_at = as_scheduled("momentum", momentum, _checks.decay)
    _checks.flag("nesterov", nesterov)
    _checks.float_type("moment_dtype", moment_dtype)

    def init(params: Any) -> MomentumState:
        velocity = zeros_like(params, dtype=moment_dtype)
        return MomentumState(jnp.zeros([], jnp.int32), momentum_at.first(), jnp.array(nesterov), velocity)

    def update(updates: Any, state: MomentumState, params: Any = None, **extra_args: Any) -> tuple[Any, MomentumState]:
        del params, extra_args
        beta = momentum_at(state.count)

        def step(gradient: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
            velocity = gradient + beta * velocity
            return (gradient + beta * velocity if nesterov else velocity), velocity

        updates, velocity = leafwise(step, updates, state.velocity)
        shown = (jnp.array(beta, jnp.float32), jnp.array(nesterov))
        return updates, MomentumState(optax.safe_increment(state.count), *shown, velocity)

    return optax.GradientTransformationExtraArgs(init, update)


@factory
def sgd(
    learning_rate: ArrayLike | Rate,
    *,
    momentum: ArrayLike | Schedule | None = None,
    nesterov: bool = False,
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Descend along the gradient, or along a decaying sum of gradients.

    The update is `theta_{t+1} = theta_t - alpha_t g_t`, with momentum `theta_{t+1} = theta_t - alpha_t u_t` where
    `u_t = beta u_{t-1} + g_t`. The rate is outside the velocity, as in PyTorch and optax: a change of the rate acts on
    the whole step at once. `heavy_ball` has the rate inside, where a change acts on new gradients only.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced. A good start for vision is
        1e-2 to 1e-1.
      momentum: beta, in [0, 1), dimensionless, usually 0.9: a float or a `Schedule`, such as `one_cycle_momentum`; may
        be traced. None keeps no velocity.
      nesterov: take the gradient's step from the look-ahead point, to which the velocity leads.
      moment_dtype: dtype of the velocity, such as `jnp.float32`; by default the parameters' own. For complex parameters
        it stays complex.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate` is negative, `momentum` not in [0, 1), `nesterov` is given without momentum, or
        `moment_dtype` is not a floating-point type.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `nesterov` is not a bool.

    Source:
      H. Robbins, S. Monro, Ann. Math. Stat. 22(3), 1951; I. Sutskever et al., ICML 2013, for the momentum.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1, momentum=0.9)
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(updates)
      [-0.1 -0.1]
    """
    rate = as_rate(learning_rate)
    _checks.flag("nesterov", nesterov)
    _checks.float_type("moment_dtype", moment_dtype)
    if momentum is None:
        if nesterov:
            raise ValueError("nesterov needs momentum, got nesterov=True, momentum=None: give momentum=0.9.")
        return optax.chain(rate)
    return optax.chain(scale_by_momentum(momentum, nesterov=nesterov, moment_dtype=moment_dtype), rate)
