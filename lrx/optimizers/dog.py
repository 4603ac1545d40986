"""DoG: the rate is the largest distance from the start over the root of the summed squared gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaf_factors import moving_masks
from lrx._leaves import (
    abs_square,
    copies,
    evaluate_or_shape,
    finite_or,
    has_no_gradient,
    inexact_leaves,
    leafwise,
    require_known_types,
    require_params,
    square_root,
    total,
    zeros_like,
)
from lrx._numbers import ArrayLike
from lrx._positions import add_steps, are_kept, combine, exact_positions, move_mean, upcast_gradients, updates_to
from lrx.arguments import as_rate
from lrx.rates import Rate
from lrx.states import RateState, array, shows
from lrx.transformations import factory


@shows("exponent")
class DogState(NamedTuple):
    """State of `dog`."""

    largest_distance: Any  # r, in the parameters' units: () float32; if layerwise, one for each leaf
    sum_squares: Any  # G, in the gradients' units squared: () float32; if layerwise, one for each leaf
    exponent: jax.Array  # () float32: gamma of the average
    initial_params: Any  # x_0
    average: Any  # like the parameters, at least float32: mean of x_1 to x_{t-1}; () without averaging
    position: Any  # x in float32 if a parameter is narrower, else ()
    rate: RateState

    def evaluation_params(self, params: Any) -> Any:
        """Return the average, including the newest iterate."""
        if isinstance(self.average, tuple) and not self.average:
            return params
        count, exponent = array(self.rate.count), array(self.exponent)
        weight = jnp.where(count > 0, _weight(count, exponent), 1.0)
        return combine(lambda x, mean: (1 - weight) * mean + weight * x, params, self.average)


def _weight(count: jax.Array, exponent: jax.Array) -> jax.Array:
    """Return the weight of x_t in the average of x_1 to x_t, 1 for t = 1."""
    return (1 + exponent) / (jnp.maximum(count, 1).astype(jnp.float32) + exponent)


@factory
def dog(
    learning_rate: ArrayLike | Rate = 1.0,
    *,
    reps_rel: ArrayLike = 1e-6,
    eps: ArrayLike = 1e-8,
    layerwise: bool = False,
    averaging: float | None = 8.0,
) -> optax.GradientTransformationExtraArgs:
    """Descend at the rate of distance over gradients.

    With `r_t = max(r_{t-1}, |x_t - x_0|)`, `r_0 = reps_rel (1 + |x_0|)` and `G_t = G_{t-1} + |g_t|^2` the update is
    `-gamma_t r_t / sqrt(G_t + eps) g_t`. Leave `learning_rate` at 1. The method is meant for averaged iterates:
    `eval_params(state, params)` returns the polynomial average `x~_t = (1 - w_t) x~_{t-1} + w_t x_t`,
    `w_t = (1 + averaging) / (t + averaging)`. `learning_rate(state)` shows the whole rate, or with `layerwise` the
    mean over the leaves. With batch normalization the authors set `reps_rel=1e-4`.

    Args:
      learning_rate: gamma, >= 0, a multiple of the rule's rate: a float, a `Schedule` or another `Rate`; may be traced.
      reps_rel: size of the first step relative to 1 + |x_0|, > 0, dimensionless; may be traced.
      eps: added to G, > 0, in the gradients' units squared; may be traced.
      layerwise: take the norms of each leaf (L-DoG) in place of one norm over all.
      averaging: exponent of the average, >= 0: 0 weighs all iterates alike; None keeps no average.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and `value=` only if the rate
      does.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `layerwise` is not a bool.

    Differs from the source:
      For parameters narrower than float32, x is kept in float32, because first steps of 1e-6 would be rounded away and
      the distance could never grow. `optax.tree.map_params` does not recognize this tree as parameters, and passes it
      to `transform_non_params` as a whole.

    Source:
      M. Ivgi, O. Hinder, Y. Carmon, ICML 2023, arXiv:2302.12022, equations 1 and 2; the average in appendix E.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.dog(reps_rel=1e-2)
      >>> theta, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(50):
      ...     updates, state = tx.update(theta, state, theta)
      ...     theta = theta + updates
      >>> print(bool(jnp.all(jnp.abs(lrx.eval_params(state, theta)) < 0.1)))
      True
    """
    rate = as_rate(learning_rate)
    _checks.positive("reps_rel", reps_rel, "a first step of 0 goes nowhere")
    _checks.positive("eps", eps)
    _checks.flag("layerwise", layerwise)
    if averaging is not None:
        _checks.non_negative("averaging", averaging)

    def first_distance(tree: Any, extra_args: dict[str, Any] | None = None) -> jax.Array:
        norm = square_root(total(abs_square, inexact_leaves(tree), extra_args=extra_args))
        return jnp.asarray(reps_rel, jnp.float32) * (1 + norm)

    def init(params: Any) -> DogState:
        require_known_types(params)
        if layerwise:
            distance = jax.tree.map(lambda leaf: evaluate_or_shape(first_distance, leaf), params)
            squares = jax.tree.map(lambda _: jnp.zeros([], jnp.float32), params)
        else:
            distance, squares = evaluate_or_shape(first_distance, params), jnp.zeros([], jnp.float32)
        average = () if averaging is None else zeros_like(params, upcast=True)
        exponent = jnp.array(0.0 if averaging is None else averaging, jnp.float32)
        return DogState(
            distance, squares, exponent, copies(params), average, exact_positions(params), rate.init_rate(params)
        )

    def update(updates: Any, state: DogState, params: Any = None, **extra_args: Any) -> tuple[Any, DogState]:
        require_params("dog", params, updates, "whose way from the start it measures")
        gamma, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)

        def rule(g: Any, x: Any, x0: Any, distance: jax.Array, squares: jax.Array, seen: Any = None) -> tuple[Any, ...]:
            away = square_root(total(lambda _, now, then: abs_square(now - then), g, x, x0, extra_args=seen))
            distance = finite_or(jnp.maximum(distance, away), distance)
            squares = finite_or(squares + total(abs_square, g, extra_args=seen), squares)
            return distance / jnp.sqrt(squares + eps), distance, squares

        exact = are_kept(state.position)
        gradients, position = (upcast_gradients(updates), state.position) if exact else (updates, params)
        if layerwise:
            leaves, structure = jax.tree.flatten(gradients, is_leaf=lambda leaf: leaf is None)
            trees = (position, state.initial_params, state.largest_distance, state.sum_squares)
            columns = [structure.flatten_up_to(tree) for tree in trees]  # type: ignore[attr-defined]
            rows = [
                (jnp.zeros([], jnp.float32), *row[2:]) if has_no_gradient(g) else rule(g, *row)
                for g, *row in zip(leaves, *columns, strict=True)
            ]
            etas, distance, squares = (
                (jax.tree.unflatten(structure, column) for column in zip(*rows, strict=True))
                if rows
                else (updates,) * 3
            )
            flags = moving_masks(gradients, extra_args)
            moves = [jnp.any(flag) for g, flag in zip(leaves, flags, strict=True) if not has_no_gradient(g)]
            known = [row[0] for g, row in zip(leaves, rows, strict=True) if not has_no_gradient(g)]
            seen = jnp.maximum(sum(flag.astype(jnp.float32) for flag in moves), 1)
            shown = gamma * sum(jnp.where(*pair, 0.0) for pair in zip(moves, known, strict=True)) / seen
        else:
            largest = state.largest_distance
            if "leaf_factors" in extra_args:  # frozen groups, which `init` does not see
                first = first_distance(state.initial_params, extra_args)
                largest = jnp.where(state.rate.count == 0, first, largest)
            eta, distance, squares = rule(
                gradients, position, state.initial_params, largest, state.sum_squares, extra_args
            )
            etas, shown = jax.tree.map(lambda _: eta, updates, is_leaf=lambda leaf: leaf is None), gamma * eta

        def step(g: jax.Array, *, alpha: jax.Array, eta: jax.Array) -> tuple[jax.Array]:
            return (-alpha * eta * g,)

        (scaled,) = leafwise(step, gradients, rate=gamma, extra_args=extra_args, trees={"eta": etas})
        average = state.average
        if averaging is not None:
            weight = jnp.where(state.rate.count > 0, _weight(state.rate.count, state.exponent), 0.0)
            average = jax.tree.map(lambda mean, x: move_mean(mean, x, weight), average, position)
        if exact:
            position = add_steps(state.position, scaled, updates)
            scaled = updates_to(position, params, updates)
        return scaled, DogState(
            distance,
            squares,
            jnp.array(state.exponent),
            copies(state.initial_params),
            average,
            position if exact else state.position,
            rate_state.show(shown),
        )

    return optax.GradientTransformationExtraArgs(init, update)
