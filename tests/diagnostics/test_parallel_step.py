"""What a data-parallel step does wrong is named: copies, data, gradients, the rate; at a small cost."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from training.meshes import require_success, start_on, start_processes

from lrx.diagnostics import ParallelCheck, check_parallel_step

DEVICES = 4


def check(**planted) -> ParallelCheck:
    """Return what four devices without a fault would report, except for what is planted."""
    well = {
        "made": True,
        "prints": np.full((DEVICES, 2), 7, np.uint32),
        "numbers": np.full((DEVICES, 2), 0.5, np.float32),
        "batch_prints": np.arange(DEVICES, dtype=np.uint32)[:, None],
        "projections": np.stack([np.float32([1, 2, 3, 6]), np.full(DEVICES, 3, np.float32)], axis=1),
        "rates": np.full((DEVICES, 2), 0.4, np.float32),
        "paths": ("w", "rate"),
        "axis": "data",
        "batch_sizes": (128, 32),
    }
    return ParallelCheck(**{**well, **planted})


def test_what_is_well_is_said_in_a_line():
    assert repr(check()) == "ParallelCheck(consistent: 2 arrays on 4 devices)"
    assert repr(check(made=False, rates=np.zeros((DEVICES, 2)))) == "ParallelCheck(not made at this step)"


def test_each_fault_is_named_with_both_values():
    prints, numbers = check().prints.copy(), check().numbers.copy()
    prints[2, 1], numbers[2, 1] = 9, 0.25
    own = check().projections[:, 0]
    planted = {
        "rate: 0.5 on device 0 of axis 'data', 0.25 on device 2 (fingerprints 00000007 and 00000009; 1 of 4 devices": {
            "prints": prints,
            "numbers": numbers,
        },
        "batch: devices 1, 3 of axis 'data' have the same examples": {"batch_prints": np.uint32([[0], [1], [2], [1]])},
        "gradients: summed over the 4 devices of axis 'data', not averaged (projection 12, mean 3)": {
            "projections": np.stack([own, np.full(DEVICES, 12, np.float32)], axis=1)
        },
        "gradients: each device of axis 'data' applies its own (projection 6 on device 3, mean 3)": {
            "projections": np.stack([own, own], axis=1)
        },
        "gradients: not the mean over axis 'data' (projection 5 on device 0, mean 3)": {
            "projections": np.stack([own, np.full(DEVICES, 5, np.float32)], axis=1)
        },
        "rate: 0.1 at a global batch of 128 examples, expected 0.4": {
            "rates": np.tile(np.float32([0.1, 0.4]), (DEVICES, 1))
        },
    }
    for text, fault in planted.items():
        (found,) = check(**fault).findings()
        assert found.startswith(text), found


def test_arguments_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"^count must be given with every=100: pass"):
        check_parallel_step({}, "data", every=100)
    with pytest.raises(ValueError, match=r"^rate needs batch and base_batch_size"):
        check_parallel_step({}, "data", rate=(0.1, 0.1))
    with pytest.raises(ValueError, match=r"^rule must be one of"):
        check_parallel_step({}, "data", rule="cubic")


def test_fingerprints_tell_single_bits_apart_in_every_type():
    mesh = Mesh(jax.devices()[:1], ("data",))

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=P(), out_specs=P())
    def prints(tree):
        return check_parallel_step(tree, "data").prints

    state = {
        "float": np.ones((3, 2), np.float32),
        "half": jnp.ones(3, jnp.bfloat16),
        "byte": np.ones(3, np.uint8),
        "flag": np.ones(3, bool),
        "complex": np.ones(3, np.complex64),
        "count": np.int32(5),
        "none": np.zeros((0, 3), np.float32),
    }
    before = prints({**state, "key": jax.random.key(0)})
    other = {name: np.array(leaf) for name, leaf in state.items()}
    for name in ("float", "half", "byte", "flag", "complex"):
        other[name].reshape(-1)[1] = 0
    after = prints({**other, "count": np.int32(6), "key": jax.random.key(1)})
    assert (np.asarray(before != after)[0]).tolist() == [name != "none" for name in sorted([*state, "key"])]


FOUR_DEVICES = """
import functools, re, jax, jax.numpy as jnp, numpy as np, lrx, optax
from jax.sharding import Mesh, PartitionSpec as P
from lrx.diagnostics import check_parallel_step

mesh = Mesh(jax.devices(), ("data",))
tx = lrx.adam(lrx.constant(0.04))
params = {"w": jnp.ones((64, 64)), "b": jnp.zeros(64)}
x = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)

def loss_fn(params, x):
    return jnp.mean((jnp.tanh(x @ params["w"] + params["b"][None]) - x) ** 2)

