"""Mechanic: tune the rate of another optimizer while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx._leaves import (
    abs_square,
    clip_to_float32,
    copies,
    finite_or,
    inner,
    leafwise,
    require_params,
    square_root,
    total,
    upcast,
    zeros_like,
)
from lrx._numbers import ArrayLike
from lrx._positions import upcast_gradients
from lrx.states import FactorState, shows
from lrx.transformations import factory

BETAS = tuple(1 - 0.1**i for i in range(1, 7))


@shows()
class MechanicMemory(NamedTuple):
    """The statistics of `mechanic`'s tuners, one for each beta."""

    scales: jax.Array  # (n,) float32: s, whose sum multiplies the base updates
    rewards: jax.Array  # (n,) float32: r
    largest: jax.Array  # (n,) float32: m, the decaying maximum of |h|
    squares: jax.Array  # (n,) float32: v, the decaying sum of h^2


@shows()
class MechanicState(NamedTuple):
    """State of `mechanic`."""

    initial_params: Any  # x_0
    displacement: Any  # like the parameters, at least float32: Delta, minus the sum of the base updates
    tuner: FactorState  # whose factor is the sum of the scales
    inner: Any  # of the base optimizer


@factory
def mechanic(
    tx: optax.GradientTransformation,
    *,
    betas: Sequence[float] = BETAS,
    s_init: ArrayLike = 1e-6,
    weight_decay: ArrayLike = 1e-2,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    """Scale the displacement of a base optimizer by a factor that is learned online.

    The base optimizer's updates u add up to a displacement, `Delta <- Delta - u`, and the parameters are
    `x = x_0 - S Delta` with `S = sum_i s_i`. For each beta, with `g' = g + weight_decay S |g| / (|x| + eps) x` and
    `h = <g', Delta>` before this update's u,

        r <- beta r + clip(h, -m, m) s,   m <- max(beta m, |h| + eps),   v <- beta^2 v + h^2
        s <- (s_init / n m + max(r, 0)) / (sqrt(v) + eps)

    Only the shape of the base rate matters: `mechanic(lrx.adam(lrx.cosine_decay(1.0, 10_000)))`.
    `learning_rate(state)` shows S times the base rate. Nothing may scale the updates afterwards.

    Args:
      tx: the base optimizer.
      betas: decays of the tuners, each in [0, 1).
      s_init: the first scale, > 0, dimensionless. Keep it small: the scale can grow fast, but one that is too large
        does harm; may be traced.
      weight_decay: lambda, >= 0, dimensionless; may be traced.
      eps: added to denominators, > 0; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and what `tx` needs.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`.
      TypeError: if `tx` is not a gradient transformation.

    Differs from the source:
      Delta is kept and not recovered from `(x_0 - x) / S`, which loses half the digits while S is small.

    Source:
      A. Cutkosky, A. Defazio, H. Mehta, NeurIPS 2023, arXiv:2306.00144, algorithm 1, with the clipping of the authors'
      code.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.mechanic(lrx.sgd(1.0))
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(100):
      ...     updates, state = tx.update(theta, state, theta)
      ...     theta = theta + updates
      >>> print(bool(jnp.all(jnp.abs(theta) < 0.2)))
      True
    """
    _checks.transformation(tx)
    decays = _checks.non_negative_list("betas", betas)
    if decays is None or (decays >= 1).any():
        raise ValueError(f"betas must be numbers in [0, 1), got betas={betas}: at 1 nothing is ever forgotten.")
    _checks.positive("s_init", s_init, "a scale of 0 can never grow")
    _checks.non_negative("weight_decay", weight_decay)
    _checks.positive("eps", eps)
    beta = decays.astype(np.float32)
    base = optax.with_extra_args_support(tx)

    def init(params: Any) -> MechanicState:
        zeros = [jnp.zeros(beta.shape, jnp.float32) for _ in range(4)]
        count = jnp.zeros([], jnp.int32)
        tuner = FactorState(count, jnp.array(count), jnp.zeros([], jnp.float32), (MechanicMemory(*zeros),))
        return MechanicState(copies(params), zeros_like(params, upcast=True), tuner, base.init(params))

    def update(updates: Any, state: MechanicState, params: Any = None, **extra_args: Any) -> tuple[Any, MechanicState]:
        require_params("mechanic", params, updates, "from whose start it goes")
        # In full width, because rounding errors of the base optimizer would add up in the displacement.
        base_updates, base_state = base.update(upcast_gradients(updates), state.inner, params, **extra_args)
        (memory,), scale = state.tuner.memories, state.tuner.latest
        gradient_norm = square_root(total(abs_square, updates, extra_args=extra_args))
        norm = square_root(total(lambda _, x: abs_square(x), updates, params, extra_args=extra_args))
        pull = jnp.asarray(weight_decay, jnp.float32) * scale * gradient_norm / (norm + eps)
        h = total(
            lambda g, delta, x: inner(g + pull * x, delta), updates, state.displacement, params, extra_args=extra_args
        )

        clipped = jnp.clip(h, -memory.largest, memory.largest)
        rewards = beta * memory.rewards + clipped * memory.scales
        largest = jnp.maximum(beta * memory.largest, jnp.abs(h) + eps)
        squares = np.square(beta) * memory.squares + jnp.square(h)
        wealth = jnp.asarray(s_init, jnp.float32) / beta.size * largest + jnp.maximum(rewards, 0)
        tuned = MechanicMemory(wealth / (square_root(squares) + eps), rewards, largest, squares)
        tuned = jax.tree.map(finite_or, tuned, memory)
        following = jnp.sum(tuned.scales)

        def step(g: jax.Array, delta: jax.Array, *, u: jax.Array, x: Any, x0: Any) -> tuple[jax.Array, jax.Array]:
            # An overflow becomes the largest number; an infinite gradient stays visible.
            delta = jnp.where(jnp.isfinite(g), clip_to_float32(delta - u), delta - u)
            target = upcast(x0) - following * delta
            return jnp.where(jnp.isfinite(delta), clip_to_float32(target), target) - upcast(x), delta

        trees = {"u": base_updates, "x": params, "x0": state.initial_params}
        moved, displacement = leafwise(step, updates, state.displacement, trees=trees)
        count = optax.safe_increment(state.tuner.count)
        tuner = FactorState(count, jnp.array(count), jnp.array(following), (tuned,))
        return moved, MechanicState(copies(state.initial_params), displacement, tuner, base_state)

    return optax.GradientTransformationExtraArgs(init, update)
