"""Piecewise constant rates: the rate stays, then drops by a factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule
from lrx.schedules._time import as_steps, power, segment_of, steps_table
from lrx.transformations import factory


@factory
def step_decay(init_value: ArrayLike, step_size: ArrayLike, *, factor: ArrayLike = 0.1) -> Schedule:
    """Multiply the rate by a factor at regular intervals.

    The rate is `alpha_t = alpha_0 gamma^floor(t / s)`; the first drop is at step s exactly.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      step_size: s, in optimizer steps, >= 1; may be traced.
      factor: gamma, in (0, 1]; may be traced.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `init_value` is negative or not finite, `step_size` is not a whole number >= 1, or `factor` is
        not in (0, 1].

    Source:
      R. Ge, S. Kakade, R. Kidambi, P. Netrapalli, "The Step Decay Schedule", NeurIPS 2019, arXiv:1904.12838.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.step_decay(0.1, 2, factor=0.5)(jnp.arange(5)))
      [0.1   0.1   0.05  0.05  0.025]
    """
    _checks.non_negative("init_value", init_value)
    _checks.steps("step_size", step_size)
    _checks.near_one("factor", factor)
    _checks.in_interval("factor", factor, "(0, 1]", "it multiplies the rate at each step")

    def rate_at(count: jax.Array) -> jax.Array:
        return jnp.float32(init_value) * power(factor, count // jnp.maximum(as_steps(step_size), 1))

    return Schedule.of_counts(
        rate_at,
        peak=init_value,
    )


@factory
def piecewise_constant(
    init_value: ArrayLike,
    boundaries_and_factors: Mapping[int, ArrayLike] | Sequence[tuple[ArrayLike, ArrayLike]],
) -> Schedule:
    """Multiply the rate by a factor at each of several steps.

    The rate is `alpha_t = alpha_0 prod_{b_i <= t} gamma_i`: each factor applies from its own step on. He et al. train
    with `piecewise_constant(0.1, {32_000: 0.1, 48_000: 0.1})`.

    Args:
      init_value: alpha_0, the rate at step 0, >= 0; may be traced.
      boundaries_and_factors: `{b_i: gamma_i}`, or pairs `(b_i, gamma_i)` if a step is to be traced; the b_i in
        optimizer steps, >= 1 and strictly increasing, the gamma_i >= 0.

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `init_value` or a factor is negative or not finite, or the boundaries are not whole numbers >= 1
        that increase.
      TypeError: if `boundaries_and_factors` is neither a dict nor a list of pairs.

    Source:
      K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, section 4.2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.piecewise_constant(0.8, {2: 0.5, 3: 0.1})(jnp.arange(5)))
      [0.8  0.8  0.4  0.04 0.04]
    """
    _checks.non_negative("init_value", init_value)
    name = "boundaries_and_factors"
    begins, factors = _checks.pairs_of_steps(name, boundaries_and_factors, at_least=1, what="factor")
    known = all(_checks.is_concrete(factor) for factor in factors)

    def products() -> ArrayLike:
        if known:
            return np.cumprod([1.0, *(float(factor) for factor in factors)])
        return jnp.cumprod(jnp.stack([jnp.float32(1), *(jnp.float32(factor) for factor in factors)]))

    def rate_at(count: jax.Array) -> jax.Array:
        if not begins:
            return jnp.broadcast_to(jnp.float32(init_value), jnp.shape(count))
        table = jnp.asarray(products(), jnp.float32)
        return jnp.float32(init_value) * table[segment_of(count, steps_table(begins))]

    return Schedule.of_counts(
        rate_at,
        peak=float(init_value) * float(np.max(products())) if known and _checks.is_concrete(init_value) else None,
    )
