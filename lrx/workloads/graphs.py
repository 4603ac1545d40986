"""A graph network on a generated graph of groups: few nodes have a label, and their neighbours help."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import affine, he_normal
from lrx.workloads.supervised import cross_entropy


def make_graph_workload(
    *,
    num_nodes: int = 240,
    num_groups: int = 4,
    within: float = 0.08,
    between: float = 0.02,
    num_features: int = 16,
    noise: float = 2.0,
    labelled: int = 48,
    hidden: int = 16,
    batch_size: int = 16,
    seed: int = 0,
) -> Workload:
    """Build the classification of the nodes of a stochastic block model by a graph convolutional network.

    A layer is relu(A H W), A being the adjacency with loops, normalized by the roots of the degrees; the second layer
    has no relu. The features of a node are the centre of its group, standard normal, and normal noise. The whole graph
    is computed in each step, and the loss is that of a minibatch of the labelled nodes; `evaluate` measures the others.

    Args:
      num_nodes: number of nodes.
      num_groups: number of groups, equally large.
      within: probability of an edge between two nodes of one group.
      between: probability of an edge between two nodes of different groups.
      num_features: features of a node.
      noise: standard deviation of their noise.
      labelled: number of nodes whose label is known.
      hidden: units of the first layer.
      batch_size: labelled nodes in a minibatch.
      seed: seed of the graph.

    Source: T. Kipf, M. Welling, 2017, arXiv 1609.02907, equations 8 and 9.
    """
    rng = np.random.default_rng(seed)
    spread, seen, groups = block_graph(
        num_nodes, num_groups, rng, within=within, between=between, num_features=num_features, noise=noise
    )

    def logits(params: Any, nodes: jax.Array) -> jax.Array:
        return spread[nodes] @ affine(params[1], jax.nn.relu(affine(params[0], seen)))

    def measure(params: Any, examples: Any) -> dict[str, jax.Array]:
        nodes, labels = examples
        return cross_entropy(logits(params, nodes), labels)

    nodes = np.arange(num_nodes, dtype=np.int32)
    known, others = (nodes[:labelled], groups[:labelled]), (nodes[labelled:], groups[labelled:])
    return Workload.from_functions(
        lambda params, batch, key: measure(params, batch)["loss"],  # noqa: ARG005
        lambda key: he_normal(key, [(num_features, hidden), (hidden, num_groups)]),
        Batches(known, batch_size),
        name="graph",
        evaluate=Evaluation(measure, others),
    )


def block_graph(
    num_nodes: int,
    num_groups: int,
    rng: np.random.Generator,
    *,
    within: float,
    between: float,
    num_features: int = 16,
    noise: float = 2.0,
) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Draw a stochastic block model; see `make_graph_workload`.

    Returns:
      The normalized adjacency A, (nodes, nodes); A X of the features X, (nodes, features), which does not change; and
      the group of each node, (nodes,) int32.
    """
    groups = rng.permutation(np.arange(num_nodes) % num_groups).astype(np.int32)
    chances = np.where(groups[:, None] == groups[None], within, between)
    upper = np.triu(rng.random((num_nodes, num_nodes)) < chances, 1)
    adjacency = (upper | upper.T) + np.eye(num_nodes)
    degrees = adjacency.sum(axis=1)
    spread = jnp.asarray(adjacency / np.sqrt(degrees[:, None] * degrees[None]), jnp.float32)
    features = rng.normal(size=(num_groups, num_features))[groups] + noise * rng.normal(size=(num_nodes, num_features))
    return spread, spread @ jnp.asarray(features, jnp.float32), groups
