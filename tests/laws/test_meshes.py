"""On a mesh of eight devices a state lies where its parameters lie, and results equal those of one device.

Four ways to use a mesh: parameters split over devices and the partitioner left alone, shardings that are part of the
types, compiled or not, and programs written for one device with `shard_map`.
"""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import STATES
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import assert_trees_close, gradient_stream, value_stream

import lrx

SPECS = {"split": P("data", "model"), "rows": P("data"), "copied": P()}
SHAPES = {(8, 4): P("data", "model"), (8,): P("data")}  # every leaf of such a shape is laid out so
PARAMS = {"split": (8, 4), "rows": (8,), "copied": (3,)}
STEPS = 3

AROUND = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), lrx.adamw(0.1)),
    "masked": lambda: optax.masked(lrx.adam(0.1), {"split": True, "rows": False, "copied": True}),
    "partition": lambda: optax.partition(
        {"a": lrx.adam(0.1), "b": lrx.dog()}, {"split": "a", "rows": "b", "copied": "a"}
    ),
    "group_rates of dog": lambda: lrx.group_rates(
        lrx.dog(), {"split": "a", "rows": "b", "copied": "a"}, {"a": 1.0, "b": 0.5}
    ),
    "accumulate": lambda: lrx.accumulate(lrx.adam(0.1 * lrx.reduce_on_plateau()), 2),
    "rollback of prodigy": lambda: lrx.rollback_on_divergence(lrx.prodigy(0.1)),
    "MultiSteps": lambda: optax.MultiSteps(lrx.schedule_free_adamw(0.1), 2).gradient_transformation(),
    "inject_hyperparams": lambda: optax.inject_hyperparams(lrx.adamw)(learning_rate=0.1),
}


def transformations() -> dict[str, Any]:
    made = {label: case() for label, case in STATES.items()}
    return made | {label: optax.with_extra_args_support(make()) for label, make in AROUND.items()}


def parameters() -> dict[str, jax.Array]:
    return {
        "split": jnp.arange(32, dtype=jnp.float32).reshape(8, 4) / 32,
        "rows": jnp.ones(8, jnp.bfloat16),
        "copied": jnp.asarray([0.5, -1.0, 2.0], jnp.float32),
    }


def laid_out(tree: Any, mesh: Mesh) -> Any:
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, SPECS)