def step(params, state, x, count, fault="", every=0):
    loss, own = jax.value_and_grad(loss_fn)(params, x)
    reduce = {"summed": jax.lax.psum, "own": lambda tree, axis: tree}.get(fault, jax.lax.pmean)
    grads = reduce(own, "data")
    updates, state = tx.update(grads, state, params, value=jax.lax.pmean(loss, "data"))
    params = optax.apply_updates(params, updates)
    if fault == "drift":
        here = jax.lax.axis_index("data") == 2
        params = {**params, "w": jnp.where(here, params["w"].at[3, 4].add(1e-6), params["w"])}
        state = lrx.scale_learning_rate(state, jnp.where(here, 0.5, 1.0))
    if not every:
        return params, state
    order = jax.random.permutation(jax.random.key(jax.lax.axis_index("data") if fault == "order" else 0), 128)
    rates = lrx.learning_rate(state), 0.04 if fault == "unscaled" else 0.0025  # the base rate is for 32 examples
    check = check_parallel_step(
        {"params": params, "state": state, "order": order}, "data", batch=x, gradients=(own, grads),
        rate=rates, base_batch_size=32, count=count, every=every,
    )
    return params, state, check

def compiled(fault="", every=0, copies=P()):
    specs = P(), P(), P() if fault == "same" else P("data"), P()
    out = (P(), P(), P()) if every else (P(), P())
    mapped = jax.shard_map(
        functools.partial(step, fault=fault, every=every), mesh=mesh, in_specs=specs, out_specs=out, check_vma=False
    )
    return jax.jit(mapped).lower(params, tx.init(params), x, jnp.int32(0)).compile()

for fault in ("", "drift", "summed", "own", "same", "order", "unscaled"):
    _, _, check = compiled(fault, 1)(params, tx.init(params), x, jnp.int32(0))
    print(f"{fault}| {check!r}".replace("\\n", ";"))
rare = compiled("", 100)
print([rare(params, tx.init(params), x, jnp.int32(count))[2].made.item() for count in (0, 1, 100)])

def cost(program):
    text = program.as_text()
    sums = re.findall(r"= (.*?) all-reduce(?:-start)?\\(", text)
    shapes = [shape.split(",") for line in sums for shape in re.findall(r"[a-z]\\d+\\[([\\d,]*)\\]", line)]
    moved = sum(4 * int(np.prod([int(n) for n in shape if n])) for shape in shapes)
    found = program.cost_analysis()
    return np.array([found["flops"], found["bytes accessed"], moved])

without, always = cost(compiled()), cost(compiled("", 1))
print("cost", *((always - without) / 100 / without).tolist())
print("counts", *without.tolist(), *always.tolist())
"""


@pytest.mark.slow
def test_planted_faults_are_found_in_a_compiled_step_at_less_than_a_hundredth_of_its_cost():
    lines = require_success(start_on(DEVICES, FOUR_DEVICES)).splitlines()
    found = dict(line.split("| ", 1) for line in lines if "| " in line)
    assert found[""].startswith("ParallelCheck(consistent: ")
    assert "params/w: " in found["drift"]
    assert re.search(r"state/\S*scale: 1.0 on device 0 of axis 'data', 0.5 on device 2", found["drift"])
    assert "gradients: summed over the 4 devices" in found["summed"]
    assert "gradients: each device of axis 'data' applies its own" in found["own"]
    assert "batch: devices 0, 1, 2, 3 of axis 'data' have the same examples" in found["same"]
    assert re.search(r";\s+order: ", found["order"])
    assert "rate: 0.04 at a global batch of 512 examples, expected 0.64" in found["unscaled"]
    assert "[True, False, True]" in lines
    share = [float(text) for line in lines if line.startswith("cost") for text in line.split()[1:]]
    assert len(share) == 3  # FLOPs, bytes of memory, bytes of collectives
    assert max(share) < 0.01, lines


TWO_PROCESSES = """
import jax, jax.numpy as jnp, numpy as np, lrx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(jax.devices(), ("data",))
mine = jax.process_index()
def put(values, spec=P()):
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
good = {"w": put(np.ones((8, 2), np.float32)), "split": put(np.arange(8.0, dtype=np.float32), P("data"))}
print(lrx.check_consistency({**good, "order": jnp.arange(6)}))
w = np.ones((8, 2), np.float32)
w[3, 1] += mine
bad = {"params": {"w": put(w)}, "rate": put(np.float32(0.1 * (1 + mine))), "count": jnp.int32(5 + mine)}
print(lrx.check_consistency({**good, **bad, "order": jax.random.permutation(jax.random.key(mine), 6)}))
"""


@pytest.mark.slow
def test_processes_whose_copies_differ_are_named():
    processes = start_processes(2, 2, TWO_PROCESSES)
    one, other = (require_success(process) for process in processes)
    lines = [line for line in one.splitlines() if "Gloo" not in line]
    assert lines == [line for line in other.splitlines() if "Gloo" not in line]
    assert lines[0] == "Consistency(consistent: 1 of 3 arrays have copies)"
    text = "\n".join(lines[1:])
    assert "count: 5 on process:0, 6 on process:1 (1 of 1 numbers differ, by at most 1)" in text
    assert "params/w[3, 1]: 1.0 on process:0, 2.0 on process:1 (1 of 16 numbers differ, by at most 1)" in text
    assert "rate: 0.1 on process:0, 0.2 on process:1" in text
    assert re.search(r"order\[\d\]: \d on process:0, \d on process:1", text)
    assert "those of 4 differ" in text
