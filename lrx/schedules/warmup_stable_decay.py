"""Warm up, stay, decay: a schedule that can be branched off at any time to finish a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx.rates import Schedule, largest
from lrx.schedules._time import as_steps, sum_of_steps, time_fractions
from lrx.schedules.cosine import half_cosine
from lrx.transformations import factory


@factory
def warmup_stable_decay(
    peak_value: ArrayLike,
    *,
    warmup_steps: ArrayLike,
    stable_steps: ArrayLike,
    decay_steps: ArrayLike,
    end_value: ArrayLike = 0.0,
    decay: str = "linear",
) -> Schedule:
    """Ramp up, keep the peak for most of the run, and cool down at its end: WSD.

    The rate is `alpha* t / W` for t < W, `alpha*` for S more steps, and then, with u the fraction of the D decay steps
    that has passed, `alpha_end + (alpha* - alpha_end) f(u)`, where f is `1 - u` for "linear", `(1 + cos(pi u)) / 2` for
    "cosine" and `1 - sqrt(u)` for "sqrt"; for "exponential" it is `alpha* (alpha_end / alpha*)^u`. In the source, a
    cool-down over a fifth of the run does about as well as a cosine over all of it, and "sqrt" a little better than
    "linear".

    Args:
      peak_value: alpha*, >= 0, and > 0 for "exponential"; may be traced.
      warmup_steps: W, in optimizer steps, >= 0; may be traced.
      stable_steps: S, in optimizer steps, >= 0; may be traced.
      decay_steps: D, in optimizer steps, >= 1; may be traced.
      end_value: alpha_end, >= 0, and > 0 for "exponential"; may be traced.
      decay: "linear", "cosine", "sqrt" or "exponential".

    Returns:
      A `Schedule`. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a rate is negative or not finite, or 0 for "exponential", a duration is not a whole number in its
        range, or `decay` is unknown.

    Source:
      S. Hu et al., "MiniCPM", 2024, arXiv:2404.06395; A. Hägele et al., 2024, arXiv:2405.18392, equation 1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> print(lrx.warmup_stable_decay(0.8, warmup_steps=2, stable_steps=2, decay_steps=4)(jnp.arange(9)))
      [0.  0.4 0.8 0.8 0.8 0.6 0.4 0.2 0. ]
    """
    _checks.one_of("decay", decay, ("linear", "cosine", "sqrt", "exponential"))
    check = _checks.positive if decay == "exponential" else _checks.non_negative
    hint = "an exponential cannot reach 0; end at 1e-3 of the peak" if decay == "exponential" else ""
    check("peak_value", peak_value, hint)
    _checks.steps("warmup_steps", warmup_steps, at_least=0)
    _checks.steps("stable_steps", stable_steps, at_least=0)
    _checks.steps("decay_steps", decay_steps)
    check("end_value", end_value, hint)

    def rate_at(count: jax.Array) -> jax.Array:
        peak, end, begin = jnp.float32(peak_value), jnp.float32(end_value), sum_of_steps(warmup_steps, stable_steps)
        climbed, _ = time_fractions(count, warmup_steps)
        passed, left = time_fractions(jnp.maximum(count - begin, 0), decay_steps)
        if decay == "linear":
            falling = peak * left + end * passed
        elif decay == "cosine":
            falling = half_cosine(peak, end, passed, left)
        elif decay == "sqrt":
            root = jnp.sqrt(passed)
            falling = peak * (left / (1.0 + root)) + end * root  # 1 - sqrt(u), written so that nothing cancels
        else:
            # The floor avoids log(0) if a traced bound is 0.
            tiny = jnp.finfo(jnp.float32).tiny
            falling = peak * jnp.exp(jnp.log(jnp.maximum(end, tiny) / jnp.maximum(peak, tiny)) * passed)
            falling = jnp.where(left > 0, falling, end)
        return jnp.where(count < as_steps(warmup_steps), peak * climbed, jnp.where(count < begin, peak, falling))

    return Schedule.of_counts(
        rate_at,
        peak=largest(peak_value, end_value),
    )
