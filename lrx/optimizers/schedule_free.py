"""Schedule-Free learning: an average of the iterates in place of a schedule that depends on the length of the run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, copies, leafwise, quotient, require_params, square_root, upcast, zero_squares_like
from lrx._numbers import ArrayLike
from lrx._positions import add_steps, are_kept, combine, exact_positions, upcast_gradients, updates_to
from lrx.arguments import as_rate
from lrx.optimizers.adam import one_minus_power
from lrx.rates import Rate
from lrx.states import RateState, array, shows
from lrx.transformations import factory


@shows("interpolation", "largest_rate", "weight_sum")
class ScheduleFreeState(NamedTuple):
    """State of `schedule_free_sgd` and `schedule_free_adamw`."""

    interpolation: jax.Array  # () float32: beta, dimensionless
    largest_rate: jax.Array  # () float32: the largest rate so far
    weight_sum: jax.Array  # () float32: sum of the weights of the average
    iterate: Any  # like the parameters, at least float32: z
    average: Any  # x in float32 if a parameter is narrower, else ()
    second_moment: Any  # like the parameters, real, at least float32: v; () without a preconditioner
    rate: RateState

    def evaluation_params(self, params: Any) -> Any:
        """Return x, computed from y and z if it is not kept."""
        if are_kept(self.average):
            return combine(lambda _, x: x, params, self.average)
        beta = array(self.interpolation)
        return combine(lambda y, z: (y - (1 - beta) * z) / beta, params, self.iterate)


@factory
def schedule_free_sgd(
    learning_rate: ArrayLike | Rate = 1.0,
    *,
    b1: ArrayLike = 0.9,
    weight_decay: ArrayLike = 0.0,
    r: ArrayLike = 0.0,
    weight_power: ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Average the iterates of gradient descent, and take gradients between the average and the newest one.

    With beta = `b1` and `g_t` the gradient at y_t,

        y_t = (1 - beta) z_t + beta x_t,   z_{t+1} = z_t - gamma_t g_t,   x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}
        c_{t+1} = w_t / sum_{i <= t} w_i,   w_t = (t + 1)^r (max_{i <= t} gamma_i)^weight_power

    The parameters that the caller holds are y; evaluate and keep `eval_params(state, params)`, which is x. Give a
    warm-up, `schedule_free_sgd(lrx.warmup(1.0, 500))`, and no decay, which the average replaces. If the model has
    batch statistics, `lrx.training.recompute_batch_stats` computes them at x.

    Nothing may scale the updates afterwards, because z would not follow. Multiply the rate instead, or use
    `group_rates`.

    Args:
      learning_rate: gamma, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      b1: beta, in (0, 1], dimensionless; may be traced.
      weight_decay: added to the gradient as weight_decay y, >= 0; may be traced.
      r: power of the step in the weights, >= 0; may be traced.
      weight_power: power of the largest rate in the weights, >= 0; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and `value=` only if the rate
      does.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Differs from the source:
      For parameters narrower than float32, x is kept in float32 too. Recovered from y it would drift away, because the
      rounded y does not move while z does. `optax.tree.map_params` does not recognize this tree as parameters, and
      passes it to `transform_non_params` as a whole. For other parameters only z is kept.

    Source:
      A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024, arXiv:2405.15682, equations 3 to 5 and section 4.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.schedule_free_sgd(0.5)
      >>> y, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(50):
      ...     updates, state = tx.update(y, state, y)
      ...     y = y + updates
      >>> print(bool(jnp.all(jnp.abs(lrx.eval_params(state, y)) < 0.05)))
      True
    """
    return _schedule_free("schedule_free_sgd", learning_rate, b1, None, weight_decay, r, weight_power)


