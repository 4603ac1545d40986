"""Which client holds which examples."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from lrx import _checks
from lrx.figures import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 100  # of a Dirichlet partition, until every client has enough examples


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Partition:
    """The examples of each client, as indices of examples of a data set.

    Args:
      clients: for each client an array of the indices of its examples, at least one; an example may belong to
        several clients, or to none.

    Attributes:
      indices: (clients, most examples of a client) int32, the indices of the examples, filled up with the client's
        first one.
      sizes: (clients,) int32, the number of examples of each client.

    Raises:
      ValueError: if there is no client, or if one has no examples.
      TypeError: if a client's indices are not whole numbers.

    Example:
      >>> from lrx.federated import Partition
      >>> Partition([[0, 1, 2], [3]])
      Partition of 4 examples: 2 clients with 1 to 3
    """

    clients: Any
    indices: np.ndarray = dataclasses.field(init=False)
    sizes: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        clients = [np.asarray(each) for each in self.clients]
        if not clients:
            raise ValueError("clients must hold the examples of at least one client, got none.")
        for number, each in enumerate(clients):
            if each.size == 0:
                raise ValueError(f"clients[{number}] must hold at least one example, got none: leave the client out.")
            if each.ndim != 1 or not np.issubdtype(each.dtype, np.integer) or each.min() < 0:
                raise TypeError(
                    f"clients[{number}] must be the numbers of its examples, whole numbers from 0 on, got {each!r}."
                )
        sizes = np.array([len(each) for each in clients], np.int32)
        indices = np.stack([np.concatenate([each, np.full(sizes.max() - len(each), each[0])]) for each in clients])
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "indices", indices.astype(np.int32))

    def __repr__(self) -> str:
        return (
            f"Partition of {self.sizes.sum():,} examples: {self.num_clients} clients with "
            f"{self.sizes.min():,} to {self.sizes.max():,}"
        )

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.sizes)

    def counts(self, labels: Any) -> np.ndarray:
        """Return the number of examples of each class that each client holds, (clients, classes)."""
        labels = np.asarray(labels)
        classes = int(labels.max()) + 1
        held = [self.indices[number, :size] for number, size in enumerate(self.sizes)]
        return np.stack([np.bincount(labels[each], minlength=classes) for each in held])

    def plot(self, labels: Any) -> Figure:
        """Draw how many examples of each class the clients hold, one bar a client.

        Args:
          labels: (examples,) class of each example, whole numbers from 0 on.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        figure, (axes,) = panels(size=(8.0, 3.6))
        import matplotlib as mpl

        counts = self.counts(labels)
        counts = counts[np.argsort(-counts.sum(axis=1), kind="stable")]
        below = np.zeros(len(counts))
        for number, colour in enumerate(mpl.colormaps["viridis"](np.linspace(0, 1, counts.shape[1]))):
            axes.bar(np.arange(len(counts)), counts[:, number], 1.0, below, color=colour, label=f"{number}", lw=0)
            below += counts[:, number]
        axes.set_xlabel("client, those with most examples first")
        axes.set_ylabel("examples")
        axes.margins(x=0)
        axes.legend(title="class", ncols=2, frameon=False, loc="upper right", fontsize=8)
        return figure


def random_partition(num_examples: int, num_clients: int, *, seed: int = 0) -> Partition:
    """Split examples at random into parts of equal size, up to one example.

    Args:
      num_examples: number of examples.
      num_clients: number of clients, at most `num_examples`.
      seed: seed of the order.

    Raises:
      ValueError: if a number is not above 0, or there are fewer examples than clients.

    Example:
      >>> from lrx.federated import random_partition
      >>> random_partition(1000, 3)
      Partition of 1,000 examples: 3 clients with 333 to 334
    """
    _require(num_examples, num_clients, seed)
    return Partition(np.array_split(np.random.default_rng(seed).permutation(num_examples), num_clients))