def misplaced(tree: Any) -> Iterator[str]:
    """Name the leaves in a parameter's shape that lie elsewhere than the parameter."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if leaf.shape in SHAPES:
            where = leaf.sharding
            same = isinstance(where, NamedSharding) and where.is_equivalent_to(
                NamedSharding(where.mesh, SHAPES[leaf.shape]), leaf.ndim
            )
            if not same:
                yield f"{jax.tree_util.keystr(path)} lies on {where}"


def looks_at_coordinates(tx: Any) -> bool:
    """Return whether a state keeps a number for each coordinate."""
    state = jax.eval_shape(tx.init, parameters())
    return any(leaf.shape in SHAPES for leaf in jax.tree.leaves(state))


# A statistic of all coordinates is a reduction, which a mesh could get wrong.
FIRST = {case.make: label for label, case in reversed(STATES.items())}.values()
COUPLED = [label for label, case in STATES.items() if case.coupled]


def using_coordinates() -> list[str]:
    """Name what computes such a statistic, and the first case of each factory whose state has coordinates."""
    elementwise = [label for label, tx in transformations().items() if looks_at_coordinates(tx)]
    return [*COUPLED, *(label for label in elementwise if label not in COUPLED and label in {*FIRST, *AROUND})]


def run(labels: list[str], params: Any, gradients: Any, values: jax.Array) -> Any:
    """Run transformations in one program, since compiling is what takes the time."""
    made = transformations()
    txs = {label: made[label] for label in labels}

    def step(states: Any, seen: Any) -> Any:
        of_step, value = seen
        pairs = {label: tx.update(of_step, states[label], params, value=value) for label, tx in txs.items()}
        return {label: state for label, (_, state) in pairs.items()}, {label: row for label, (row, _) in pairs.items()}

    first = {label: tx.init(params) for label, tx in txs.items()}
    last, updates = jax.lax.scan(step, first, (gradients, values))
    return first, last, updates


def first_step(tx: Any, params: Any, stream: list[Any]) -> Any:
    """Return the first state, and what one update makes of it."""
    state = tx.init(params)
    return state, *tx.update(stream[0], state, params, value=1.0)


def check() -> None:
    """Compare the mesh with one device in a process that has eight, and print what differs."""
    assert len(jax.devices("cpu")) == 8
    params, stream = parameters(), gradient_stream(parameters(), STEPS)
    values = jnp.asarray(value_stream(STEPS))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stream)
    all_run = functools.partial(run, using_coordinates())
    alone = jax.jit(all_run)(params, stacked, values)

    # Shardings that the partitioner follows, as with parameters split over devices (FSDP) and tensor parallelism.
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    steps = {name: NamedSharding(mesh, P(None, *spec)) for name, spec in SPECS.items()}
    split = jax.jit(all_run)(laid_out(params, mesh), jax.device_put(stacked, steps), values)
    assert_trees_close(split, alone, rtol=1e-5, atol=1e-6)
    # What MultiSteps starts with in a compiled init is optax's own affair.
    faults = [f"compiled: {fault}" for fault in misplaced(split) if "MultiSteps'].acc_grads" not in fault]
    for label, tx in transformations().items():
        faults += [f"init: {label} {fault}" for fault in misplaced(tx.init(laid_out(params, mesh)))]

    # The same program on every device, with gradients of its own share of the batch.
    def on_each(labels: list[str], params: Any, shares: Any, values: jax.Array) -> Any:
        return run(labels, params, jax.lax.pmean(jax.tree.map(lambda leaf: leaf[0], shares), ("data", "model")), values)

    def mapped(labels: list[str]) -> Any:
        function = functools.partial(on_each, labels)
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), every, P()), out_specs=P()))

    # Half of the devices have twice the gradient and half have none, whose mean is the gradient to the last bit.
    twice = jnp.asarray([2, 0] * 4)
    shares = jax.tree.map(lambda leaf: jnp.multiply.outer(twice.astype(leaf.dtype), leaf), stacked)
    every = P(("data", "model"))
    # What is the same on every device is so by the types of all; numbers show it where coordinates meet.
    jax.eval_shape(mapped(using_coordinates()), params, shares, values)
    labels = [label for label in COUPLED if label in FIRST]
    coupled = mapped(labels)(params, shares, values)
    expected = tuple({label: part[label] for label in labels} for part in alone)
    assert_trees_close(coupled, expected, rtol=1e-5, atol=1e-6)

    # Shardings in the types: tracing alone shows them, and a step that loses one is refused by JAX.
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit, AxisType.Explicit))
    with jax.set_mesh(mesh):
        params, stream = laid_out(params, mesh), [laid_out(of_step, mesh) for of_step in stream]
        for label, tx in transformations().items():
            step = functools.partial(first_step, tx)
            faults += [f"typed: {label} {fault}" for fault in misplaced(jax.eval_shape(step, params, stream))]
            try:  # operation by operation, each of which is compiled for these shardings
                eager = step(params, stream) if label in AROUND else tx.init(params)
                faults += [f"eager: {label} {fault}" for fault in misplaced(eager)]
            except TypeError as error:
                faults.append(f"eager: {label} {error}")
            if label == "inject_hyperparams":
                continue  # optax looks at the numbers of the parameters there
            planned = tx.init(
                jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), params)
            )
            faults += [f"abstract: {label} {fault}" for fault in misplaced(planned)]
    print("\n".join(faults) or f"all of {len(transformations())} as on one device")


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one_and_states_lie_where_their_parameters_do():
    # A process of its own: with eight devices in this one, the training loop would split every batch of its tests.
    tests = pathlib.Path(__file__).parent
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), *sys.path]),
    }
    command = [sys.executable, "-c", "import test_meshes; test_meshes.check()"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == f"all of {len(transformations())} as on one device"
