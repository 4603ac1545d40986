"""A running mean of a loss that is right from the first value on."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lrx._numbers import ArrayLike
from lrx.states import shows


@shows("weighted_sum", "weight")
class RunningMean(NamedTuple):
    """An exponential moving average and the sum of its weights so far."""

    weighted_sum: jax.Array  # () float32, in the units of the values
    weight: jax.Array  # () float32: 0 before the first value, and towards 1


def empty_mean() -> RunningMean:
    """Return the mean of no values."""
    return RunningMean(jnp.zeros([], jnp.float32), jnp.zeros([], jnp.float32))


def add(mean: RunningMean, value: jax.Array, smoothing: ArrayLike) -> tuple[jax.Array, RunningMean]:
    """Add a value: return `m_t = sum_i s^(t-i) x_i / sum_i s^(t-i)` with s = `smoothing`, and the next state."""
    keep = jnp.asarray(smoothing, jnp.float32)
    weighted_sum = keep * mean.weighted_sum + (1 - keep) * value
    weight = keep * mean.weight + (1 - keep)
    return weighted_sum / weight, RunningMean(weighted_sum, weight)
