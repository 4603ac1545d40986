"""Hypergradient descent: the rate follows its own gradient, the product of successive gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import finite_or, inner, leafwise, total, zeros_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.optimizers.adam import AdamState, moments
from lrx.rates import Rate
from lrx.states import RateState, shows
from lrx.transformations import factory


@shows("shift", "hypergradient")
class HypergradientState(NamedTuple):
    """State of `hypergradient_sgd` and `hypergradient_adam`."""

    shift: jax.Array  # () float32: the learned part of the rate, added to the given one
    hypergradient: jax.Array  # () float32: h, minus the derivative of the loss with respect to the latest rate
    direction: Any  # like the parameters, at least float32: u of the latest update, without the rate
    memory: Any  # the velocity with nesterov, the moments with Adam, else ()
    rate: RateState


@factory
def hypergradient_sgd(
    learning_rate: ArrayLike | Rate = 1e-3,
    *,
    hyper_rate: ArrayLike = 1e-3,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    min_value: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Descend, after moving the rate along its own gradient.

    The loss at x_t = x_{t-1} - alpha_{t-1} u_{t-1} has the derivative `-h_t` with respect to alpha_{t-1}, where
    `h_t = <g_t, u_{t-1}>`; so `alpha_t = alpha_{t-1} + hyper_rate h_t`, and then `x_{t+1} = x_t - alpha_t u_t`. The
    direction u is the gradient; with `momentum` mu it is the velocity `u_t = mu u_{t-1} + g_t`, and with `nesterov` it
    is `g_t + mu v_t`, where v is that velocity. With a schedule as `learning_rate`, the learned shift is added to it:
    `alpha_t = learning_rate_t + shift_t`. If the schedule or the scale set by hand is 0, the rate is 0.
    `learning_rate(state)` shows alpha_t.

    Args:
      learning_rate: the first rate, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      hyper_rate: beta, >= 0, the rate of the rate, in the rate's units over the gradients' squared; may be traced.
      momentum: mu, in [0, 1), dimensionless; None is plain descent; may be traced.
      nesterov: take the direction at the look-ahead point.
      min_value: the rate is never below this, >= 0; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if an argument is out of its range, or `nesterov` is given without momentum.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `nesterov` is not a bool.

    Differs from the source:
      The bound `min_value`: the paper's rate may become negative.

    Source:
      A. Baydin et al., ICLR 2018, arXiv:1703.04782, algorithms 1 to 4.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.hypergradient_sgd(1e-3, hyper_rate=1e-2)
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(50):
      ...     updates, state = tx.update(theta, state)
      ...     theta = theta + updates
      >>> print(bool(lrx.learning_rate(state) > 0.1), bool(jnp.all(theta < 0.1)))
      True True
    """
    _checks.flag("nesterov", nesterov)
    if momentum is not None:
        _checks.decay("momentum", momentum)
    elif nesterov:
        raise ValueError("nesterov needs momentum, got nesterov=True, momentum=None: give momentum=0.9.")

    def init_memory(params: Any) -> Any:
        return zeros_like(params, upcast=True) if nesterov else ()

    def direct(updates: Any, before: Any, memory: Any) -> tuple[Any, Any]:
        if momentum is None:
            return leafwise(lambda g, _: (g, g), updates, before)[1], ()
        velocity = leafwise(lambda g, v: (g, g + momentum * v), updates, memory if nesterov else before)[1]
        if not nesterov:
            return velocity, ()
        return leafwise(lambda g, _, v: (g, g + momentum * v, v), updates, before, velocity)[1], velocity

    return _hypergradient(learning_rate, hyper_rate, min_value, init_memory, direct)


@factory
def hypergradient_adam(
    learning_rate: ArrayLike | Rate = 1e-3,
    *,
    hyper_rate: ArrayLike = 1e-7,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    moment_dtype: Any = None,
    min_value: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Take Adam's steps, after moving the rate along its own gradient.

    This is `hypergradient_sgd` with Adam's direction `u_t = m^_t / (sqrt(v^_t + eps_root) + eps)`.

    Args:
      learning_rate: the first rate, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      hyper_rate: beta, >= 0, the rate of the rate, in the rate's units over those of the loss's derivative with respect
      to the rate; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      eps: added to the root, >= 0, in the gradients' units; may be traced.
      eps_root: added within the root, >= 0, in the gradients' units squared; may be traced.
      moment_dtype: dtype of the first moment; by default the parameters' own. For complex parameters it stays complex.
      min_value: the rate is never below this, >= 0; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if an argument is out of its range.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Differs from the source:
      The bound `min_value`; and eps is outside the bias correction, as in Adam's own algorithm.

    Source:
      A. Baydin et al., ICLR 2018, arXiv:1703.04782, algorithms 5 and 6.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.hypergradient_adam(1e-3, hyper_rate=1e-3)
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(50):
      ...     updates, state = tx.update(theta, state)
      ...     theta = theta + updates
      >>> print(bool(lrx.learning_rate(state) > 1e-2))
      True
    """
    memory_of = moments(b1, b2, eps, eps_root, moment_dtype)

    def direct(updates: Any, before: Any, memory: AdamState) -> tuple[Any, Any]:
        after, direction = memory_of.advance(memory)

        def step(g: jax.Array, _: jax.Array, m: jax.Array, v: jax.Array) -> tuple[jax.Array, ...]:
            u, m, v = direction(g, m, v)
            return g, u, m, v

        _, u, first, second = leafwise(step, updates, before, memory.first_moment, memory.second_moment)
        return u, after._replace(first_moment=first, second_moment=second)

    return _hypergradient(learning_rate, hyper_rate, min_value, memory_of.init, direct)


def _hypergradient(
    learning_rate: Any, hyper_rate: ArrayLike, min_value: ArrayLike, init_memory: Any, direct: Any
) -> optax.GradientTransformationExtraArgs:
    rate = as_rate(learning_rate)
    _checks.non_negative("hyper_rate", hyper_rate)
    _checks.non_negative("min_value", min_value)

    def init(params: Any) -> HypergradientState:
        zeros = (jnp.zeros([], jnp.float32), jnp.zeros([], jnp.float32))
        return HypergradientState(*zeros, zeros_like(params, upcast=True), init_memory(params), rate.init_rate(params))

    def update(
        updates: Any, state: HypergradientState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, HypergradientState]:
        given, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        h = total(inner, updates, state.direction, extra_args=extra_args)
        lowest = jnp.asarray(min_value, jnp.float32)
        moved = state.shift + jnp.asarray(hyper_rate, jnp.float32) * h
        shift = finite_or(jnp.maximum(moved, lowest - given), state.shift)
        # In the units of the given rate, so that a scale set by hand applies to the learned shift too.
        alpha = jnp.where(given > 0, jnp.maximum(given + rate_state.scale * shift, lowest), 0.0)
        direction, memory = direct(updates, state.direction, state.memory)

        def step(_: jax.Array, u: jax.Array, *, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
            return -alpha * u, u

        scaled, _ = leafwise(step, updates, direction, rate=alpha, extra_args=extra_args)
        return scaled, HypergradientState(shift, h, direction, memory, rate_state.show(alpha))

    return optax.GradientTransformationExtraArgs(init, update)
