"""AdaGrad: each coordinate's rate shrinks with the squares of the gradients that it has seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx import _checks
from lrx._leaves import abs_square, divide_by_root, leafwise, places_of, root_mean, zero_squares_like
from lrx._numbers import ArrayLike
from lrx.arguments import as_rate
from lrx.rates import Rate
from lrx.states import shows
from lrx.transformations import factory


@shows()
class AdagradState(NamedTuple):
    """State of `scale_by_adagrad`."""

    eps: jax.Array  # () float32: what is added to the root, in the gradients' units
    eps_root: jax.Array  # () float32: what is added within the root, in the gradients' units squared
    sum_of_squares: Any  # like the parameters, real, at least float32: G, in the gradients' units squared

    def preconditioner(self) -> Any:
        """Return sqrt(G + eps), or sqrt(G) + eps."""
        return root_mean(self.sum_of_squares, 1.0, self.eps, self.eps_root)


@factory
def scale_by_adagrad(
    *, eps: ArrayLike = 1e-8, eps_root: bool = True, initial_accumulator: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Divide the gradient by the root of the sum of its squares.

    The direction is `g_t / sqrt(G_t + eps)`, or `g_t / (sqrt(G_t) + eps)` with `eps_root=False`, where
    `G_t = G_{t-1} + g_t^2`. In a chain, a rate comes after it: this is the core of `adagrad`.

    Args:
      eps: >= 0, in the gradients' units squared, or in the gradients' units with `eps_root=False`; may be traced.
      eps_root: whether eps is added within the root.
      initial_accumulator: G_0, >= 0, in the gradients' units squared; may be traced.

    Returns:
      A transformation without sign. `update` needs neither `params` nor `value`.

    Raises:
      ValueError: if `eps` or `initial_accumulator` is negative or not finite.
      TypeError: if `eps_root` is not a bool.

    Differs from the source:
      The source adds eps outside of the root, as PyTorch does; optax adds it within, and starts from G_0 = 0.1. The sum
      is kept in float32 for narrower parameters too; in the parameters' own dtype it would soon stop growing.

    Source:
      J. Duchi, E. Hazan, Y. Singer, JMLR 12, 2011, figure 1, the diagonal case.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.scale_by_adagrad()
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(4):
      ...     direction, state = tx.update(jnp.array([3.0, -0.02]), state)
      >>> print(direction.round(3))
      [ 0.5 -0.5]
    """
    _checks.non_negative("eps", eps)
    _checks.flag("eps_root", eps_root)
    _checks.non_negative("initial_accumulator", initial_accumulator)

    def init(params: Any) -> AdagradState:
        def start(zero: jax.Array) -> jax.Array:
            return zero + jnp.asarray(initial_accumulator, zero.dtype)

        added = places_of(eps, within_root=eps_root)
        return AdagradState(*added, jax.tree.map(start, zero_squares_like(params)))

    def update(updates: Any, state: AdagradState, params: Any = None, **extra_args: Any) -> tuple[Any, AdagradState]:
        del params, extra_args

        def step(gradient: jax.Array, total: jax.Array) -> tuple[jax.Array, jax.Array]:
            total = total + abs_square(gradient)
            return divide_by_root(gradient, total, eps, eps_root=eps_root), total

        updates, total = leafwise(step, updates, state.sum_of_squares)
        return updates, AdagradState(*places_of(eps, within_root=eps_root), total)

    return optax.GradientTransformationExtraArgs(init, update)


@factory
def adagrad(
    learning_rate: ArrayLike | Rate,
    *,
    eps: ArrayLike = 1e-8,
    eps_root: bool = True,
    initial_accumulator: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Divide each coordinate's gradient by the root of its summed squares, so that rare features take large steps.

    The update is `theta_t = theta_{t-1} - alpha_t g_t / sqrt(G_t + eps)` with `G_t = G_{t-1} + g_t^2` (see
    `scale_by_adagrad`). The steps shrink as 1 / sqrt(t) by themselves, so a constant rate is usual.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced. 1e-2 is usual.
      eps: >= 0, in the gradients' units squared, or in the gradients' units with `eps_root=False`; may be traced.
      eps_root: whether eps is added within the root; `False` is PyTorch's form, with `eps=1e-10`.
      initial_accumulator: G_0, >= 0, in the gradients' units squared; may be traced. optax starts from 0.1.

    Returns:
      A transformation whose updates are added to the parameters. `update` needs `value=` only if the rate does.

    Raises:
      ValueError: if `learning_rate`, `eps` or `initial_accumulator` is negative or not finite.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step, or `eps_root` is not a bool.

    Differs from the source:
      eps is inside the root; the source's form is `eps_root=False`.

    Source:
      J. Duchi, E. Hazan, Y. Singer, JMLR 12, 2011, figure 1, the diagonal case.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> tx = lrx.adagrad(0.1)
      >>> updates, state = tx.update(jnp.array([3.0, -0.02]), tx.init(jnp.zeros(2)))
      >>> print(lrx.learning_rate(state), state[0].sum_of_squares)
      0.1 [9.e+00 4.e-04]
    """
    core = scale_by_adagrad(eps=eps, eps_root=eps_root, initial_accumulator=initial_accumulator)
    return optax.chain(core, as_rate(learning_rate))
