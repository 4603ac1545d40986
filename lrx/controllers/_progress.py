"""Decide whether losses improve, by comparing means of as many losses as their noise requires.

A single minibatch's loss says little about a run: the lowest of many is a matter of luck, and later losses do not beat
it. So losses are compared as means of so many that their noise is smaller than the required improvement. The noise is
measured in reversals. With d_t the relative change from one loss to the next, `E max(-d_t d_{t-1}, 0)` is
`1.219 sigma^2` for white noise of variance sigma^2, and 0 for losses that only fall, or stay. Without noise each loss
is compared by itself. A loss that turns at each of 24 values in a row oscillates, as losses do at a rate that is too
large; noise does so with a probability of 2e-5. A method that takes back small steps may then discard the measured
noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._numbers import ArrayLike
from lrx._smoothing import RunningMean, add, empty_mean
from lrx.states import shows

REVERSALS = 1.219  # E max(-(e_2 - e_1)(e_1 - e_0), 0) for independent standard normal e
MEMORY = 0.98  # decay of the noise's estimate: about fifty losses
MOST_LOSSES = 100  # in a mean; at most half of the losses so far, ...
SHARE = 50  # ... and later a fiftieth of them, because losses fall ever more slowly
LUCK = 9.0  # variances: three standard deviations
SWINGS = 24  # turns in a row that noise does not make
ROUNDING = 1e-5  # of the best loss: the precision of a float32 mean over a batch


@shows()
class Progress(NamedTuple):
    """The statistics of the losses so far, and the thresholds of the next judgement."""

    best_value: jax.Array  # () float32: best mean so far, in the loss's units; infinite before the first
    bar: jax.Array  # () float32: the next mean must be below it, or above it if larger is better
    sign: jax.Array  # () float32: 1 if a smaller value is better, -1 if a larger one is
    best_size: jax.Array  # () int32: number of losses in the best mean, 0 before the first
    sum_value: jax.Array  # () float32: sum of the losses of the current mean
    value_count: jax.Array  # () int32: number of losses in it
    needed_count: jax.Array  # () int32: number of losses that complete it
    loss_count: jax.Array  # () int32: losses so far
    interval: jax.Array  # () int32: updates between the two latest losses
    previous_value: jax.Array  # () float32: the latest loss
    previous_change: jax.Array  # () float32: relative change from the loss before
    turn_count: jax.Array  # () int32: successive losses at which the loss turned
    noise: RunningMean  # of the product of two changes at turns, 1.219 relative variances

    def within(self) -> tuple[Any, ...]:
        """Return nothing: the method shows the progress itself."""
        return ()


class Judgement(NamedTuple):
    """The result of one more loss."""

    complete: jax.Array  # () bool: whether it completes a mean; otherwise nothing is judged
    better: jax.Array  # () bool: whether that mean beats the bar
    renewed: jax.Array  # () bool: whether it replaces a best that is the mean of fewer than half as many losses


def check_accumulation_size(value: ArrayLike | None) -> None:
    """Require a number of losses, or `None`."""
    if value is not None:
        _checks.steps("accumulation_size", value, unit="losses")


def no_progress(sign: float) -> Progress:
    """Return the statistics before the first loss."""

    def zero(dtype: Any = jnp.float32) -> jax.Array:
        return jnp.zeros([], dtype)

    infinity = sign * jnp.inf
    return Progress(
        best_value=jnp.array(infinity, jnp.float32),
        bar=jnp.array(infinity, jnp.float32),
        sign=jnp.array(sign, jnp.float32),
        best_size=zero(jnp.int32),
        sum_value=zero(),
        value_count=zero(jnp.int32),
        needed_count=jnp.ones([], jnp.int32),
        loss_count=zero(jnp.int32),
        interval=jnp.ones([], jnp.int32),
        previous_value=zero(),
        previous_change=zero(),
        turn_count=zero(jnp.int32),
        noise=empty_mean(),
    )


def judge(progress: Progress, value: jax.Array, *, forget_swings: bool = False) -> tuple[Progress, Judgement]:
    """Return the statistics and the judgement after one more loss, from `progress` alone."""
    total = progress.sum_value + value
    number = optax.safe_increment(progress.value_count)
    complete = number >= progress.needed_count
    mean = total / number.astype(jnp.float32)
    better = complete & (progress.sign * mean < progress.sign * progress.bar)
    # The best mean of few losses may by chance be below every mean of many: it is replaced if it is within its noise.
    best_size = jnp.maximum(progress.best_size, 1)
    behind = _relative_change(progress.best_value, mean)
    by_luck = jnp.square(behind) * best_size.astype(jnp.float32) <= LUCK * variance(progress.noise)
    renewed = complete & ~better & (number // 2 >= best_size) & by_luck

    change = jnp.where(progress.loss_count > 0, _relative_change(progress.previous_value, value), 0.0)
    turn = jnp.maximum(-change * progress.previous_change, 0.0)
    _, noise = add(progress.noise, turn, MEMORY)
    turn_count = jnp.where(turn > 0, optax.safe_increment(progress.turn_count), 0)
    begun, swings = progress.loss_count > 1, forget_swings & (turn_count >= SWINGS)
    noise = jax.tree.map(lambda new, old: jnp.where(begun, new, old), noise, progress.noise)
    after = progress._replace(
        best_value=jnp.where(better | renewed, mean, progress.best_value),
        best_size=jnp.where(better | renewed, number, progress.best_size),
        sum_value=jnp.where(complete, 0.0, total),
        value_count=jnp.where(complete, 0, number),
        loss_count=optax.safe_increment(progress.loss_count),
        previous_value=value,
        previous_change=change,
        turn_count=turn_count,
        noise=jax.tree.map(lambda seen: jnp.where(swings, 0.0, seen), noise),
    )
    return after, Judgement(complete, better, renewed)


def prepare(
    progress: Progress,
    *,
    margin: ArrayLike,
    accumulation_size: ArrayLike | None,
    interval: ArrayLike,
    most_losses: int = MOST_LOSSES,
) -> Progress:
    """Set the thresholds of the next judgement.

    Args:
      progress: after a judgement, or before the first.
      margin: least improvement on the best, () float32, in the loss's units.
      accumulation_size: losses in a mean; `None` chooses. Losses that come at every update are those of minibatches:
        as many are averaged as are needed to reduce the noise of the mean below the margin, at most half of the losses
        so far and 100, or a fiftieth of the losses so far. If the noise is still above the margin, it takes the place
        of the margin. A loss that comes after several updates is a mean by itself.
      interval: updates between the two latest losses, () int32.
      most_losses: replaces the 100.
    """
    margin = jnp.asarray(margin, jnp.float32)
    level = jnp.where(progress.best_size > 0, jnp.abs(progress.best_value), 0.0)
    if accumulation_size is None:
        noise = jnp.where(jnp.asarray(interval, jnp.int32) > 1, 0.0, variance(progress.noise))
        wanted = jnp.maximum(margin, ROUNDING * level)
        number = jnp.ceil(noise * jnp.square(level / jnp.where(wanted > 0, wanted, 1.0)))
        seen = progress.loss_count
        most = jnp.maximum(jnp.clip(seen // 2, 1, most_losses), seen // SHARE)
        needed = jnp.clip(number, 1, most.astype(jnp.float32)).astype(jnp.int32)
        # If the mean still has more noise than that, it must improve by its standard deviation.
        left = jnp.where(number > needed.astype(jnp.float32), noise / needed.astype(jnp.float32), 0.0)
        deviation = jnp.where(left > 0, jnp.sqrt(jnp.where(left > 0, left, 1.0)), 0.0)
        margin = jnp.maximum(margin, level * deviation)
    else:
        needed = jnp.array(accumulation_size, jnp.int32)
    return progress._replace(
        bar=progress.best_value - progress.sign * jnp.where(progress.best_size > 0, margin, 0.0),
        needed_count=needed,
        interval=jnp.array(interval, jnp.int32),
    )


def variance(turns: RunningMean) -> jax.Array:
    """Return the relative variance of a single loss, from the mean product of two changes at turns."""
    return turns.weighted_sum / jnp.maximum(turns.weight, 1e-30) / REVERSALS


def _relative_change(before: jax.Array, after: jax.Array) -> jax.Array:
    """Return the change relative to the larger value, in [-2, 2]; 0 if the first is infinite."""
    finite = jnp.isfinite(before)
    before = jnp.where(finite, before, after)
    size = jnp.maximum(jnp.abs(before), jnp.abs(after))
    size = jnp.where(size > 0, size, 1.0)
    return after / size - before / size
