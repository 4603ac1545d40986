"""The loops that `lrx.federated.simulate` is timed beside make the same rounds."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import lrx
from lrx.benchmarks import federated_loop
from lrx.federated import Partition, simulate
from lrx.training.sampling import keys_of
from lrx.workloads import make_workload


@pytest.mark.slow
@pytest.mark.parametrize("lean", [False, True])
def test_loops_train_the_same_network_as_simulate(lean: bool) -> None:
    workload = make_workload("digits", "mlp", batch_size=10, widths=(8,))
    # Their sizes divide the batch, so a step uses all examples of a client equally, in whatever order.
    partition = Partition([np.arange(10), np.arange(10, 15), np.arange(15, 17)])
    found = federated_loop.python_loop(workload, partition, 4, lean=lean)()
    expected = simulate(workload, partition, num_rounds=4, client=lrx.sgd(federated_loop.RATE), server=lrx.sgd(1.0))
    initial, _ = workload.init(keys_of(0).init)
    for ours, theirs, before in zip(*map(jax.tree.leaves, (found, expected.params, initial)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(ours - before).max() > 1e-3
