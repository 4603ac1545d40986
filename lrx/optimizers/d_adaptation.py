"""D-Adaptation: Adam with an estimate of the distance to the solution in place of a tuned rate.

The estimate d is a lower bound of |x_0 - x*| that only grows, and takes the place of the rate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import (
    abs_square,
    finite_or,
    inner,
    leafwise,
    quotient,
    require_params,
    square_root,
    sum_of_finite,
    sum_scalars,
    upcast,
    zero_squares_like,
    zeros_like,
)
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.optimizers.adam import one_minus_power
from lrx.rates import Rate
from lrx.states import RateState, shows
from lrx.transformations import factory


@shows("distance", "numerator")
class DAdaptationState(NamedTuple):
    """State of `d_adaptation`."""

    distance: jax.Array  # () float32: d, in the parameters' units
    numerator: jax.Array  # () float32: the weighted sum of <g, s / (sqrt(v) + eps)>
    first_moment: Any  # like the parameters, at least float32 by default: m, weighted with each step's rate
    second_moment: Any  # like the parameters, real, at least float32: v, in the gradients' units squared
    weighted_sum: Any  # like the parameters, at least float32: s, the decaying sum of rate times gradient
    moved_count: jax.Array  # () int32: updates without those in which s = 0
    rate: RateState


@factory
def d_adaptation(
    learning_rate: ArrayLike | Rate = 1.0,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    d0: ArrayLike = 1e-6,
    growth_rate: ArrayLike | None = None,
    bias_correction: bool = False,
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Take Adam's steps at the rate `gamma_t d_t`, with d_t estimated during the run.

    With `a_t = gamma_t d_t` and s, v from the step before, the estimate follows

        num <- sqrt(b2) num + (1 - sqrt(b2)) a_t <g, s / (sqrt(v) + eps)>
        m <- b1 m + (1 - b1) a_t g,   v <- b2 v + (1 - b2) g^2,   s <- sqrt(b2) s + (1 - sqrt(b2)) a_t g
        d <- max(d, num / ((1 - sqrt(b2)) |s|_1))

    and the update is `-m / (sqrt(v) + eps) - weight_decay a_t x`. Leave `learning_rate` at 1 and shape it with a
    schedule, `d_adaptation(lrx.warmup(lrx.cosine_decay(1.0, 10_000), 500))`. `learning_rate(state)` shows a_t.

    Nothing may scale the updates afterwards, because s would not follow. Multiply the rate instead.

    Args:
      learning_rate: gamma, >= 0, a multiple of the estimate: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in (0, 1); may be traced.
      eps: added to the root, >= 0, in the gradients' units; may be traced.
      weight_decay: decoupled, >= 0; may be traced.
      d0: the first estimate, > 0, in the parameters' units; may be traced.
      growth_rate: largest factor by which d may grow in a step, > 1; unlimited by default; may be traced.
      bias_correction: multiply a_t by `sqrt(1 - b2^t) / (1 - b1^t)`.
      moment_dtype: dtype of the first moment, such as `jnp.bfloat16`; float32 or wider by default. For complex
        parameters it stays complex. In float16 it would underflow, because at first it is of the order of d0 g.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params` only with weight decay, and
      `value=` only if the rate does.

    Raises:
      ValueError: if an argument is out of its range, or `moment_dtype` is not a floating-point type.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `bias_correction` is not a
        bool.

    Differs from the source:
      A step in which s is still 0 (zero gradients, a rate of 0) leaves the estimate unchanged. In optax.contrib it
      makes everything NaN.

    Source:
      A. Defazio, K. Mishchenko, ICML 2023, arXiv:2301.07733, algorithm 5, in the third version of the authors' code.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.d_adaptation()
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(200):
      ...     updates, state = tx.update(theta, state)
      ...     theta = theta + updates
      >>> print(bool(lrx.learning_rate(state) > 1e-2), bool(jnp.all(theta < 0.1)))
      True True
    """
    rate = as_rate(learning_rate)
    _checks.decay("b1", b1)
    _checks.in_interval("b2", b2, "(0, 1)", "its root weights the estimate")
    _checks.non_negative("eps", eps)
    _checks.non_negative("weight_decay", weight_decay)
    _checks.positive("d0", d0, "an estimate of 0 can never grow")
    if growth_rate is not None:
        _checks.above("growth_rate", growth_rate, 1, "at 1 the estimate could never grow")
    _checks.flag("bias_correction", bias_correction)
    _checks.float_type("moment_dtype", moment_dtype)

    def init(params: Any) -> DAdaptationState:
        m, s = zeros_like(params, upcast=True, dtype=moment_dtype), zeros_like(params, upcast=True)
        v = zero_squares_like(params)
        first = rate.init_rate(params)
        shown = first.show(first.learning_rate * jnp.asarray(d0, jnp.float32))
        count = jnp.zeros([], jnp.int32)
        return DAdaptationState(jnp.array(d0, jnp.float32), jnp.zeros([], jnp.float32), m, v, s, count, shown)

    def update(
        updates: Any, state: DAdaptationState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, DAdaptationState]:
        gamma, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        decays = not _checks.is_concrete(weight_decay) or float(weight_decay) > 0
        if decays:
            require_params("d_adaptation", params, updates, "which it decays")
        alpha, following = gamma * state.distance, optax.safe_increment(state.moved_count)
        if bias_correction:
            alpha = alpha * corrections(b1, b2, following)
        second = jnp.asarray(b2, jnp.float32)
        slow = jnp.sqrt(second)
        rest = (1 - second) / (1 + slow)  # 1 - slow, without its cancellation
        products: list[jax.Array] = []
        lengths: list[jax.Array] = []

        def step(
            g: jax.Array, m: jax.Array, v: jax.Array, s: jax.Array, *, alpha: jax.Array, x: Any
        ) -> tuple[jax.Array, ...]:
            products.append(sum_of_finite(alpha * inner(g, quotient(s, square_root(v) + eps, eps))))
            m = jnp.asarray(b1 * m + (1 - b1) * alpha * g)
            v = second * v + (1 - second) * abs_square(g)
            s = slow * s + rest * alpha * g
            lengths.append(sum_of_finite(jnp.abs(s)))
            update = -quotient(m, square_root(v) + eps, eps)
            return (update - weight_decay * alpha * upcast(x) if decays else update), m, v, s

        memories = (state.first_moment, state.second_moment, state.weighted_sum)
        updates, *after = leafwise(
            step, updates, *memories, rate=alpha, extra_args=extra_args, trees={"x": params if decays else updates}
        )
        numerator = finite_or(slow * state.numerator + rest * sum_scalars(products), state.numerator)
        length = sum_scalars(lengths)
        estimate = quotient(numerator, rest * length, 0.0)
        if growth_rate is not None:
            estimate = jnp.minimum(estimate, state.distance * growth_rate)
        distance = finite_or(jnp.maximum(state.distance, estimate), state.distance)
        count = jnp.where(length > 0, following, state.moved_count)
        return updates, DAdaptationState(
            distance, numerator, after[0], after[1], after[2], count, rate_state.show(alpha)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def corrections(b1: ArrayLike, b2: ArrayLike, count: jax.Array) -> jax.Array:
    """Return Adam's two bias corrections as one factor: sqrt(1 - b2^t) / (1 - b1^t), t = `count` >= 1."""
    # A traced b2 of 1 makes this NaN and not a rate of 0.
    second = one_minus_power(b2, count)
    return second / (jnp.sqrt(second) * one_minus_power(b1, count))
