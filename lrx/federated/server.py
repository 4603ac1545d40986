"""Adaptive rules of the server: the mean of the clients' changes as a gradient, with two moments of it.

FedAvg is `lrx.sgd(1.0)` on the server and FedAvgM `lrx.sgd(1.0, momentum=0.9)`; any other transformation works too.
The rules here are those of Reddi et al., whose moments are not corrected for their start and whose second moment does
not start at 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, leafwise, quotient, square_root, zero_squares_like, zeros_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.rates import Rate
from lrx.states import shows
from lrx.transformations import factory

RULES = ("adagrad", "adam", "yogi")


@shows()
class ServerMomentsState(NamedTuple):
    """State of `scale_by_server_moments`."""

    first_moment: Any  # like the parameters: m
    second_moment: Any  # like the parameters, real, at least float32: v


@factory
def scale_by_server_moments(
    rule: str = "adam", *, b1: ArrayLike = 0.9, b2: ArrayLike = 0.99, tau: ArrayLike = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Divide a running mean of the server's gradient by the root of an accumulated square.

    With g_t the negative mean of the clients' changes, the direction is `m_t / (sqrt(v_t) + tau)`, where

        m_t = b1 m_{t-1} + (1 - b1) g_t,   m_{-1} = 0,   v_{-1} = tau^2,
        adagrad:  v_t = v_{t-1} + g_t^2
        adam:     v_t = b2 v_{t-1} + (1 - b2) g_t^2
        yogi:     v_t = v_{t-1} - (1 - b2) g_t^2 sign(v_{t-1} - g_t^2)

    In a chain, a rate comes after it: this is the core of `fed_adagrad`, `fed_adam` and `fed_yogi`.

    Args:
      rule: "adagrad", "adam" or "yogi".
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1), without effect for "adagrad"; may be traced.
      tau: degree of adaptivity, > 0, in the parameters' units: the smaller, the more adaptive; may be traced.

    Returns:
      A transformation without sign. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if the rule is unknown, a decay is not in [0, 1) or `tau` is not above 0.

    Source:
      S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv:2003.00295, algorithm 2.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrx.federated import scale_by_server_moments
      >>> tx = scale_by_server_moments("yogi", b1=0.0)
      >>> direction, state = tx.update(jnp.array([1.0, -0.1]), tx.init(jnp.zeros(2)))
      >>> print(direction.round(2))
      [ 9.9  -9.05]
    """
    _checks.one_of("rule", rule, RULES)
    _checks.decay("b1", b1)
    _checks.decay("b2", b2)
    _checks.positive("tau", tau)

    def init(params: Any) -> ServerMomentsState:
        def start(zero: jax.Array) -> jax.Array:
            return zero + jnp.square(jnp.asarray(tau, zero.dtype))

        return ServerMomentsState(zeros_like(params), jax.tree.map(start, zero_squares_like(params)))

    def update(
        updates: Any, state: ServerMomentsState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ServerMomentsState]:
        del params, extra_args

        def direction(gradient: jax.Array, m: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            square = abs_square(gradient)
            m = jnp.asarray(b1 * m + (1 - b1) * gradient)
            if rule == "adagrad":
                v = v + square
            elif rule == "adam":
                v = jnp.asarray(b2 * v + (1 - b2) * square)
            else:
                v = jnp.asarray(v - (1 - b2) * square * jnp.sign(v - square))
            return quotient(m, square_root(v) + tau, tau), m, v

        updates, first, second = leafwise(direction, updates, state.first_moment, state.second_moment)
        return updates, ServerMomentsState(first, second)

    return optax.GradientTransformationExtraArgs(init, update)


@factory
def fed_adagrad(
    learning_rate: ArrayLike | Rate, *, b1: ArrayLike = 0.0, tau: ArrayLike = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Scale the server's step by AdaGrad's sum of squares.

    The update is `x_{t+1} = x_t - eta_t m_t / (sqrt(v_t) + tau)`; see `scale_by_server_moments`.

    Args:
      learning_rate: eta, >= 0, counted in rounds: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      tau: > 0, in the parameters' units; may be traced.

    Returns:
      A transformation for the `server` of `simulate`.

    Raises:
      ValueError: if an argument is out of its range.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source:
      S. Reddi et al., ICLR 2021, arXiv:2003.00295, algorithm 2; b1 = 0 as in its experiments.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.federated.fed_adagrad(0.1)
      >>> updates, state = tx.update(jnp.array([0.5]), tx.init(jnp.zeros(1)))
      >>> print(f"{updates[0]:.3f}")
      -0.100
    """
    return optax.chain(scale_by_server_moments("adagrad", b1=b1, tau=tau), as_rate(learning_rate))


@factory
def fed_adam(
    learning_rate: ArrayLike | Rate, *, b1: ArrayLike = 0.9, b2: ArrayLike = 0.99, tau: ArrayLike = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Scale the server's step by Adam's moments, without correction of their start.

    The update is `x_{t+1} = x_t - eta_t m_t / (sqrt(v_t) + tau)`; see `scale_by_server_moments`.

    Args:
      learning_rate: eta, >= 0, counted in rounds: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      tau: > 0, in the parameters' units; may be traced.

    Returns:
      A transformation for the `server` of `simulate`.

    Raises:
      ValueError: if an argument is out of its range.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source:
      S. Reddi et al., ICLR 2021, arXiv:2003.00295, algorithm 2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.federated.fed_adam(0.1)
      >>> updates, state = tx.update(jnp.array([0.5]), tx.init(jnp.zeros(1)))
      >>> print(f"{updates[0]:.3f}")
      -0.098
    """
    return optax.chain(scale_by_server_moments("adam", b1=b1, b2=b2, tau=tau), as_rate(learning_rate))


@factory
def fed_yogi(
    learning_rate: ArrayLike | Rate, *, b1: ArrayLike = 0.9, b2: ArrayLike = 0.99, tau: ArrayLike = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """Scale the server's step by Yogi's moments, whose second one changes by the size of the last square alone.

    The update is `x_{t+1} = x_t - eta_t m_t / (sqrt(v_t) + tau)`; see `scale_by_server_moments`.

    Args:
      learning_rate: eta, >= 0, counted in rounds: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      tau: > 0, in the parameters' units; may be traced.

    Returns:
      A transformation for the `server` of `simulate`.

    Raises:
      ValueError: if an argument is out of its range.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source:
      S. Reddi et al., ICLR 2021, arXiv:2003.00295, algorithm 2, after M. Zaheer et al., NeurIPS 2018.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.federated.fed_yogi(0.1)
      >>> updates, state = tx.update(jnp.array([0.5]), tx.init(jnp.zeros(1)))
      >>> print(f"{updates[0]:.3f}")
      -0.098
    """
    return optax.chain(scale_by_server_moments("yogi", b1=b1, b2=b2, tau=tau), as_rate(learning_rate))
