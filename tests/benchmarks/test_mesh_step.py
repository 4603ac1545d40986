"""The costs of the step on a mesh are read from the compiled program, and both programs make the same steps."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.meshes import require_success, start_on

from lrx.benchmarks.mesh_step import cost_of, time_both


def test_operations_are_counted_as_xla_does():
    cost = cost_of(jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64))).compile())
    assert cost.flops == pytest.approx(2 * 64**3, rel=0.01)
    assert (cost.collectives, cost.collective_bytes) == (0, 0)


def test_times_are_of_one_step_and_without_the_warm_up():
    calls = []

    def advance(steps: int):
        calls.append(steps)
        return (), jnp.ones(8)

    times = time_both({"lrx": advance, "by hand": advance}, rounds=3, steps=2)
    assert {name: each.shape for name, each in times.items()} == {"lrx": (3,), "by hand": (3,)}
    assert calls == [2] * 2 * (1 + 3 + 1)  # the last shows that the losses are finite


def test_times_of_a_run_that_diverged_are_refused():
    with pytest.raises(FloatingPointError, match="losses of by hand must be finite"):
        time_both({"lrx": lambda _: ((), np.ones(4)), "by hand": lambda _: ((), np.full(4, np.nan))}, 1, 2)


BOTH = """
import jax, numpy as np
from lrx.benchmarks.mesh_step import BY_HAND, OURS, WAYS, compile_both, cost_of, random_workload, start_both
from lrx.training.layout import layout_of

workload, mesh = random_workload("mlp", 8), jax.make_mesh((jax.device_count(),), ("data",))
for way, split in WAYS.items():
    layout = layout_of(workload, mesh, split)
    compiled = compile_both(workload, layout)
    costs = {name: cost_of(program) for name, program in compiled.items()}
    print(way, *costs[OURS][2:], *costs[BY_HAND][2:])
    started = start_both(compiled, workload, layout)
    for steps in (1, 3):  # an epoch: later ones have permutations of their own in lrx alone
        found = {name: advance(steps) for name, advance in started.items()}
        ours, by_hand = ((losses[:steps], params) for params, losses in found.values())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, by_hand)
        assert len(set(map(float, ours[0]))) == steps and min(ours[0]) > 0
        assert jax.tree.map(lambda x: x.sharding, ours[1]) == jax.tree.map(lambda x: x.sharding, by_hand[1])
"""


@pytest.mark.slow
def test_lrx_sums_over_devices_and_computes_what_a_step_written_by_hand_does():
    rows = [line.split() for line in require_success(start_on(2, BOTH)).splitlines()]
    assert [row[0] for row in rows] == ["copied", "fsdp"]
    for _, number, moved, by_hand, moved_by_hand in rows:
        assert (number, moved) == (by_hand, moved_by_hand)
        assert int(number) > 0


COMMAND = """
from lrx.benchmarks.mesh_step import main
main("mlp", 8, rounds=6, steps=1)
"""


@pytest.mark.slow
def test_ratio_of_the_times_is_printed_with_its_interval():
    printed = require_success(start_on(2, COMMAND))
    row = r"ratio +([\d.]+) \(([\d.]+) to ([\d.]+)\) by round, 95 % interval of the median ([\d.]+) to ([\d.]+)"
    found = [[float(x) for x in numbers] for numbers in re.findall(row, printed)]
    assert len(found) == 2
    for median, first, third, low, high in found:
        assert low <= first <= median <= third <= high
    assert printed.count("ms/step") == 4
