"""Methods of optax that `lrx.select` tries and expressions may name, with a rate of lrx in place of their own."""

from __future__ import annotations

import optax
from jax.typing import ArrayLike

from lrx.arguments import as_rate
from lrx.rates import Rate
from lrx.transformations import factory


@factory
def lion(learning_rate: ArrayLike | Rate) -> optax.GradientTransformation:
    """Return Lion of optax with its default weight decay, and with a rate of lrx."""
    return optax.chain(optax.scale_by_lion(), optax.add_decayed_weights(1e-3), as_rate(learning_rate))


@factory
def muon(learning_rate: ArrayLike | Rate) -> optax.GradientTransformation:
    """Return Muon of optax, with a rate of lrx: matrices are orthogonalized, and the other parameters have Adam.

    Updates of matrices have the root mean square 0.2, which is about that of Adam's, so that one rate serves both.
    """
    return optax.chain(optax.contrib.muon(-1.0, adam_learning_rate=-1.0, consistent_rms=0.2), as_rate(learning_rate))
