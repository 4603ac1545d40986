"""Control the rate by the length of the path that successive steps add up to.

If steps point the same way, the path is longer than a random walk, and the steps could be larger. If they cancel, the
path is shorter, and they should be smaller. The idea comes from evolution strategies.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrx import _checks
from lrx._leaf_factors import moving_masks, where_moving
from lrx._leaves import abs_square, has_no_gradient, leafwise, quotient, square_root, total, zeros_like
from lrx._numbers import ArrayLike
from lrx.rates import Controller, Core, Feedback
from lrx.states import shows
from lrx.transformations import factory


@shows("scale", "path_length")
class CumulativePathState(NamedTuple):
    """State of `cumulative_path`."""

    scale: jax.Array  # () float32: multiplies the rate of the next update, dimensionless
    path_length: jax.Array  # () float32: |p|^2 over its mean for random steps, dimensionless
    path: Any  # like the parameters, at least float32: p, dimensionless


@factory
def cumulative_path(
    *,
    c: ArrayLike = 0.2,
    damping: ArrayLike | None = None,
    min_factor: ArrayLike = 1e-6,
    max_factor: ArrayLike = 1e6,
    start_after: ArrayLike = 0,
) -> Controller:
    """Raise the rate while steps point the same way, lower it while they cancel.

    With g^ the incoming direction over its norm (over all parameters together), `p_t = (1 - c) p_{t-1} + c g^_t`. For
    unit steps in random directions, |p|^2 has the mean `mu = c / (2 - c)` and, in n dimensions, the standard deviation
    `sigma = 2 mu (1 - c) / sqrt(((1 - c)^2 + 1) n)`. The rate follows `scale <- scale exp(d (|p_t|^2 / mu - 1))` with
    the damping `d = 2 sigma`. A step does not affect its own scale. No loss is needed.

    Args:
      c: share of the newest step in the path, in (0, 1), dimensionless; may be traced.
      damping: d, > 0, dimensionless; by default 2 sigma, which is slow in many dimensions; may be traced.
      min_factor: lower bound of the scale, in (0, 1], dimensionless; may be traced.
      max_factor: upper bound of the scale, >= 1, dimensionless; may be traced.
      start_after: updates before the first whose direction counts, >= 0: set it to the length of a warm-up. The small
        steps of a warm-up agree, and would raise the scale too far for the larger steps that follow. May be traced.

    Returns:
      A `Controller`. `update` needs neither `params` nor `value`. Within an optimizer it sees the finished direction.
      With momentum that is the velocity, whose successive values point the same way anyway. A direction that is 0 or
      not finite is ignored.

    Raises:
      ValueError: if an argument is out of its range.

    Differs from the source:
      The authors' sigma is smaller by a factor of sqrt(2); ours agrees with the measured standard deviation. The bounds
      are ours.

    Source:
      CLARA, 2025, arXiv:2508.05408; after the cumulative step-size adaptation of N. Hansen, A. Ostermeier, 2001.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.sgd(0.1 * lrx.cumulative_path())
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(20):
      ...     updates, state = tx.update(jnp.ones(2), state)
      >>> print(lrx.learning_rate(state) > 0.1)
      True
    """
    _checks.in_interval("c", c, "(0, 1)", "the newest step must count, and the path remember")
    if damping is not None:
        _checks.positive("damping", damping)
    _checks.factor_bounds(min_factor, max_factor)
    _checks.steps("start_after", start_after, at_least=0, unit="updates")

    def init(params: Any) -> tuple[jax.Array, CumulativePathState]:
        one, zero = jnp.ones([], jnp.float32), jnp.zeros([], jnp.float32)
        return jnp.ones([], jnp.float32), CumulativePathState(one, zero, zeros_like(params, upcast=True))

    def update(state: CumulativePathState, seen: Feedback) -> tuple[jax.Array, CumulativePathState]:
        size = _size(seen)
        # Everything is divided by the largest entry first, so that no square overflows or underflows.
        largest = _largest(seen)
        norm = square_root(total(lambda g: abs_square(_over(g, largest)), seen.updates, extra_args=seen.extra_args))
        usable = jnp.isfinite(norm) & (norm > 0) & (seen.count >= jnp.asarray(start_after, jnp.int32))
        share = jnp.asarray(c, jnp.float32)

        def step(gradient: jax.Array, path: jax.Array) -> tuple[jax.Array, jax.Array]:
            unit = _over(_over(gradient, largest), jnp.where(usable, norm, 1.0))
            moved = (1 - share).astype(path.dtype) * path + share.astype(path.dtype) * unit
            return gradient, jnp.where(usable, moved, path)

        _, path = leafwise(step, seen.updates, state.path)
        mu = share / (2 - share)
        length = total(lambda _, p: abs_square(p), seen.updates, path, extra_args=seen.extra_args) / mu
        if damping is None:
            sigma = 2 * mu * (1 - share) / jnp.sqrt(((1 - share) ** 2 + 1) * jnp.maximum(size, 1))
            d = 2 * sigma
        else:
            d = jnp.asarray(damping, jnp.float32)
        scale = state.scale * jnp.exp(jnp.clip(d * (length - 1), -math.log(1e6), math.log(1e6)))
        scale = jnp.clip(scale, jnp.asarray(min_factor, jnp.float32), jnp.asarray(max_factor, jnp.float32))
        scale = jnp.where(usable, scale, state.scale)
        return state.scale, CumulativePathState(scale, length, path)

    return Controller.from_cores((Core(init, update),))


def _gradients(seen: Feedback) -> list[tuple[Any, jax.Array]]:
    """Return the gradients, each with the mask of the coordinates whose group has a factor > 0."""
    leaves = jax.tree.leaves(seen.updates, is_leaf=lambda leaf: leaf is None)
    pairs = zip(moving_masks(seen.updates, seen.extra_args), leaves, strict=True)
    return [(moves, jnp.asarray(leaf)) for moves, leaf in pairs if not has_no_gradient(leaf)]


def _size(seen: Feedback) -> Any:
    """Return the number of coordinates, two for each complex one."""

    def count(moves: Any, leaf: jax.Array) -> Any:
        moved = leaf.size if moves is True else jnp.sum(jnp.broadcast_to(moves, leaf.shape), dtype=jnp.float32)
        return moved * (2 if jnp.iscomplexobj(leaf) else 1)

    return sum(count(moves, leaf) for moves, leaf in _gradients(seen))


def _over(gradient: jax.Array, length: jax.Array) -> jax.Array:
    return quotient(gradient, length.astype(gradient.real.dtype), 1.0)


def _largest(seen: Feedback) -> jax.Array:
    """Return the largest absolute value of all coordinates, () float32; 1 if all are 0."""
    leaves = [jnp.max(where_moving(moves, jnp.abs(leaf)), initial=0.0) for moves, leaf in _gradients(seen)]
    largest = jnp.max(jnp.stack([leaf.astype(jnp.float32) for leaf in leaves])) if leaves else jnp.zeros([])
    return jnp.where(largest > 0, largest, 1.0).astype(jnp.float32)
