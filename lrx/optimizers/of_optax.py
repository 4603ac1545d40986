"""Methods that optax has, `lrx.select` tries and expressions may name, with a rate of lrx."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lrx._leaves import as_type, has_no_gradient, leafwise, type_of, upcast, zeros_like
from lrx.arguments import as_rate
from lrx.optimizers.adam import one_minus_power
from lrx.rates import Rate
from lrx.states import shows
from lrx.transformations import factory

BETA = 0.95  # decay of Muon's momentum
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Muon's quintic polynomial
ITERATIONS = 3, 2  # of the polynomial; behind each group, they are applied to the matrix
OBLONG = 1.5  # ratio of the sides, from which on the iterations of a group take fewer operations on the Gram matrix
RMS = 0.2  # of the update of a matrix


@factory
def lion(learning_rate: ArrayLike | Rate) -> optax.GradientTransformation:
    """Return Lion of optax with its default weight decay, and with a rate of lrx.

    The direction is `u_t = sign(b1 m_{t-1} + (1 - b1) g_t) + lambda theta`, with `m_t = b2 m_{t-1} + (1 - b2) g_t`,
    b1 = 0.9, b2 = 0.99 and lambda = 1e-3; the update is `theta_{t+1} = theta_t - alpha_t u_t`.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.

    Returns:
      A transformation whose `update` needs `params`.

    Raises:
      ValueError: if `learning_rate` is negative.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source: X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv:2302.06675, as optax has it.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> from lrx.optimizers.of_optax import lion
      >>> tx = lion(lrx.linear_decay(0.5, 100))
      >>> updates, state = tx.update(jnp.array([3.0, -2.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
      >>> print(updates)
      [-0.5  0.5]
    """
    return optax.chain(optax.scale_by_lion(), optax.add_decayed_weights(1e-3), as_rate(learning_rate))


@shows()
class MuonState(NamedTuple):
    """State of the momentum of `muon`."""

    count: jax.Array  # type: ignore[assignment]  # () int32: completed updates
    momentum: Any  # like the matrices, in the gradients' units

    def completed_updates(self) -> jax.Array:
        """Return the number of completed updates."""
        return self.count


@factory
def muon(learning_rate: ArrayLike | Rate) -> optax.GradientTransformation:
    """Return Muon as optax has it, with a rate of lrx: matrices are orthogonalized, other parameters have Adam.

    For a matrix of shape (m, n), the momentum is `m_t = beta m_{t-1} + (1 - beta) g_t`, Nesterov's direction is
    `u_t = beta m_t / (1 - beta^{t+1}) + (1 - beta) g_t / (1 - beta^t)`, and beta = 0.95. From
    `X = u_t / (||u_t||_F + 1e-8)`, transposed if m > n, five iterations `X <- a X + (b A + c A A) X` with `A = X X^H`,
    a = 3.4445, b = -4.775 and c = 2.0315 bring the singular values near 1. The update is
    `-alpha_t 0.2 sqrt(max(m, n)) X`: its root mean square, about 0.2 alpha, is near that of Adam's, so that one rate
    serves both. Adam's momentum too is Nesterov's, so its first update is 1.47 rates.

    The numbers are those of `optax.contrib.muon(consistent_rms=0.2)` up to rounding, with two differences: matrices of
    one shape, and their transposes, are orthogonalized together, which is faster and holds all of them in memory at
    once; and narrower types are computed in float32, where optax iterates in theirs.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.

    Returns:
      A transformation whose `update` needs neither `params` nor `value=`, unless the rate does.

    Raises:
      ValueError: if `learning_rate` is negative.
      TypeError: if `learning_rate` is not a number, a `Rate` or a function of the step.

    Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, as optax has it; the
    scale is that of J. Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv:2502.16982.

    Example:
      >>> import jax.numpy as jnp, lrx
      >>> from lrx.optimizers.of_optax import muon
      >>> tx, theta = muon(lrx.linear_decay(0.5, 100)), jnp.zeros(2)
      >>> updates, state = tx.update(jnp.array([3.0, -2.0]), tx.init(theta), theta)  # a vector: Adam
      >>> print([f"{update:.3f}" for update in updates])
      ['-0.737', '0.737']
    """
    directions = {"muon": _scale_by_muon(), "adam": optax.scale_by_adam(nesterov=True)}
    return optax.chain(optax.partition(directions, _labels), as_rate(learning_rate))


def _labels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: "muon" if jnp.ndim(leaf) == 2 else "adam", params)


def _scale_by_muon() -> optax.GradientTransformation:
    """Return the direction of `muon` for matrices."""

    def init(params: Any) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), zeros_like(params))

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        del params
        count = optax.safe_increment(state.count)
        of_momentum = BETA / one_minus_power(BETA, optax.safe_increment(count))
        of_gradient = (1 - BETA) / one_minus_power(BETA, count)

        def step(gradient: jax.Array, momentum: jax.Array) -> tuple[jax.Array, jax.Array]:
            momentum = BETA * momentum + (1 - BETA) * gradient
            return of_momentum * momentum + of_gradient * gradient, momentum

        # Otherwise `leafwise` would round the directions to the gradients' type, in which they may overflow.
        precise = jax.tree.map(lambda leaf: leaf if has_no_gradient(leaf) else upcast(leaf), updates)
        directions, momentum = leafwise(step, precise, state.momentum)
        orthogonal = jax.tree.map(
            lambda leaf, like: leaf if has_no_gradient(leaf) else as_type(leaf, type_of(like)),
            _orthogonalize(directions),
            updates,
        )
        return orthogonal, MuonState(count, momentum)

    return optax.GradientTransformation(init, update)


def _orthogonalize(matrices: Any) -> Any:
    """Orthogonalize the leaves of a tree, those of one shape and type as one stack: few large products are fast."""
    leaves, structure = jax.tree.flatten(matrices)
    stacks: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        if not has_no_gradient(leaf):
            stacks.setdefault((*sorted(leaf.shape), leaf.dtype), []).append(index)
    for (_, longer, _), indices in stacks.items():
        shape = leaves[indices[0]].shape  # to which others are transposed
        stack = jnp.stack([_turned(leaves[index], shape) for index in indices])
        for index, matrix in zip(indices, RMS * longer**0.5 * _iterate(stack), strict=True):
            leaves[index] = _turned(matrix, leaves[index].shape)
    return jax.tree.unflatten(structure, leaves)


def _turned(matrix: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return matrix if matrix.shape == shape else matrix.T


def _iterate(x: jax.Array) -> jax.Array:
    """Bring the singular values of matrices near 1, by the iterations of Newton and Schulz. x: (k, m, n).

    An iteration multiplies X by Q = a I + b A + c A A, from the side that is shorter, and the next Gram matrix is
    Q A Q. So the products of oblong matrices are saved if several Q are multiplied first. In one group of five, float32
    rounding of the small eigenvalues of A would grow to 1e-3 of the result; in two it stays as small as in single
    iterations. Accelerators round products to fewer digits by default, which a group would amplify 200 times.
    """
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-8)
    shorter, longer = sorted(x.shape[-2:])
    is_tall = x.shape[-1] < x.shape[-2]
    groups = ITERATIONS if longer > OBLONG * shorter else (1,) * sum(ITERATIONS)
    for iterations in groups:
        times = functools.partial(jnp.matmul, precision="high" if iterations > 1 else None)
        gram = times(x.mT.conj(), x) if is_tall else times(x, x.mT.conj())
        product = factor = _factor(gram, times)
        for _ in range(iterations - 1):
            gram = times(times(factor, gram), factor)
            factor = _factor(gram, times)
            product = times(factor, product)
        x = x @ product if is_tall else product @ x
    return x


def _factor(gram: jax.Array, times: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """Return what an iteration multiplies matrices by. gram: (k, m, m)."""
    a, b, c = COEFFICIENTS
    identity = jnp.broadcast_to(jnp.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    return a * identity + b * gram + c * times(gram, gram)
