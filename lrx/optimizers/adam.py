"""Adam: the gradient's running mean, divided by the root of the running mean of its square."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, leafwise, quotient, root_mean, square_root, zero_squares_like, zeros_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate, as_scheduled
from lrx.rates import Rate, Schedule
from lrx.states import array, shows
from lrx.transformations import factory


@shows("b1", "b2", "first_weight", "second_weight")
class AdamState(NamedTuple):
    """State of `scale_by_adam`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates
    b1: jax.Array  # () float32: decay of the first moment in the latest update
    b2: jax.Array  # () float32: decay of the second
    first_weight: jax.Array  # () float32: 1 - prod_i b1_i, the weight of the first moment so far
    second_weight: jax.Array  # () float32: 1 - prod_i b2_i
    eps: jax.Array  # () float32: of the latest update, in the gradients' units
    eps_root: jax.Array  # () float32: likewise, in the gradients' units squared
    first_moment: Any  # like the parameters: m, in the gradients' units
    second_moment: Any  # like the parameters, real, at least float32: v, in the gradients' units squared

    def stable_product(self) -> jax.Array:
        """Return 2 (1 + b1) / (1 - b1): the first moment is a heavy ball whose gradients have the weight 1 - b1."""
        beta = array(self.b1)
        return 2 * (1 + beta) / (1 - beta)

    def preconditioner(self) -> Any:
        """Return (1 - prod b1) (sqrt(v^ + eps_root) + eps), as J. Cohen et al., 2022, do; 0 before the first update."""
        weight1, weight2 = array(self.first_weight), array(self.second_weight)
        known = jnp.where(weight2 == 0, 1.0, weight2)
        return root_mean(self.second_moment, known, self.eps, self.eps_root, weight1)


class Moments(NamedTuple):
    """The two functions of Adam's memory, which `adamw` shares."""

    init: Callable[[Any], AdamState]
    # (state) -> (the next state without its moments, (gradient, m, v) -> (direction, m, v))
    advance: Callable[[AdamState], tuple[AdamState, Callable[..., tuple[jax.Array, jax.Array, jax.Array]]]]


def _weight_after(decay: ArrayLike, decay_at: Any, count: jax.Array, weight: jax.Array) -> jax.Array:
    """Return 1 - decay^count, or for a scheduled decay 1 - prod_i decay_i, from the weight before this update."""
    if isinstance(decay, Schedule) or callable(decay):
        return decay_at * weight + (1 - decay_at)
    return one_minus_power(decay, count)


def one_minus_power(decay: ArrayLike, count: jax.Array) -> jax.Array:
    """Return 1 - decay^count, the weight of a running mean that began at 0 after `count` values."""
    # Avoids a cancellation that costs 1e-5 at decay 0.999 and count 1 in float32.
    if _checks.is_concrete(decay):
        known = float(decay)
        logarithm = jnp.float32(math.log(known) if known > 0 else -math.inf)
    else:
        logarithm = jnp.log(jnp.asarray(decay, jnp.float32))
    return -jnp.expm1(count.astype(jnp.float32) * logarithm)


