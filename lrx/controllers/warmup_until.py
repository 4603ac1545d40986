"""Warm up until a metric shows that training has begun.

The length of this warm-up need not be known: the schedule begins, at its step 0, when a metric falls below a
threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.feedback import no_observation, take_value
from lrx.rates import Core, Feedback, Rate
from lrx.states import Observation, RateState, shows
from lrx.transformations import factory


@shows("triggered")
class WarmupUntilState(NamedTuple):
    """State of `warmup_until`."""

    triggered: jax.Array  # () bool: whether the metric has been below the threshold
    observation: Observation | tuple[()]
    rate: RateState  # of the following rate; its count starts at the trigger


@factory
def warmup_until(
    learning_rate: ArrayLike | Rate,
    *,
    warmup_value: ArrayLike,
    threshold: ArrayLike,
    metric: str = "value",
    feedback: str = "value",
) -> Rate:
    """Keep a small rate until a metric falls below a threshold, then begin the actual rate at its step 0.

    The rate is `warmup_value` as long as the metric has been >= `threshold`. From the first update with a smaller
    metric on, it is `learning_rate`, which counts its own steps and sees feedback from that update on. The ResNet paper
    trains its 110-layer network this way, at 0.01 until the training error is below 80 %:

        rate = lrx.warmup_until(
            lrx.piecewise_constant(0.1, {32_000: 0.1, 48_000: 0.1}), warmup_value=0.01, threshold=0.8, metric="error"
        )
        updates, state = tx.update(grads, state, params, error=error)

    Args:
      learning_rate: the rate that follows, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      warmup_value: the rate before that, >= 0; may be traced.
      threshold: the threshold of the metric, in its units; may be traced.
      metric: the name of the extra argument of `update` that holds the metric, such as "error"; "value" is the loss.
        The loss of a single minibatch may fall below the threshold by noise: observe a mean, or set the threshold
        lower.
      feedback: "value" if `update` is given the metric, "observed" if it comes through `observe`.

    Returns:
      A `Rate`. `update` needs the metric, a scalar, unless `feedback="observed"`, and what `learning_rate` needs. A
      metric that is not finite never triggers.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no metric.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `metric` is not a name.

    Source:
      K. He et al., "Deep Residual Learning", CVPR 2016, arXiv:1512.03385, section 4.2.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(lrx.warmup_until(lrx.linear_decay(0.1, 10), warmup_value=0.01, threshold=0.8, metric="error"))
      >>> state = tx.init(jnp.zeros(2))
      >>> for error in (0.9, 0.85, 0.79, 0.82):
      ...     updates, state = tx.update(jnp.ones(2), state, error=error)
      ...     print(f"{lrx.learning_rate(state):.2f}")
      0.01
      0.01
      0.10
      0.09
    """
    following = as_rate(learning_rate)
    _checks.non_negative("warmup_value", warmup_value)
    _checks.finite("threshold", threshold)
    if not isinstance(metric, str) or not metric.isidentifier():
        raise TypeError(f'metric must be the name of an argument, got metric={metric!r}: give "value" or "error".')

    _checks.one_of("feedback", feedback, ("value", "observed"))

    def init(params: Any) -> tuple[jax.Array, WarmupUntilState]:
        state = WarmupUntilState(jnp.zeros([], bool), no_observation(feedback), following.init_rate(params))
        return jnp.array(warmup_value, jnp.float32), state

    def update(state: WarmupUntilState, seen: Feedback) -> tuple[jax.Array, WarmupUntilState]:
        value, is_given, observation = take_value(
            "warmup_until", state.observation, seen.extra_args, feedback, name=metric
        )
        below = is_given & jnp.isfinite(value) & (value < jnp.asarray(threshold, jnp.float32))
        triggered = state.triggered | below
        rate, after = following.next_rate(state.rate, updates=seen.updates, params=seen.params, **seen.extra_args)
        after = jax.tree.map(lambda new, old: jnp.where(triggered, new, old), after, state.rate)
        rate = jnp.where(triggered, rate, jnp.asarray(warmup_value, jnp.float32))
        return rate, WarmupUntilState(triggered, observation, after)

    return Rate.from_cores((Core(init, update),))
