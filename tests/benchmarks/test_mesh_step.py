"""The costs of the step on a mesh are read from the compiled program, and both programs make the same steps."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.meshes import require_success, start_on

from lrx.benchmarks.mesh_step import Cost, choose_steps, cost_of, print_costs, print_times, time_both
from lrx.training.program import SEGMENT_STEPS


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
    assert calls == [2] * 2 * (1 + 2 * 3 + 1)  # the last shows that the losses are finite


def test_times_sum_both_orders(monkeypatch):
    last = []

    def seconds_of(advance, steps):
        """Take a second a step, and three if the other program ran before."""
        again, last[:] = last == [advance], [advance]
        return steps * (1.0 if again else 3.0)

    def advance(steps: int):
        return (), jnp.ones(steps)

    monkeypatch.setattr("lrx.benchmarks.mesh_step.seconds_of", seconds_of)
    times = time_both({"lrx": advance, "by hand": lambda steps: advance(steps)}, rounds=4, steps=5)
    assert {name: each.tolist() for name, each in times.items()} == {"lrx": [2.0] * 4, "by hand": [2.0] * 4}


@pytest.mark.parametrize(
    ("overhead", "seconds", "least", "most"),
    [(0.0, 1e-3, 490, 510), (0.02, 1e-3, 400, 500), (0.0, 2.0, 1, 1), (0.0, 1e-7, SEGMENT_STEPS, SEGMENT_STEPS)],
)
def test_a_call_of_the_slowest_takes_half_a_second(monkeypatch, overhead, seconds, least, most):
    monkeypatch.setattr("lrx.benchmarks.mesh_step.seconds_of", lambda advance, steps: advance(steps))
    slow, fast = (lambda steps, scale=scale: scale * (overhead + seconds * steps) for scale in (1.0, 0.5))
    for started in ({"lrx": slow, "by hand": fast}, {"lrx": fast, "by hand": slow}):
        assert least <= choose_steps(started) <= most


def test_every_ratio_of_costs_has_a_name(capsys):
    print_costs({"lrx": Cost(2210.0, 1308.0, 3, 40), "by hand": Cost(2000.0, 1000.0, 3, 0)})
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  lrx to by hand: FLOP x1.105, bytes x1.308,",
        "    collectives x1, bytes of collectives xinf",
    ]


def test_the_printed_ratio_is_the_median_of_rounds(capsys):
    by_hand = np.array([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])
    print_times({"lrx": np.array([1.1, 1.2, 1.2, 4.8, 4.8, 5.2]), "by hand": by_hand})
    assert capsys.readouterr().out.splitlines() == [
        "  median time of a step: lrx 3000.000 ms, by hand 2500.000 ms",
        "  ratio: median of rounds 1.200, quartiles 1.200 to 1.200,",
        "    95 % interval of the median 1.100 to 1.300",
    ]


def test_interval_of_too_few_rounds_says_how_many_it_needs(capsys):
    print_times({"lrx": np.ones(5), "by hand": np.ones(5)})
    printed = capsys.readouterr().out
    assert printed.endswith("    the interval needs 6 rounds\n")
    assert "nan" not in printed


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
    row = (
        r"ratio: median of rounds ([\d.]+), quartiles ([\d.]+) to ([\d.]+),\n"
        r" +95 % interval of the median ([\d.]+) to ([\d.]+)"
    )
    found = [[float(x) for x in numbers] for numbers in re.findall(row, printed)]
    assert len(found) == 2
    for median, first, third, low, high in found:
        assert low <= first <= median <= third <= high
    assert printed.count("ratio:") == printed.count("steps of a call: 1\n") == 2
    assert max(map(len, printed.splitlines())) <= 80