def dirichlet_partition(
    labels: Any, num_clients: int, *, concentration: float, min_size: int = 1, seed: int = 0
) -> Partition:
    """Split each class among the clients in proportions drawn from a Dirichlet distribution.

    For each class, `p ~ Dirichlet(concentration, ..., concentration)` is the share of each client. Small values give
    clients that hold few classes and very different numbers of examples; large ones give equal clients. The draw is
    repeated until every client has `min_size` examples.

    Args:
      labels: (examples,) class of each example, whole numbers from 0 on.
      num_clients: number of clients.
      concentration: > 0, dimensionless: 0.1 is very uneven, 100 almost even.
      min_size: the fewest examples of a client, at least 1.
      seed: seed of the draw.

    Raises:
      ValueError: if an argument is out of its range, or none of a hundred draws gives every client `min_size` examples.
      TypeError: if the labels are not whole numbers.

    Source:
      T.-M. H. Hsu, H. Qi, M. Brown, arXiv:1909.06335, 2019; drawn by class as in M. Yurochkin et al., ICML 2019,
      arXiv:1905.12022.

    Example:
      >>> import numpy as np
      >>> from lrx.federated import dirichlet_partition
      >>> labels = np.repeat([0, 1], 50)
      >>> partition = dirichlet_partition(labels, 4, concentration=0.5)
      >>> partition.counts(labels).sum(axis=0)
      array([50, 50])
    """
    labels = _labels(labels)
    _require(len(labels), num_clients, seed)
    _checks.positive("concentration", concentration)
    _checks.steps("min_size", min_size, unit="examples")
    rng = np.random.default_rng(seed)
    by_class = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    for _ in range(DRAWS):
        parts: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
        for members in by_class:
            shares = rng.dirichlet(np.full(num_clients, concentration))
            ends = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, some in zip(parts, np.split(rng.permutation(members), ends), strict=True):
                part.append(some)
        clients = [np.concatenate(part) for part in parts]
        if min(map(len, clients)) >= min_size:
            return Partition(clients)
    raise ValueError(
        f"concentration must be large enough that every client gets min_size={min_size} examples, got "
        f"concentration={concentration:g} for {len(labels):,} examples of {len(by_class)} classes and {num_clients} "
        f"clients, where none of {DRAWS:,} draws did: raise it, or take fewer clients."
    )


def shard_partition(labels: Any, num_clients: int, *, shards_per_client: int = 2, seed: int = 0) -> Partition:
    """Sort the examples by class, cut them into shards of equal size, and give each client some of them.

    Args:
      labels: (examples,) class of each example, whole numbers from 0 on.
      num_clients: number of clients.
      shards_per_client: shards of a client, at least 1: with 2, most clients hold two classes.
      seed: seed of the order of the shards.

    Raises:
      ValueError: if an argument is out of its range, or there are fewer examples than shards.
      TypeError: if the labels are not whole numbers.

    Source:
      H. B. McMahan et al., AISTATS 2017, arXiv:1602.05629, section 3: 200 shards of MNIST for 100 clients.

    Example:
      >>> import numpy as np
      >>> from lrx.federated import shard_partition
      >>> labels = np.repeat(np.arange(10), 20)
      >>> partition = shard_partition(labels, 10)
      >>> print((partition.counts(labels) > 0).sum(axis=1).max())
      2
    """
    labels = _labels(labels)
    _require(len(labels), num_clients, seed)
    _checks.steps("shards_per_client", shards_per_client, unit="shards")
    number = num_clients * shards_per_client
    if number > len(labels):
        raise ValueError(
            f"shards_per_client must leave every shard an example, got {number:,} shards of {len(labels):,} examples: "
            "take fewer clients, or fewer shards."
        )
    shards = np.array_split(np.argsort(labels, kind="stable"), number)
    order = np.random.default_rng(seed).permutation(number).reshape(num_clients, shards_per_client)
    return Partition([np.concatenate([shards[each] for each in some]) for some in order])


def _require(num_examples: Any, num_clients: Any, seed: Any) -> None:
    _checks.steps("num_examples", num_examples, unit="examples")
    _checks.steps("num_clients", num_clients, unit="clients")
    _checks.seed(seed)
    if num_clients > num_examples:
        raise ValueError(
            f"num_clients must be at most the number of examples, {num_examples:,}, got num_clients={num_clients:,}."
        )


def _labels(labels: Any) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        raise TypeError(
            f"labels must be one axis of whole numbers from 0 on, got {labels.dtype} of shape {labels.shape}."
        )
    return labels
