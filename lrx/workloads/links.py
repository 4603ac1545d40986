"""Links between entities, each of a relation, that are predicted by embeddings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.workloads._network import Network
from lrx.workloads.supervised import Examples


def link_network(num_entities: int, num_relations: int, *, width: int = 8) -> Network:
    """Build logits of the entity to which a relation leads from another: -|e_h + w_r - e_t|^2 for each t.

    Inputs are pairs (n, 2) of an entity h and a relation r, outputs (n, num_entities). Embeddings begin normal, with
    lengths of about 1.

    Args:
      num_entities: number of entities.
      num_relations: number of relations.
      width: width of an embedding.

    Source: A. Bordes et al., "Translating embeddings for modeling multi-relational data", NeurIPS 2013, section 2, with
      the cross-entropy over all entities instead of drawn ones.
    """

    def init(key: jax.Array) -> dict[str, jax.Array]:
        rows = jax.random.normal(key, (num_entities + num_relations, width)) / np.sqrt(width)
        return {"entities": rows[:num_entities], "relations": rows[num_entities:]}

    def apply(params: Any, pairs: jax.Array) -> jax.Array:
        goal = params["entities"][pairs[:, 0]] + params["relations"][pairs[:, 1]]
        squares = jnp.sum(params["entities"] ** 2, axis=1)
        # |goal|^2 is the same for each t.
        return 2 * goal @ params["entities"].T - squares[None]

    return Network(init, apply)


def draw_links(num_entities: int, num_relations: int, rng: np.random.Generator) -> Examples:
    """Draw places of entities, and shifts of relations: a relation leads to the entity that is nearest after its shift.

    Places are uniform in a square of the side 2, and shifts normal with the standard deviation 0.3.

    Args:
      num_entities: number of entities.
      num_relations: number of relations.
      rng: generator of the numbers.

    Returns:
      All pairs of an entity and a relation, (n, 2), in random order, and the entities to which they lead, (n,).
    """
    places = rng.uniform(-1, 1, size=(num_entities, 2))
    shifts = 0.3 * rng.normal(size=(num_relations, 2))
    pairs = rng.permutation(np.argwhere(np.ones((num_entities, num_relations))))
    goals = places[pairs[:, 0]] + shifts[pairs[:, 1]]
    distances = np.linalg.norm(goals[:, None] - places[None], axis=2)
    distances[np.arange(len(pairs)), pairs[:, 0]] = np.inf  # no entity is linked to itself
    return pairs.astype(np.int32), distances.argmin(axis=1).astype(np.int32)
