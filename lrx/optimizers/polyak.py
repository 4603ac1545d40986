"""Polyak's step size: the excess of the loss over its lowest value, divided by the squared norm of the gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._leaves import abs_square, quotient, total
from lrx._numbers import ArrayLike
from lrx.feedback import feedback_core
from lrx.rates import Feedback, Rate
from lrx.states import shows
from lrx.transformations import factory


@shows("rate", "squared_norm")
class PolyakState(NamedTuple):
    """State of `polyak`."""

    rate: jax.Array  # () float32: gamma of the latest update, before a scale set by hand
    squared_norm: jax.Array  # () float32: |g|^2, in the gradients' units squared


@factory
def polyak(
    *,
    c: ArrayLike = 0.5,
    max_rate: ArrayLike = 1.0,
    f_min: ArrayLike = 0.0,
    growth: ArrayLike | None = None,
    feedback: str = "value",
) -> Rate:
    """Set the rate by the loss and the length of the direction (the stochastic Polyak step size).

    The rate is `gamma_t = min(gamma_max, (f_t - f_min) / (c |g_t|^2))`, 0 if the gradient is 0 or the loss is below
    `f_min`. With `growth` the cap follows the rate, `gamma_max = min(max_rate, growth gamma_{t-1})`: the authors let it
    grow by a factor of 2 in an epoch of n minibatches, `growth=2 ** (1 / n)`. The result is a `Rate`: used alone it is
    gradient descent. It can be multiplied, or passed to an optimizer, whose finished direction then takes the place of
    g.

    Args:
      c: > 0, dimensionless; Polyak's is 0.5, and smaller values take larger steps; may be traced.
      max_rate: the largest rate, > 0; may be traced.
      f_min: the lowest loss possible, in the loss's units: 0 for a mean loss that can be fitted; may be traced.
      growth: largest ratio of successive rates, >= 1; None for no limit; may be traced.
      feedback: "value" if `update` is given `value=loss`, "observed" if the loss comes through `observe`: then a
        step without an observation keeps the rate.

    Returns:
      A `Rate`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite keeps the
      rate.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Source:
      N. Loizou et al., AISTATS 2021, arXiv:2002.10542, equation 2 and section 5; B. Polyak, 1987, for the step.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.polyak()
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> updates, state = tx.update(theta, state, value=0.5 * jnp.sum(theta**2))
      >>> print(lrx.learning_rate(state), updates)
      1.0 [-1. -1.]
    """
    _checks.positive("c", c)
    _checks.positive("max_rate", max_rate)
    _checks.finite("f_min", f_min)
    if growth is not None:
        _checks.near_one("growth", growth)
        _checks.at_least("growth", growth, 1, "below 1 the rate could only fall")

    def init(params: Any) -> tuple[ArrayLike, PolyakState]:
        del params
        return max_rate, PolyakState(jnp.array(max_rate, jnp.float32), jnp.zeros([], jnp.float32))

    def update(state: PolyakState, value: jax.Array, seen: Feedback) -> tuple[jax.Array, PolyakState]:
        squared_norm = total(abs_square, seen.updates, extra_args=seen.extra_args)
        gap = jnp.maximum(value - jnp.asarray(f_min, jnp.float32), 0)
        wanted = quotient(gap, jnp.asarray(c, jnp.float32) * squared_norm, 0.0)
        cap = jnp.asarray(max_rate, jnp.float32)
        if growth is not None:
            # A rate of 0 could never grow by a factor.
            cap = jnp.where(state.rate > 0, jnp.minimum(cap, jnp.asarray(growth, jnp.float32) * state.rate), cap)
        rate = jnp.minimum(cap, wanted)
        return rate, PolyakState(rate, squared_norm)

    core = feedback_core(init=init, update=update, feedback=feedback)
    return Rate.from_cores((core,), peak=max_rate)
