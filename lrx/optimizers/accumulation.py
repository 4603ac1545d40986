"""Gradient accumulation: several small batches make one update, and time is counted in applied updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, clip_to_float32, leafwise, total, with_float0, without_float0, zeros_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_schedule
from lrx.feedback import check_loss
from lrx.rates import Controller, Rate, Schedule
from lrx.states import array, shows
from lrx.transformations import factory

SMOOTHING = 0.95  # of the running means over rounds that the noise scale is the ratio of


@shows()
class RoundNoise(NamedTuple):
    """How much the gradients of a round differ from each other."""

    parts: jax.Array  # () int32: gradients of this round whose weight is not 0
    squares: jax.Array  # () float32: the weighted sum of their squared norms
    noise: jax.Array  # () float32: running mean over rounds of tr(S), for a gradient of weight 1
    signal: jax.Array  # () float32: likewise of |G|^2

    def scale(self) -> jax.Array:
        """Return the noise scale, () float32, infinite unless |G|^2 is above 0."""
        signal = array(self.signal)
        known = signal > 0
        return jnp.where(known, array(self.noise) / jnp.where(known, signal, 1.0), jnp.inf)


@shows()
class AccumulationState(NamedTuple):
    """State of `accumulate`."""

    gathered: jax.Array  # () int32: gradients since the latest applied update
    gradients: Any  # like the parameters, at least float32: their weighted sum
    value: jax.Array  # () float32: the weighted sum of their losses
    weight: jax.Array  # () float32: the sum of their weights
    every: jax.Array  # () int32: k, gradients in this round
    applied: jax.Array  # () int32: completed rounds; saturates at 2^31 - 1
    noise: RoundNoise | tuple[()]  # () if the noise scale is not asked for
    inner: Any

    def within(self) -> tuple[Any, ...]:
        """Return the state of the applied transformation."""
        return (self.inner,)

    def shown(self) -> dict[str, jax.Array]:
        """Show how far the round is, and the noise scale if it is asked for."""
        noise = {"accumulation/noise_scale": self.noise.scale()} if isinstance(self.noise, RoundNoise) else {}
        return {"accumulation/gathered": self.gathered, "accumulation/every": self.every, **noise}

    def gathering(self) -> tuple[jax.Array, jax.Array]:
        """Return how many gradients are gathered, and how many make a round."""
        return self.gathered, self.every


@factory
def accumulate(
    tx: optax.GradientTransformation,
    every: ArrayLike | Schedule | Callable[[jax.Array], ArrayLike],
    *,
    noise_scale: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Apply one update for the mean of several gradients.

    With k = `every`, calls 1 to k - 1 of each round return updates of zero and only add up. The k-th passes
    `g = (g_1 + ... + g_k) / k` and the mean of the `value=`s to `tx`. Everything inside counts applied updates: Adam's
    bias correction, schedules (so that `warmup(..., 500)` takes 500 updates whatever k is), and controllers, which see
    one mean loss for each update. The result is that of a batch k times as large, up to the order of summation.
    In between, `learning_rate` shows the rate of the latest applied update.

    If minibatches differ in size, for example in their number of tokens, pass the size with each: with `weight=w_i` the
    mean is `g = (w_1 g_1 + ... + w_k g_k) / (w_1 + ... + w_k)`, and likewise for the losses. Then g is the gradient of
    the mean over all tokens of the round, if each g_i is the gradient of the mean over its own tokens.

    `update(..., complete=True)` ends a round early and applies the mean of the gradients so far. Use it in the last
    step of a run whose length is not a multiple of k. A state from the middle of a round may continue with another k:
    the mean is over all gradients gathered.

    With `noise_scale=True` the state also estimates how noisy the gradients are, at the cost of two norms and four
    numbers: `monitor` shows the gradient noise scale B = tr(S) / |G|^2 as `accumulation/noise_scale`. With g the mean
    of the k gradients of a round, S their covariance and G their expectation, the terms

        tr(S) ~ sum_i |g_i - g|^2 / (k - 1)     |G|^2 ~ |g|^2 - tr(S) / k

    are unbiased; B is the ratio of their running means over about 20 rounds, infinite while the second is not above 0.
    It counts in minibatches: times their size, it is the number of examples beyond which a larger batch brings little.
    With `weight=` it counts in weights, such as tokens. `lrx.noise_scale` measures it once, with an interval.

    Put `group_rates` with a frozen group around this, `group_rates(accumulate(tx, 4), ...)`: inside of it, sums are
    kept for the frozen parameters too.

    Args:
      tx: the transformation to apply; with an lrx optimizer the rate and feedback are read through.
      every: k, gradients in a round, >= 1; may be traced. A `Schedule`, or a function of the number of applied updates,
        makes the batch grow: `lrx.piecewise_constant(1, {100: 2, 300: 2})` for 1, 2 and 4. Its value is rounded, and is
        at least 1.
      noise_scale: whether to estimate the gradient noise scale; rounds of one gradient add nothing to it.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs what `tx` needs; `params` and other
      extra arguments are those of the last call of a round. It takes `weight=`, >= 0, () float, 1 by default, and
      `complete=`, () bool; both may be traced. A round in which all weights are 0 continues until one is not.

    Raises:
      ValueError: if `every` is not a whole number >= 1; in `update`, if `value` is not a scalar, or `weight` is
        negative or not a scalar.
      TypeError: if `tx` is not a gradient transformation, `every` follows feedback, `noise_scale` is not a bool, or
        `value` is not a number.

    Source:
      P. Goyal et al., 2017, arXiv:1706.02677, remark 3: the mean is over all examples of the large batch. S. McCandlish
      et al., 2018, arXiv:1812.06162, appendix A.1, for the noise scale.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.accumulate(lrx.sgd(lrx.linear_decay(1.0, 4)), every=2)
      >>> state = tx.init(jnp.zeros(1))
      >>> for gradient in (1.0, 3.0, 1.0, 3.0):
      ...     updates, state = tx.update(jnp.full(1, gradient), state)
      ...     print(updates, lrx.learning_rate(state))
      [0.] 1.0
      [-2.] 1.0
      [0.] 1.0
      [-1.5] 0.75
    """
    _checks.transformation(tx)
    varies = callable(every) or isinstance(every, Rate | Controller)
    length_of = as_schedule(every, name="every").function if varies else None
    if length_of is None:
        _checks.steps("every", every, unit="gradients")
    _checks.flag("noise_scale", noise_scale)
    inner = optax.with_extra_args_support(tx)

    def length_at(applied: jax.Array) -> jax.Array:
        length = jnp.asarray(every) if length_of is None else jnp.round(length_of(applied))
        return jnp.maximum(length.astype(jnp.int32), 1)

    def init(params: Any) -> AccumulationState:
        nothing = [jnp.zeros([], jnp.int32) for _ in range(2)]
        value, weight = (jnp.zeros([], jnp.float32) for _ in range(2))
        first = jnp.array(length_at(nothing[1]))
        sums, noise = zeros_like(params, upcast=True), _no_noise() if noise_scale else ()
        return AccumulationState(nothing[0], sums, value, weight, first, nothing[1], noise, inner.init(params))

    def update(
        updates: Any,
        state: AccumulationState,
        params: Any = None,
        *,
        value: Any = None,
        weight: Any = None,
        complete: Any = False,
        **extra_args: Any,
    ) -> tuple[Any, AccumulationState]:
        share = jnp.ones([], jnp.float32)
        if weight is not None:
            _checks.non_negative("weight", weight, "it is the number of examples or tokens in the minibatch")
            share = jnp.asarray(weight, jnp.float32)
        gathered = state.gathered + 1
        weights = state.weight + share
        full = ((gathered >= length_at(state.applied)) | jnp.asarray(complete, bool)) & (weights > 0)
        divisor = jnp.where(weights > 0, weights, 1.0)
        feedback = dict(extra_args)
        if weight is not None:
            feedback["weight"] = weights
        if complete is not False:
            feedback["complete"] = complete  # for rounds of rounds
        value_sum = state.value
        if value is not None:
            check_loss(value)
            # A minibatch of weight 0 adds nothing, not even a NaN.
            value_sum = value_sum + jnp.where(share > 0, share * jnp.asarray(value, jnp.float32), 0.0)
            feedback["value"] = value_sum / divisor

        def add(gradient: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
            if weight is not None:
                gradient = jnp.where(share > 0, share.astype(gradient.real.dtype) * gradient, 0.0)
            # An overflow becomes the largest number; an infinite gradient stays visible.
            added = before + gradient
            sums = jnp.where(jnp.isfinite(before) & jnp.isfinite(gradient), clip_to_float32(added), added)
            return sums / divisor.astype(sums.real.dtype), jnp.where(full, 0.0, sums)

        noise: Any = ()
        if isinstance(state.noise, RoundNoise):
            noise = _add_noise(state.noise, without_float0(updates), state.gradients, share, weights, full, extra_args)
        means, gradients = leafwise(add, without_float0(updates), state.gradients)
        still = jax.tree.map(jnp.zeros_like, means)  # outside of the branch, in which a sharding would be lost

        def apply(state: Any) -> tuple[Any, Any]:
            applied, state = inner.update(means, state, params, **feedback)
            return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), applied, means), state

        moved, inner_state = jax.lax.cond(full, apply, lambda state: (still, state), state.inner)
        applied = jnp.where(full, optax.safe_increment(state.applied), state.applied)
        return with_float0(moved, updates), AccumulationState(
            jnp.where(full, 0, gathered),
            gradients,
            jnp.where(full, 0.0, value_sum),
            jnp.where(full, 0.0, weights),
            length_at(applied),
            applied,
            noise,
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _no_noise() -> RoundNoise:
    return RoundNoise(jnp.zeros([], jnp.int32), *(jnp.zeros([], jnp.float32) for _ in range(3)))


def _add_noise(
    noise: RoundNoise, updates: Any, sums: Any, share: jax.Array, weights: jax.Array, full: jax.Array, extra_args: Any
) -> RoundNoise:
    """Add a gradient of weight `share`, and, if it makes its round full, what the round says of the noise."""
    counts = share > 0
    divisor = jnp.where(weights > 0, weights, 1.0)

    def square_of_mean(gradient: jax.Array, before: jax.Array) -> jax.Array:
        return abs_square((before + jnp.where(counts, share * gradient, 0.0)) / divisor)

    parts = noise.parts + counts.astype(jnp.int32)
    square = total(abs_square, updates, extra_args=extra_args)
    squares = noise.squares + jnp.where(counts, share * square, 0.0)
    mean_square = total(square_of_mean, updates, sums, extra_args=extra_args)
    trace = jnp.maximum(squares - weights * mean_square, 0.0) / jnp.maximum(parts - 1, 1).astype(jnp.float32)
    known = full & (parts > 1) & jnp.isfinite(trace)

    def blend(before: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(known, SMOOTHING * before + (1 - SMOOTHING) * new, before)

    return RoundNoise(
        jnp.where(full, 0, parts),
        jnp.where(full, 0.0, squares),
        blend(noise.noise, trace),
        blend(noise.signal, mean_square - trace / divisor),
    )
