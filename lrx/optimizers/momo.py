"""MoMo: momentum whose rate is capped by a model of the loss, so that a rate that is too large does not diverge."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaf_factors import tree_of_rates
from lrx._leaves import (
    abs_square,
    inner,
    leafwise,
    quotient,
    require_params,
    square_root,
    total,
    upcast,
    zero_squares_like,
    zeros_like,
)
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.feedback import no_observation, take_value
from lrx.optimizers.adam import one_minus_power
from lrx.rates import Rate
from lrx.states import Observation, RateState, shows
from lrx.transformations import factory


@shows("mean_value", "mean_product", "lower_bound")
class MomoState(NamedTuple):
    """State of `momo` and `momo_adam`."""

    mean_value: jax.Array  # () float32: f_bar, the running mean of the loss, in its units
    mean_product: jax.Array  # () float32: gamma, the running mean of <g, x>, in the loss's units
    lower_bound: jax.Array  # () float32: f*, in the loss's units
    observation: Observation | tuple[()]
    mean_gradient: Any  # like the parameters, at least float32 by default: d
    second_moment: Any  # like the parameters, real, at least float32: v; () in momo
    rate: RateState


@factory
def momo(
    learning_rate: ArrayLike | Rate = 1.0,
    *,
    momentum: ArrayLike = 0.9,
    lower_bound: ArrayLike = 0.0,
    adapt_lower_bound: bool = False,
    weight_decay: ArrayLike = 0.0,
    feedback: str = "value",
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Take a momentum step, but no farther than to where a model of the loss reaches its lower bound.

    With beta = `momentum` (0 in the first step), lambda = `weight_decay`, f* = `lower_bound` and
    `d_t = beta d_{t-1} + (1 - beta) g_t`, and f_bar and gamma the means of f_t and <g_t, x_t> in the same weights,

        tau_t = min(alpha_t, [(1 + alpha_t lambda) (f_bar - f* - gamma) + <d_t, x_t>]_+ / |d_t|^2)
        x_{t+1} = x_t / (1 + alpha_t lambda) - tau_t d_t

    A rate that is too large is cut back, so only one that is too small must be avoided.
    `learning_rate(state)` shows tau_t.

    Args:
      learning_rate: alpha, >= 0, the largest rate: a float, a `Schedule` or another `Rate`; may be traced.
      momentum: beta, in [0, 1), dimensionless; may be traced.
      lower_bound: f*, in the loss's units: 0 for a mean loss that can be fitted; may be traced.
      adapt_lower_bound: raise the bound using the model, starting at `lower_bound`.
      weight_decay: lambda, >= 0, in 1 over the rate's units; may be traced.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`; a step
        without a loss moves nothing.
      moment_dtype: dtype of d, such as `jnp.bfloat16`; float32 or wider by default. For complex parameters it stays
        complex.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params` and, unless
      `feedback="observed"`, `value=`, a scalar. A `value` that is not finite is ignored: that step moves nothing and
      is not averaged.

    Raises:
      ValueError: if an argument is out of its range, `moment_dtype` is not a floating-point type, or `update` gets no
        `params` or `value`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `adapt_lower_bound` is not a
        bool.

    Source:
      F. Schaipp et al., "MoMo", ICML 2024, arXiv:2305.07583, algorithms 1 and 3.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.momo(100.0)
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(60):
      ...     updates, state = tx.update(theta, state, theta, value=0.5 * jnp.sum(theta**2))
      ...     theta = theta + updates
      >>> print(bool(jnp.all(jnp.abs(theta) < 0.1)), bool(lrx.learning_rate(state) < 100))
      True True
    """
    _checks.decay("momentum", momentum)
    settings = (lower_bound, adapt_lower_bound, weight_decay, feedback, moment_dtype)
    return _momo("momo", learning_rate, momentum, None, *settings)


