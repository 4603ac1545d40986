"""RMSProp: the gradient divided by the root of the running mean of its square."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, divide_by_root, leafwise, places_of, root_mean, zero_squares_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate, as_scheduled
from lrx.rates import Rate, Schedule
from lrx.states import shows
from lrx.transformations import factory


@shows("decay")
class RmspropState(NamedTuple):
    """State of `scale_by_rmsprop`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates
    decay: jax.Array  # () float32: rho of the latest update, dimensionless
    eps: jax.Array  # () float32: what is added to the root, in the gradients' units
    eps_root: jax.Array  # () float32: what is added within the root, in the gradients' units squared
    mean_square: Any  # like the parameters, real, at least float32: v, in the gradients' units squared

    def preconditioner(self) -> Any:
        """Return sqrt(v + eps), or sqrt(v) + eps."""
        return root_mean(self.mean_square, 1.0, self.eps, self.eps_root)


@factory
def scale_by_rmsprop(
    *, decay: ArrayLike | Schedule = 0.99, eps: ArrayLike = 1e-8, eps_root: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Divide the gradient by the root of the running mean of its square.

    The direction is `g_t / sqrt(v_t + eps)`, or `g_t / (sqrt(v_t) + eps)` with `eps_root=False`, where
    `v_t = rho v_{t-1} + (1 - rho) g_t^2` and v_0 = 0, so that the first step is 1 / sqrt(1 - rho) times as long as
    later ones: a warm-up keeps it small. In a chain, a rate comes after it: this is the core of `rmsprop`.

    Args:
      decay: rho, in [0, 1), dimensionless: a float or a `Schedule`; may be traced.
      eps: >= 0, in the gradients' units squared, or in the gradients' units with `eps_root=False`; may be traced.
      eps_root: whether eps is added within the root.

    Returns:
      A transformation without sign. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `decay` is not in [0, 1), or `eps` is negative or not finite.
      TypeError: if `eps_root` is not a bool.

    Differs from the source:
      The source has no eps, and takes rho = 0.9. The mean is kept in float32 for narrower parameters too.

    Source:
      T. Tieleman, G. Hinton, "Lecture 6.5 - rmsprop", Coursera: Neural Networks for Machine Learning, 2012.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.scale_by_rmsprop(decay=0.75)
      >>> direction, state = tx.update(jnp.array([3.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> print(direction.round(4))
      [ 2. -2.]
    """
    decay_at = as_scheduled("decay", decay, _checks.decay)
    _checks.non_negative("eps", eps)
    _checks.flag("eps_root", eps_root)

    def init(params: Any) -> RmspropState:
        added = places_of(eps, within_root=eps_root)
        return RmspropState(jnp.zeros([], jnp.int32), decay_at.first(), *added, zero_squares_like(params))

    def update(updates: Any, state: RmspropState, params: Any = None, **extra_args: Any) -> tuple[Any, RmspropState]:
        del params, extra_args
        rho = decay_at(state.count)

        def step(gradient: jax.Array, mean_square: jax.Array) -> tuple[jax.Array, jax.Array]:
            mean_square = jnp.asarray(rho * mean_square + (1 - rho) * abs_square(gradient))
            return divide_by_root(gradient, mean_square, eps, eps_root=eps_root), mean_square

        updates, mean_square = leafwise(step, updates, state.mean_square)
        shown = (jnp.array(rho, jnp.float32), *places_of(eps, within_root=eps_root))
        return updates, RmspropState(optax.safe_increment(state.count), *shown, mean_square)

    return optax.GradientTransformationExtraArgs(init, update)


@factory
def rmsprop(
    learning_rate: ArrayLike | Rate,
    *,
    decay: ArrayLike | Schedule = 0.99,
    eps: ArrayLike = 1e-8,
    eps_root: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Divide each coordinate's gradient by its recent size, so that its steps have about the size of the rate.

    The update is `theta_t = theta_{t-1} - alpha_t g_t / sqrt(v_t + eps)` with
    `v_t = rho v_{t-1} + (1 - rho) g_t^2` (see `scale_by_rmsprop`). Unlike AdaGrad it forgets, so it does not stall when
    the target moves.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced. 1e-3 is usual.
      decay: rho, in [0, 1), dimensionless: a float or a `Schedule`; may be traced.
      eps: >= 0, in the gradients' units squared, or in the gradients' units with `eps_root=False`; may be traced.
      eps_root: whether eps is added within the root; `False` is PyTorch's form.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate` or `eps` is negative or not finite, or `decay` is not in [0, 1).
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `eps_root` is not a bool.

    Differs from the source:
      The source has no eps, and takes rho = 0.9, as optax does; rho = 0.99 is PyTorch's.

    Source:
      T. Tieleman, G. Hinton, "Lecture 6.5 - rmsprop", Coursera: Neural Networks for Machine Learning, 2012.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.rmsprop(lrx.warmup(1e-3, 100))
      >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(lrx.monitor(state)["rmsprop/decay"])
      0.99
    """
    return optax.chain(scale_by_rmsprop(decay=decay, eps=eps, eps_root=eps_root), as_rate(learning_rate))
