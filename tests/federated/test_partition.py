"""Partitions: every example belongs to one client, and the proportions are what they are called."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrx.federated import Partition, dirichlet_partition, random_partition, shard_partition

LABELS = np.random.default_rng(0).integers(0, 10, 1000)


def examples_of(partition: Partition) -> list[list[int]]:
    return [partition.indices[client, :size].tolist() for client, size in enumerate(partition.sizes)]


@given(st.integers(1, 40), st.sampled_from(["random", "dirichlet", "shards"]), st.integers(0, 5))
def test_every_example_belongs_to_one_client(clients: int, kind: str, seed: int) -> None:
    partition = {
        "random": lambda: random_partition(1000, clients, seed=seed),
        "dirichlet": lambda: dirichlet_partition(LABELS, clients, concentration=0.5, seed=seed),
        "shards": lambda: shard_partition(LABELS, clients, shards_per_client=3, seed=seed),
    }[kind]()
    assert partition.num_clients == clients
    assert sorted(itertools.chain(*examples_of(partition))) == list(range(1000))
    np.testing.assert_array_equal(partition.counts(LABELS).sum(axis=0), np.bincount(LABELS))


def test_a_small_concentration_is_uneven_and_a_large_one_even() -> None:
    shares = {}
    for concentration in (0.1, 100.0):
        counts = dirichlet_partition(LABELS, 10, concentration=concentration).counts(LABELS)
        shares[concentration] = (counts.max(axis=1) / counts.sum(axis=1)).mean()
    assert shares[0.1] > 0.45
    assert shares[100.0] < 0.2


def test_shards_hold_few_classes_and_the_seed_decides() -> None:
    labels = np.repeat(np.arange(10), 100)
    partition = shard_partition(labels, 50)
    assert (partition.counts(labels) > 0).sum(axis=1).max() <= 2
    assert (partition.sizes == 20).all()
    assert examples_of(partition) == examples_of(shard_partition(labels, 50))
    assert examples_of(partition) != examples_of(shard_partition(labels, 50, seed=1))


def test_what_fills_up_is_an_example_of_the_client() -> None:
    partition = Partition([[3, 4, 5], [7]])
    np.testing.assert_array_equal(partition.indices, [[3, 4, 5], [7, 7, 7]])
    np.testing.assert_array_equal(partition.sizes, [3, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Partition([]), ValueError, "clients must hold the examples of at least one client"),
        (
            lambda: Partition([[1], []]),
            ValueError,
            r"clients\[1\] must hold at least one example, got none",
        ),
        (lambda: Partition([[1.5]]), TypeError, r"clients\[0\] must be the numbers of its examples"),
        (lambda: Partition([[-1]]), TypeError, r"clients\[0\] must be"),
        (lambda: random_partition(3, 4), ValueError, "num_clients must be at most the number of examples, 3, got"),
        (lambda: random_partition(3, 0), ValueError, "num_clients must be"),
        (lambda: dirichlet_partition(LABELS, 10, concentration=0.0), ValueError, "concentration must be"),
        (lambda: dirichlet_partition(LABELS, 300, concentration=0.01), ValueError, "none of 100 draws did: raise it"),
        (lambda: dirichlet_partition(LABELS / 2, 3, concentration=1.0), TypeError, "labels must be one axis of whole"),
        (lambda: shard_partition(LABELS, 600), ValueError, "shards_per_client must leave every shard an example"),
        (lambda: shard_partition(LABELS, 3, shards_per_client=0), ValueError, "shards_per_client must be"),
    ],
)
def test_impossible_partitions_are_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_it_is_drawn_and_printed() -> None:
    partition = shard_partition(LABELS, 4)
    assert repr(partition) == "Partition of 1,000 examples: 4 clients with 250 to 250"
    (axes,) = partition.plot(LABELS).axes
    assert axes.get_ylabel() == "examples"
    assert sum(bar.get_height() for bar in axes.patches) == 1000
