"""A network as two pure functions: what every workload of a small network needs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Network(NamedTuple):
    """A network without a state of its own.

    Attributes:
      init: `key -> params`.
      apply: `(params, inputs) -> outputs`, both with a leading axis of examples.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


def enlarge(network: Network, factor: float) -> Network:
    """Return a network that starts at parameters that are larger by a factor."""
    return Network(lambda key: jax.tree.map(lambda leaf: factor * leaf, network.init(key)), network.apply)