@factory
def schedule_free_adamw(
    learning_rate: ArrayLike | Rate = 2.5e-3,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    r: ArrayLike = 0.0,
    weight_power: ArrayLike = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Average the iterates of Adam's steps, and take gradients between the average and the newest one.

    This is `schedule_free_sgd` with the step

        z_{t+1} = z_t - gamma_t (g_t / (sqrt(v_t / (1 - b2^t)) + eps) + weight_decay y_t)

    and t counted from 1: the average takes the place of Adam's momentum.

    The parameters that the caller holds are y; evaluate and keep `eval_params(state, params)`, which is x. Give a
    warm-up and no decay. If the model has batch statistics, `lrx.training.recompute_batch_stats` computes them at x.
    Nothing may scale the updates afterwards, because z would not follow.

    Args:
      learning_rate: gamma, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      b1: beta, in (0, 1], dimensionless; may be traced.
      b2: decay of the second moment, in [0, 1); may be traced.
      eps: added to the root, >= 0, in the gradients' units; may be traced.
      weight_decay: decoupled, at y, >= 0; may be traced.
      r: power of the step in the weights, >= 0; may be traced.
      weight_power: power of the largest rate in the weights, >= 0; may be traced.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `params`, and `value=` only if the rate
      does.

    Raises:
      ValueError: if an argument is out of its range, or `update` gets no `params`.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Differs from the source:
      For parameters narrower than float32, x is kept in float32 too, as in `schedule_free_sgd`.

    Source:
      A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024, arXiv:2405.15682, algorithm 1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.schedule_free_adamw(0.1)
      >>> y, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(100):
      ...     updates, state = tx.update(y, state, y)
      ...     y = y + updates
      >>> print(bool(jnp.all(jnp.abs(lrx.eval_params(state, y)) < 0.1)))
      True
    """
    _checks.decay("b2", b2)
    _checks.non_negative("eps", eps)
    return _schedule_free("schedule_free_adamw", learning_rate, b1, (b2, eps), weight_decay, r, weight_power)


def _schedule_free(
    name: str,
    learning_rate: Any,
    b1: ArrayLike,
    preconditioner: tuple[ArrayLike, ArrayLike] | None,  # (b2, eps); None for SGD
    weight_decay: ArrayLike,
    r: ArrayLike,
    weight_power: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    rate = as_rate(learning_rate)
    _checks.near_one("b1", b1)
    _checks.in_interval("b1", b1, "(0, 1]", "at 0 the average could not be recovered from the parameters")
    _checks.non_negative("weight_decay", weight_decay)
    _checks.non_negative("r", r)
    _checks.non_negative("weight_power", weight_power)

    def init(params: Any) -> ScheduleFreeState:
        return ScheduleFreeState(
            jnp.array(b1, jnp.float32),
            jnp.zeros([], jnp.float32),
            jnp.zeros([], jnp.float32),
            copies(params, upcast=True),
            exact_positions(params),
            () if preconditioner is None else zero_squares_like(params),
            rate.init_rate(params),
        )

    def update(
        updates: Any, state: ScheduleFreeState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ScheduleFreeState]:
        require_params(name, params, updates, "which it averages")
        gamma, rate_state = rate.next_rate(state.rate, updates=updates, params=params, **extra_args)
        largest = jnp.maximum(state.largest_rate, gamma)
        count = rate_state.count.astype(jnp.float32)
        weight = count ** jnp.asarray(r, jnp.float32) * largest ** jnp.asarray(weight_power, jnp.float32)
        # As long as the rate has been 0, nothing has moved and nothing is averaged.
        weight = jnp.where(largest > 0, weight, 0.0)
        weight_sum = state.weight_sum + weight
        c = quotient(weight, weight_sum, 0.0)
        beta = jnp.asarray(b1, jnp.float32)
        second = None
        if preconditioner is not None:
            second = one_minus_power(preconditioner[0], rate_state.count)

        exact = are_kept(state.average)
        gradients = upcast_gradients(updates) if exact else updates

        def step(
            g: jax.Array, z: jax.Array, v: jax.Array | None = None, *, alpha: jax.Array, point: Any
        ) -> tuple[jax.Array, ...]:
            x = upcast(point)  # y if x is not kept
            at = (1 - beta) * z + beta * x if exact else x
            if v is not None and preconditioner is not None and second is not None:
                b2, eps = preconditioner
                v = jnp.asarray(b2 * v + (1 - b2) * abs_square(g))
                g = quotient(g, square_root(v / second.astype(v.dtype)) + eps, eps)
            push = alpha * (g + weight_decay * at)
            # y' - y in terms of x and z, whose differences are small beside the parameters; or x' - x.
            change = c * (z - x) - (c if exact else 1 - beta * (1 - c)) * push
            return (change, z - push) if v is None else (change, z - push, v)

        memories = (state.iterate,) if preconditioner is None else (state.iterate, state.second_moment)
        trees = {"point": state.average if exact else params}
        steps, *after = leafwise(step, gradients, *memories, rate=gamma, extra_args=extra_args, trees=trees)
        iterate, second_moment = (*after, ())[:2]
        average = state.average
        if exact:
            average = add_steps(state.average, steps, updates)
            _, points = leafwise(
                lambda g, x, z: (g, (1 - beta) * z + beta * x), gradients, average, trees={"z": iterate}
            )
            steps = updates_to(points, params, updates)
        return steps, ScheduleFreeState(
            jnp.array(state.interpolation), largest, weight_sum, iterate, average, second_moment, rate_state
        )

    return optax.GradientTransformationExtraArgs(init, update)
