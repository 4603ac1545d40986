"""Federated learning: clients side by side, partitions of examples, and rules of the server as transformations."""

from lrx.federated.history import FederatedHistory
from lrx.federated.partition import Partition, dirichlet_partition, random_partition, shard_partition
from lrx.federated.server import fed_adagrad, fed_adam, fed_yogi, scale_by_server_moments
from lrx.federated.simulate import simulate

__all__ = [
    "FederatedHistory",
    "Partition",
    "dirichlet_partition",
    "fed_adagrad",
    "fed_adam",
    "fed_yogi",
    "random_partition",
    "scale_by_server_moments",
    "shard_partition",
    "simulate",
]
