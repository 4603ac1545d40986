"""Reduce the rate when the loss has stopped improving.

The one controller that everybody knows from other libraries, as a factor that multiplies any schedule.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx.feedback import controller
from lrx.rates import ArrayLike, Controller
from lrx.states import shows
from lrx.transformations import factory


@shows("scale", "best_value", "plateau_count", "cooldown_count", "sum_value", "value_count")
class ReduceOnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`."""

    scale: jax.Array  # () float32: multiplies the rate, dimensionless
    best_value: jax.Array  # () float32: best averaged loss so far, in the loss's units; infinite before the first
    plateau_count: jax.Array  # () int32: consecutive averages without improvement
    cooldown_count: jax.Array  # () int32: averages for which nothing is counted yet
    sum_value: jax.Array  # () float32: sum of the losses of the average under way
    value_count: jax.Array  # () int32: how many there are


@factory
def reduce_on_plateau(
    *,
    factor: ArrayLike = 0.1,
    patience: ArrayLike = 10,
    rtol: ArrayLike = 1e-4,
    atol: ArrayLike = 0.0,
    cooldown: ArrayLike = 0,
    min_scale: ArrayLike = 0.0,
    accumulation_size: ArrayLike = 1,
    mode: str = "min",
    feedback: str = "value",
) -> Controller:
    """Multiply the rate by a factor when the loss has stopped improving.

    With v the mean of the latest `accumulation_size` losses and v* the best so far, v is an improvement when
    `v < v* - (rtol |v*| + atol)`. An improvement becomes the best; otherwise the plateau is one longer, and when it is
    longer than `patience`, `scale <- max(factor * scale, min_scale)`, the plateau begins anew and `cooldown` averages
    are not counted. All statistics are float32 whatever the type of the parameters or the loss.

    Args:
      factor: what the rate is multiplied by, in (0, 1); may be traced.
      patience: how many averages without improvement are tolerated, >= 0: 0 reduces at the first one; may be traced.
      rtol: least relative improvement, in [0, 1); of |v*|, so that negative losses are treated alike; may be traced.
      atol: least absolute improvement, in the loss's units, >= 0; may be traced.
      cooldown: averages after a reduction that are not counted, >= 0; may be traced.
      min_scale: where the scale stops, in [0, 1], dimensionless; may be traced.
      accumulation_size: losses to an average, >= 1: with the loss of each minibatch take an epoch's worth; may be
        traced.
      mode: "min" for a loss, "max" for an accuracy.
      feedback: "value" where `update` is given `value=loss`, "observed" where the loss comes through `observe`.

    Returns:
      A `Controller`. `update` needs `value=`, a scalar, unless `feedback="observed"`. A `value` that is not finite is
      not a measurement: it is ignored, neither averaged nor counted.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `value`.

    Differs from the source:
      optax compares with `(1 - rtol) v*`, which makes the bar easier for negative losses, and with patience 0 also
      reduces after an improvement; here patience counts as in PyTorch.

    Source:
      No paper; the rule of `ReduceLROnPlateau` in Keras and PyTorch with the argument names of optax.contrib.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(factor=0.5, patience=1))
      >>> state = tx.init(jnp.zeros(2))
      >>> for loss in (1.0, 0.5, 0.5, 0.5):
      ...     updates, state = tx.update(jnp.ones(2), state, value=loss)
      >>> print(lrx.learning_rate(state))
      0.05
    """
    _checks.in_interval("factor", factor, "(0, 1)", "it multiplies the rate at each plateau")
    _checks.steps("patience", patience, at_least=0)
    _checks.in_interval("rtol", rtol, "[0, 1)", "it is a fraction of the best loss")
    _checks.non_negative("atol", atol)
    _checks.steps("cooldown", cooldown, at_least=0)
    _checks.in_interval("min_scale", min_scale, "[0, 1]", "it is a fraction of the rate, not a rate")
    _checks.steps("accumulation_size", accumulation_size)
    _checks.one_of("mode", mode, ("min", "max"))
    sign = 1.0 if mode == "min" else -1.0

    def init(params: object) -> ReduceOnPlateauState:
        del params
        return ReduceOnPlateauState(
            scale=jnp.ones([], jnp.float32),
            best_value=jnp.asarray(sign * jnp.inf, jnp.float32),
            plateau_count=jnp.zeros([], jnp.int32),
            cooldown_count=jnp.zeros([], jnp.int32),
            sum_value=jnp.zeros([], jnp.float32),
            value_count=jnp.zeros([], jnp.int32),
        )

    def update(state: ReduceOnPlateauState, value: jax.Array) -> tuple[jax.Array, ReduceOnPlateauState]:
        total = state.sum_value + value
        number = optax.safe_increment(state.value_count)
        complete = number >= jnp.asarray(accumulation_size, jnp.int32)
        mean = total / number.astype(jnp.float32)

        best = state.best_value
        # Before the first average the best is infinite, and infinity minus a tolerance of it is not a number.
        margin = jnp.where(jnp.isfinite(best), jnp.float32(rtol) * jnp.abs(best) + jnp.float32(atol), 0.0)
        improved = sign * mean < sign * best - margin
        cooling = state.cooldown_count > 0
        plateau = jnp.where(improved | cooling, 0, optax.safe_increment(state.plateau_count))
        reduce = plateau > jnp.asarray(patience, jnp.int32)
        # A scale that rose above the floor's own rounding must not be lifted by it.
        lower = jnp.minimum(jnp.maximum(state.scale * jnp.float32(factor), jnp.float32(min_scale)), state.scale)

        after = ReduceOnPlateauState(
            scale=jnp.where(reduce, lower, state.scale),
            best_value=jnp.where(improved, mean, best),
            plateau_count=jnp.where(reduce, 0, plateau),
            cooldown_count=jnp.where(
                reduce, jnp.asarray(cooldown, jnp.int32), jnp.maximum(state.cooldown_count - 1, 0)
            ),
            sum_value=jnp.zeros([], jnp.float32),
            value_count=jnp.zeros([], jnp.int32),
        )
        waiting = state._replace(sum_value=total, value_count=number)
        chosen = jax.tree.map(lambda new, old: jnp.where(complete, new, old), after, waiting)
        return chosen.scale, chosen

    return controller(
        reduce_on_plateau,
        {
            "factor": factor,
            "patience": patience,
            "rtol": rtol,
            "atol": atol,
            "cooldown": cooldown,
            "min_scale": min_scale,
            "accumulation_size": accumulation_size,
            "mode": mode,
            "feedback": feedback,
        },
        init=init,
        update=update,
        feedback=feedback,
    )
