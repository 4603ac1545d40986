"""Prodigy: Adam with an estimate of the distance to the solution that grows faster than D-Adaptation's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import (
    abs_square,
    copies,
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
from lrx._positions import add_steps, are_kept, exact_positions, upcast_gradients, updates_to
from lrx.arguments import as_rate
from lrx.optimizers.d_adaptation import corrections
from lrx.rates import Rate
from lrx.states import RateState, shows
from lrx.transformations import factory


@shows("distance", "largest_distance", "numerator")
class ProdigyState(NamedTuple):
    """State of `prodigy`."""

    distance: jax.Array  # () float32: d, in the parameters' units
    largest_distance: jax.Array  # () float32: the largest estimate so far; d may be smaller under a growth_rate
    numerator: jax.Array  # () float32: the weighted sum of <g, x_0 - x>
    initial_params: Any  # x_0
    first_moment: Any  # like the parameters, at least float32 by default: m, of d g
    second_moment: Any  # like the parameters, real, at least float32: v, of (d g)^2
    weighted_sum: Any  # like the parameters, at least float32: s
    moved_count: jax.Array  # () int32: updates without those at a rate of 0
    position: Any  # x in float32 if a parameter is narrower, else ()
    rate: RateState


@factory
def prodigy(
    learning_rate: ArrayLike | Rate = 1.0,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    b3: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    d0: ArrayLike = 1e-6,
    d_coef: ArrayLike = 1.0,
    growth_rate: ArrayLike | None = None,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Take Adam's steps at the rate `gamma_t d_t`, with d_t estimated from how far the parameters have come.

    With `a_t = gamma_t d_t` the method is

        num <- b3 num + (d / d0) a_t <g, x_0 - x>,   s <- b3 s + (d / d0) a_t g
        m <- b1 m + (1 - b1) d g,                    v <- b2 v + (1 - b2) d^2 g^2
        d <- max(d, d_coef num / |s|_1)

    and the update is `-a_t m / (sqrt(v) + d eps) - weight_decay a_t x`, with the new d beside eps. Leave
    `learning_rate` at 1 and shape it with a schedule; the authors recommend a cosine. `learning_rate(state)` shows a_t.

    Nothing may scale the updates afterwards, because the numerator would not follow. Multiply the rate instead.

    Args:
      learning_rate: gamma, >= 0, a multiple of the estimate: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1); may be traced.
      b2: decay of the second moment, in (0, 1); may be traced.
      b3: decay of the numerator and of s, in (0, 1); by default sqrt(b2); may be traced.
      eps: added to the root, times d, >= 0; may be traced.
      weight_decay: decoupled, >= 0; may be traced.
      d0: the first estimate, > 0, in the parameters' units; may be traced.
      d_coef: multiplies the estimate, > 0, dimensionless; if you tune anything, tune this; may be traced.
      growth_rate: largest factor by which d may grow in a step, > 1; unlimited by default; may be traced.
      bias_correction: multiply a_t by `sqrt(1 - b2^t) / (1 - b1^t)`.
      safeguard_warmup: leave gamma out of s, so that a warm-up does not inflate the estimate.
      moment_dtype: dtype of the first moment, such as `jnp.bfloat16`; float32 or wider by default. For complex
        parameters it stays complex. In float16 it would underflow, because at first it is of the order of d0 g.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and `value=` only if the rate
      does.

    Raises:
      ValueError: if an argument is out of its range, `moment_dtype` is not a floating-point type, or `update` gets no
        `params`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or a flag is not a bool.

    Differs from the source:
      A step in which s is still 0 (zero gradients) leaves the estimate unchanged. A step at a rate of 0, such as the
      first of a warm-up, leaves everything unchanged, as in the authors' code. In optax.contrib the former makes
      everything NaN. For parameters narrower than float32, x is kept in float32, because first steps of 1e-6 would be
      rounded away and the estimate could never grow. `optax.tree.map_params` does not recognize this tree as
      parameters, and passes it to `transform_non_params` as a whole.

    Source:
      K. Mishchenko, A. Defazio, ICML 2024, arXiv:2306.06101, algorithm 4, in the form of the authors' code.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.prodigy()
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(100):
      ...     updates, state = tx.update(theta, state, theta)
      ...     theta = theta + updates
      >>> print(bool(lrx.learning_rate(state) > 1e-2), bool(jnp.all(theta < 0.1)))
      True True
    """
    rate = as_rate(learning_rate)
    _checks.decay("b1", b1)
    _checks.in_interval("b2", b2, "(0, 1)", "its root weights the estimate")
    if b3 is not None:
        _checks.in_interval("b3", b3, "(0, 1)", "it weights the estimate")
    _checks.non_negative("eps", eps)
    _checks.non_negative("weight_decay", weight_decay)
    _checks.positive("d0", d0, "an estimate of 0 can never grow")
    _checks.positive("d_coef", d_coef)
    if growth_rate is not None:
        _checks.above("growth_rate", growth_rate, 1, "at 1 the estimate could never grow")
    _checks.flag("bias_correction", bias_correction)
    _checks.flag("safeguard_warmup", safeguard_warmup)
    _checks.float_type("moment_dtype", moment_dtype)

    def init(params: Any) -> ProdigyState:
        first = rate.init_rate(params)
        return ProdigyState(
            distance=jnp.array(d0, jnp.float32),
            largest_distance=jnp.array(d0, jnp.float32),
            numerator=jnp.zeros([], jnp.float32),
            initial_params=copies(params),
            first_moment=zeros_like(params, upcast=True, dtype=moment_dtype),
            second_moment=zero_squares_like(params),
            weighted_sum=zeros_like(params, upcast=True),
            moved_count=jnp.zeros([], jnp.int32),
            position=exact_positions(params),
            rate=first.show(first.learning_rate * jnp.asarray(d0, jnp.float32)),
        )

    def update(updates: Any, state: ProdigyState, params: Any = None, **extra_args: Any) -> tuple[Any, ProdigyState]:
        require_params("prodigy", params, updates, "whose way from the start it measures")
        gamma, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        d, start = state.distance, jnp.asarray(d0, jnp.float32)
        alpha, following = gamma * d, optax.safe_increment(state.moved_count)
        if bias_correction:
            alpha = alpha * corrections(b1, b2, following)
        exact = are_kept(state.position)
        gradients, position = (upcast_gradients(updates), state.position) if exact else (updates, params)
        decay = jnp.sqrt(jnp.asarray(b2, jnp.float32)) if b3 is None else jnp.asarray(b3, jnp.float32)
        products: list[jax.Array] = []
        lengths: list[jax.Array] = []

        def measure(
            g: jax.Array, m: jax.Array, v: jax.Array, s: jax.Array, *, alpha: jax.Array, x: Any, x0: Any
        ) -> tuple[jax.Array, ...]:
            moves = alpha != 0  # a step at a rate of 0 measures nothing
            products.append(sum_of_finite(d / start * alpha * inner(g, upcast(x0) - upcast(x))))
            m = jnp.where(moves, b1 * m + (1 - b1) * d * g, m)
            v = jnp.where(moves, b2 * v + (1 - b2) * abs_square(d * g), v)
            s = jnp.where(moves, decay * s + d / start * (d if safeguard_warmup else alpha) * g, s)
            lengths.append(sum_of_finite(jnp.where(moves, jnp.abs(s), 0.0)))
            return g, m, v, s

        trees = {"x": position, "x0": state.initial_params}
        memories = (state.first_moment, state.second_moment, state.weighted_sum)
        _, *after = leafwise(measure, gradients, *memories, rate=alpha, extra_args=extra_args, trees=trees)
        length = sum_scalars(lengths)
        counts = length > 0
        numerator = finite_or(decay * state.numerator + sum_scalars(products), state.numerator)
        numerator = jnp.where(counts, numerator, state.numerator)
        estimate = finite_or(quotient(jnp.asarray(d_coef * numerator), length, 0.0), d)
        # The first real estimate replaces the guess d0, whatever the growth rate is.
        followed = jnp.where(d == start, jnp.maximum(d, estimate), d)
        largest = jnp.where(counts, jnp.maximum(state.largest_distance, estimate), state.largest_distance)
        grown = largest if growth_rate is None else jnp.minimum(largest, followed * growth_rate)
        distance = jnp.where(counts, grown, d)

        def step(_: jax.Array, m: jax.Array, v: jax.Array, *, alpha: jax.Array, x: Any) -> tuple[jax.Array, ...]:
            update = -alpha * quotient(m, square_root(v) + distance * eps, eps)
            return update - weight_decay * alpha * upcast(x), m, v

        trees = {"x": position}
        steps, *_ = leafwise(step, gradients, *after[:2], rate=alpha, extra_args=extra_args, trees=trees)
        if exact:
            position = add_steps(state.position, steps, updates)
            steps = updates_to(position, params, updates)
        return steps, ProdigyState(
            jnp.array(distance),
            jnp.array(largest),
            numerator,
            copies(state.initial_params),
            after[0],
            after[1],
            after[2],
            jnp.where(counts, following, state.moved_count),
            position if exact else state.position,
            rate_state.show(alpha),
        )

    return optax.GradientTransformationExtraArgs(init, update)