@factory
def momo_adam(
    learning_rate: ArrayLike | Rate = 1e-2,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    lower_bound: ArrayLike = 0.0,
    adapt_lower_bound: bool = False,
    weight_decay: ArrayLike = 0.0,
    feedback: str = "value",
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Take Adam's step, but no farther than to where a model of the loss reaches its lower bound.

    With the preconditioner `D = eps + sqrt(v_t / (1 - b2^t))` and d, f_bar and gamma as running means that start at 0,

        tau_t = min(alpha_t / c, [(1 + alpha_t lambda) (f_bar - c f* - gamma) + <d_t, x_t>]_+ / <d_t, d_t / D>)
        x_{t+1} = x_t / (1 + alpha_t lambda) - tau_t d_t / D,     c = 1 - b1^t

    `learning_rate(state)` shows c tau_t, which is alpha_t unless the step is cut back.

    Args:
      learning_rate: alpha, >= 0, the largest rate: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the means, in [0, 1); may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      eps: added to the root, > 0, in the gradients' units; may be traced.
      lower_bound: f*, in the loss's units: 0 for a mean loss that can be fitted; may be traced.
      adapt_lower_bound: raise the bound using the model, starting at `lower_bound`.
      weight_decay: lambda, >= 0, in 1 over the rate's units; may be traced.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`; a step
        without a loss moves nothing.
      moment_dtype: dtype of d, such as `jnp.bfloat16`; float32 or wider by default. For complex parameters it stays
        complex.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params` and, unless
      `feedback="observed"`, `value=`, a scalar. A `value` that is not finite is ignored: that step moves nothing and
      is not averaged.

    Raises:
      ValueError: if an argument is out of its range, `moment_dtype` is not a floating-point type, or `update` gets no
        `params` or `value`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `adapt_lower_bound` is not a
        bool.

    Source:
      F. Schaipp et al., "MoMo", ICML 2024, arXiv:2305.07583, algorithm 2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.momo_adam(10.0)
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(60):
      ...     updates, state = tx.update(theta, state, theta, value=0.5 * jnp.sum(theta**2))
      ...     theta = theta + updates
      >>> print(bool(jnp.all(jnp.abs(theta) < 0.1)), bool(lrx.learning_rate(state) < 10))
      True True
    """
    _checks.decay("b1", b1)
    _checks.decay("b2", b2)
    _checks.positive("eps", eps, "it divides where there has been no gradient")
    settings = (lower_bound, adapt_lower_bound, weight_decay, feedback, moment_dtype)
    return _momo("momo_adam", learning_rate, b1, (b2, eps), *settings)


def _momo(
    name: str,
    learning_rate: Any,
    beta: ArrayLike,
    preconditioner: tuple[ArrayLike, ArrayLike] | None,  # (b2, eps); None for momo
    lower_bound: ArrayLike,
    adapt_lower_bound: bool,
    weight_decay: ArrayLike,
    feedback: str,
    moment_dtype: Any,
) -> optax.GradientTransformationExtraArgs:
    rate = as_rate(learning_rate)
    _checks.finite("lower_bound", lower_bound)
    _checks.flag("adapt_lower_bound", adapt_lower_bound)
    _checks.non_negative("weight_decay", weight_decay)
    _checks.one_of("feedback", feedback, ("value", "observed"))
    _checks.float_type("moment_dtype", moment_dtype)

    def init(params: Any) -> MomoState:
        return MomoState(
            jnp.zeros([], jnp.float32),
            jnp.zeros([], jnp.float32),
            jnp.array(lower_bound, jnp.float32),
            no_observation(feedback),
            zeros_like(params, upcast=True, dtype=moment_dtype),
            () if preconditioner is None else zero_squares_like(params),
            rate.init_rate(params),
        )

    def update(updates: Any, state: MomoState, params: Any = None, **extra_args: Any) -> tuple[Any, MomoState]:
        require_params(name, params, updates, "on which its model of the loss rests")
        value, is_given, observation = take_value(name, state.observation, extra_args, feedback)
        usable = jnp.isfinite(value) & is_given
        alpha, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        if preconditioner is None:
            b: Any = jnp.where(state.rate.count == 0, 0.0, jnp.asarray(beta, jnp.float32))
            complete: Any = jnp.ones([], jnp.float32)
        else:
            b = jnp.asarray(beta, jnp.float32)
            complete = one_minus_power(beta, rate_state.count)

        def mix(before: jax.Array, now: jax.Array) -> jax.Array:
            return b * before + (1 - b) * now

        def moments(g: jax.Array, d: jax.Array, v: jax.Array | None = None) -> tuple[jax.Array, ...]:
            d = jnp.where(usable, mix(d, g), d)
            if v is None or preconditioner is None:
                return g, d
            b2 = preconditioner[0]
            return g, d, jnp.where(usable, b2 * v + (1 - b2) * abs_square(g), v)

        def scale_of(v: jax.Array) -> jax.Array:
            b2, eps = preconditioner  # type: ignore[misc]
            second = one_minus_power(b2, rate_state.count).astype(v.dtype)
            return jnp.asarray(eps + square_root(v / second))

        if preconditioner is None:
            _, mean_gradient = leafwise(moments, updates, state.mean_gradient)
            second_moment: Any = ()
            length = total(lambda _, d: abs_square(d), updates, mean_gradient, extra_args=extra_args)
        else:
            _, mean_gradient, second_moment = leafwise(moments, updates, state.mean_gradient, state.second_moment)
            length = total(
                lambda _, d, v: abs_square(d) / scale_of(v),
                updates,
                mean_gradient,
                second_moment,
                extra_args=extra_args,
            )
        product = total(inner, updates, params, extra_args=extra_args)
        along = total(lambda _, d, x: inner(d, x), updates, mean_gradient, params, extra_args=extra_args)
        mean_value, mean_product = mix(state.mean_value, value), mix(state.mean_product, product)
        shrink = 1 + alpha * jnp.asarray(weight_decay, jnp.float32)
        bound = state.lower_bound
        level = shrink * (mean_value - mean_product) + along  # the level of the model, above the bound or not
        if adapt_lower_bound:
            reset = jnp.maximum(level / (2 * complete * shrink), jnp.asarray(lower_bound, jnp.float32))
            bound = jnp.where(level < shrink * complete * bound, reset, bound)
        ratio = jnp.maximum(level - shrink * complete * bound, 0) / jnp.where(length > 0, length, 1.0)
        tau = jnp.where(usable & (length > 0) & ~jnp.isnan(ratio), jnp.minimum(alpha / complete, ratio), 0.0)
        if adapt_lower_bound:
            model = (mean_value + along - mean_product - tau * length / 2) / complete
            bound = jnp.where(usable, jnp.maximum(model, jnp.asarray(lower_bound, jnp.float32)), state.lower_bound)

        def step(
            g: jax.Array, d: jax.Array, v: jax.Array | None = None, *, alpha: jax.Array, given: jax.Array, x: Any
        ) -> tuple[jax.Array, ...]:
            del g
            shrink = 1 + given * jnp.asarray(weight_decay, jnp.float32)
            direction = d if v is None or preconditioner is None else quotient(d, scale_of(v), preconditioner[1])
            pull = jnp.where(usable, 1 - 1 / shrink, 0.0)
            moved = -jnp.where(pull == 0, 0.0, pull * upcast(x)) - alpha * direction
            return (moved, d) if v is None else (moved, d, v)

        memories = (mean_gradient,) if preconditioner is None else (mean_gradient, second_moment)
        trees = {"x": params, "given": tree_of_rates(alpha, updates, extra_args)}  # the rate by which a leaf decays
        moved, *_ = leafwise(step, updates, *memories, rate=tau, extra_args=extra_args, trees=trees)
        return moved, MomoState(
            jnp.where(usable, mean_value, state.mean_value),
            jnp.where(usable, mean_product, state.mean_product),
            jnp.array(bound),
            observation,
            mean_gradient,
            second_moment,
            rate_state.show(complete * tau),
        )

    return optax.GradientTransformationExtraArgs(init, update)
