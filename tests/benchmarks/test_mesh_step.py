"""The costs of the step on a mesh are read from the compiled program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from training.meshes import require_success, start_on

from lrx.benchmarks.mesh_step import cost_of


def test_operations_are_counted_as_xla_does():
    cost = cost_of(jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64))).compile())
    assert cost.flops == pytest.approx(2 * 64**3, rel=0.01)
    assert (cost.collectives, cost.collective_bytes) == (0, 0)


TWO_DEVICES = """
import jax
from lrx.benchmarks.mesh_step import measure
for way, costs in measure("mlp", 8, jax.devices()).items():
    print(way, *costs["lrx"][2:], *costs["by hand"][2:])
"""


@pytest.mark.slow
def test_lrx_sums_over_devices_what_a_step_written_by_hand_does():
    rows = [line.split() for line in require_success(start_on(2, TWO_DEVICES)).splitlines()]
    assert [row[0] for row in rows] == ["copied", "fsdp"]
    for _, number, moved, by_hand, moved_by_hand in rows:
        assert (number, moved) == (by_hand, moved_by_hand)
        assert int(number) > 0