def moments(
    b1: ArrayLike | Schedule,
    b2: ArrayLike | Schedule,
    eps: ArrayLike,
    eps_root: ArrayLike = 0.0,
    moment_dtype: Any = None,
) -> Moments:
    """Check the hyperparameters of Adam's memory, and build its functions."""
    b1_at = as_scheduled("b1", b1, _checks.decay)
    b2_at = as_scheduled("b2", b2, _checks.decay)
    _checks.non_negative("eps", eps)
    _checks.non_negative("eps_root", eps_root)
    _checks.float_type("moment_dtype", moment_dtype)
    within_root = not _checks.is_concrete(eps_root) or float(eps_root) > 0

    def known_eps() -> tuple[jax.Array, jax.Array]:
        return jnp.array(eps, jnp.float32), jnp.array(eps_root, jnp.float32)

    def init(params: Any) -> AdamState:
        zero = jnp.zeros([], jnp.int32)
        weights = (jnp.zeros([], jnp.float32), jnp.zeros([], jnp.float32))
        first, second = zeros_like(params, dtype=moment_dtype), zero_squares_like(params)
        return AdamState(zero, b1_at.first(), b2_at.first(), *weights, *known_eps(), first, second)

    def advance(state: AdamState) -> tuple[AdamState, Callable[..., tuple[jax.Array, jax.Array, jax.Array]]]:
        beta1, beta2 = b1_at(state.count), b2_at(state.count)
        count = optax.safe_increment(state.count)
        weight1 = _weight_after(b1, beta1, count, state.first_weight)
        weight2 = _weight_after(b2, beta2, count, state.second_weight)
        # m^ / (sqrt(v^) + eps) with the weights combined: one division for a coordinate instead of three. A traced
        # decay of 1 makes the weight 0 and this NaN, as nothing would ever be learned.
        weight_root = jnp.sqrt(weight2)
        correction, scaled_eps = weight2 / (weight_root * weight1), weight_root * eps

        def direction(gradient: jax.Array, m: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            m = jnp.asarray(beta1 * m + (1 - beta1) * gradient)
            v = jnp.asarray(beta2 * v + (1 - beta2) * abs_square(gradient))
            length = square_root(v + weight2 * eps_root if within_root else v)
            # With eps = 0 a coordinate without a gradient so far stays where it is.
            return quotient(m * correction, length + scaled_eps, eps), m, v

        shown = (jnp.array(beta1, jnp.float32), jnp.array(beta2, jnp.float32))
        weights = (weight1, weight2)
        return AdamState(count, *shown, *weights, *known_eps(), state.first_moment, state.second_moment), direction

    return Moments(init, advance)


@factory
def scale_by_adam(
    *,
    b1: ArrayLike | Schedule = 0.9,
    b2: ArrayLike | Schedule = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Normalise the gradient's mean by its root mean square.

    The direction is `m^ / (sqrt(v^ + eps_root) + eps)`, where `m_t = b1 m_{t-1} + (1 - b1) g_t`,
    `v_t = b2 v_{t-1} + (1 - b2) g_t^2`, `m^ = m_t / (1 - b1^t)` and `v^ = v_t / (1 - b2^t)`, t counted from 1. In a
    chain, a rate comes after it: this is the core of `adam`.

    Args:
      b1: decay of the first moment, in [0, 1): a float or a `Schedule`; may be traced.
      b2: decay of the second moment, in [0, 1): a float or a `Schedule`; may be traced.
      eps: added to the root, after the bias correction, >= 0, in the gradients' units; may be traced.
      eps_root: added within the root, after the bias correction, >= 0, in the gradients' units squared; may be traced.
        It bounds derivatives through the update when gradients are small.
      moment_dtype: dtype of the first moment, such as `jnp.bfloat16`; by default the parameters' own. The
        second is float32 or wider in any case, and the first of complex parameters stays complex.

    Returns:
      A transformation without sign. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if a decay is not in [0, 1), `eps` or `eps_root` is negative, or `moment_dtype` is not a
        floating-point type.

    Differs from the source:
      The second moment is kept in float32 for narrower parameters too: 1 - b2 is below the resolution of bfloat16, in
      which the moment would never change. In bfloat16 a b2 of 0.999 is 1: decays in types narrower than float32 are
      refused, and `optax.inject_hyperparams` of bfloat16 parameters needs `hyperparam_dtype=jnp.float32`. For a
      scheduled decay the powers b^t become products of the decays so far.

    Source:
      D. Kingma, J. Ba, "Adam", ICLR 2015, arXiv:1412.6980, algorithm 1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.scale_by_adam()
      >>> direction, state = tx.update(jnp.array([3.0, -0.02]), tx.init(jnp.zeros(2)))
      >>> print(direction.round(4))
      [ 1. -1.]
    """
    memory = moments(b1, b2, eps, eps_root, moment_dtype)

    def update(updates: Any, state: AdamState, params: Any = None, **extra_args: Any) -> tuple[Any, AdamState]:
        del params, extra_args
        state, direction = memory.advance(state)
        updates, first, second = leafwise(direction, updates, state.first_moment, state.second_moment)
        return updates, state._replace(first_moment=first, second_moment=second)

    return optax.GradientTransformationExtraArgs(memory.init, update)


@factory
def adam(
    learning_rate: ArrayLike | Rate = 1e-3,
    *,
    b1: ArrayLike | Schedule = 0.9,
    b2: ArrayLike | Schedule = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    moment_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Normalise each coordinate's gradient, so that its steps have about the size of the rate.

    The update is `theta_t = theta_{t-1} - alpha_t m^ / (sqrt(v^ + eps_root) + eps)`, with the bias-corrected running
    means of the gradient and of its square (see `scale_by_adam`).

    State: a first moment in the parameters' type, or in `moment_dtype`, and a second in float32. In bfloat16 the first
    takes half the memory of float32. Measured over 20,000 steps it is then off by 0.4 % of its size under noise, and by
    at most 3 % under a constant gradient, with b1 = 0.9; with 0.99 by 1.2 % and 17 %: keep a longer memory in
    float32. For updates that a bfloat16 parameter rounds away, see `master_weights`.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.
      b1: decay of the first moment, in [0, 1): a float or a `Schedule`; may be traced.
      b2: decay of the second moment, in [0, 1): a float or a `Schedule`; may be traced.
      eps: added to the root, after the bias correction, >= 0, in the gradients' units; may be traced.
      eps_root: added within the root, after the bias correction, >= 0, in the gradients' units squared; may be traced.
        It bounds derivatives through the update when gradients are small.
      moment_dtype: dtype of the first moment, such as `jnp.bfloat16`; by default the parameters' own. The
        second is float32 or wider in any case, and the first of complex parameters stays complex.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate`, `eps` or `eps_root` is negative, a decay is not in [0, 1), or `moment_dtype` is
        not a floating-point type.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source:
      D. Kingma, J. Ba, "Adam", ICLR 2015, arXiv:1412.6980, algorithm 1.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adam(lrx.warmup(1e-3, 100))
      >>> state = tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.ones(2), state)
      >>> print(lrx.learning_rate(state))
      0.0
    """
    return optax.chain(
        scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root, moment_dtype=moment_dtype), as_rate(learning_rate)
    )
