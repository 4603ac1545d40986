"""Rates for other batch sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._numbers import ArrayLike


def scale_for_batch_size(
    learning_rate: ArrayLike, batch_size: ArrayLike, *, base_batch_size: ArrayLike = 256, rule: str = "linear"
) -> float | jax.Array:
    """Carry a rate that was tuned at one batch size over to another.

    With k = batch_size / base_batch_size it is `alpha k` for "linear" (SGD: k times the examples, k times the step) and
    `alpha sqrt(k)` for "sqrt" (Adam and other methods that normalise the gradient). Large k needs a warm-up, and no
    rule holds for any k. The result is a number and not a schedule:
    `one_cycle(scale_for_batch_size(0.1, 1024), total_steps)`.

    Args:
      learning_rate: alpha, the rate at `base_batch_size`, >= 0; may be traced.
      batch_size: examples in a batch, over all devices and accumulated ones, >= 1; may be traced.
      base_batch_size: the batch size for which `learning_rate` was tuned, >= 1; may be traced.
      rule: "linear" or "sqrt".

    Returns:
      A float, or () float32 if an argument is traced.

    Raises:
      ValueError: if `learning_rate` is negative or not finite, a batch size is not a whole number >= 1, or `rule` is
        unknown.
      TypeError: if `learning_rate` is a schedule: multiply it, `schedule * scale_for_batch_size(1.0, 1024)`.

    Source:
      P. Goyal et al., 2017, arXiv:1706.02677, section 2.1 (linear, base 256); A. Krizhevsky, 2014, arXiv:1404.5997,
      section 5 (square root).

    Example:
      >>> import lrx
      >>> lrx.scale_for_batch_size(0.1, 1024)
      0.4
      >>> lrx.scale_for_batch_size(1e-3, 1024, rule="sqrt")
      0.002
    """
    if callable(learning_rate):
        raise TypeError(
            f"learning_rate must be a number, got {learning_rate!r}: multiply the schedule, schedule * "
            "scale_for_batch_size(1.0, batch_size)."
        )
    _checks.non_negative("learning_rate", learning_rate)
    _checks.steps("batch_size", batch_size, unit="examples")
    _checks.steps("base_batch_size", base_batch_size, unit="examples")
    _checks.one_of("rule", rule, ("linear", "sqrt"))
    if all(_checks.is_concrete(value) for value in (learning_rate, batch_size, base_batch_size)):
        known = float(batch_size) / float(base_batch_size)
        return float(learning_rate) * (known if rule == "linear" else known**0.5)
    ratio = jnp.asarray(batch_size, jnp.float32) / jnp.asarray(base_batch_size, jnp.float32)
    return jnp.asarray(learning_rate, jnp.float32) * (ratio if rule == "linear" else jnp.sqrt(ratio))
