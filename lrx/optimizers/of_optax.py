"""Methods of optax that `lrx.select` tries and expressions may name, with a rate of lrx in place of their own."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from lrx.arguments import as_rate
from lrx.rates import Rate
from lrx.transformations import factory


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


@factory
def muon(learning_rate: ArrayLike | Rate) -> optax.GradientTransformation:
    """Return Muon of optax, with a rate of lrx: matrices are orthogonalized, and the other parameters have Adam.

    Updates of matrices have the root mean square 0.2, which is about that of Adam's, so that one rate serves both. Both
    momenta are Nesterov's, optax's default, so the first update of Adam is 1.47 rates.

    Args:
      learning_rate: alpha, >= 0: a float, a `Schedule` or another `Rate`; may be traced.

    Returns:
      A transformation whose `update` needs `params`.

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
    return optax.chain(optax.contrib.muon(-1.0, adam_learning_rate=-1.0, consistent_rms=0.2), as_rate(learning_rate))
