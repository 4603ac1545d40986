"""Copies that differ between devices are named, with path, devices and values."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import lrx
from lrx.diagnostics.consistency import _compare, _Part

ROOT = pathlib.Path(__file__).parent.parent.parent


@dataclasses.dataclass
class Device:
    """A device as a disagreement names it."""

    id: int
    platform: str = "cpu"


@dataclasses.dataclass
class Shard:
    """A copy on a device."""

    device: Device
    data: Any


def compare(*copies, start=(0,)):
    return _compare("w", _Part(start, [Shard(Device(place), copy) for place, copy in enumerate(copies)]))


def test_the_copy_that_differs_from_most_others_is_named():
    usual, other = np.array([1.0, 2.0, 3.0], np.float32), np.array([1.0, 2.5, 2.0], np.float32)
    (found,) = compare(other, usual, usual, start=(6,))
    assert (found.path, found.place, found.devices) == ("w", (7,), ("cpu:1", "cpu:0"))
    assert (found.values, found.number, found.size, found.largest) == ((2.0, 2.5), 2, 3, 1.0)
    assert str(found) == "w[7]: 2.0 on cpu:1, 2.5 on cpu:0 (2 of 3 numbers differ, by at most 1)"
    assert compare(usual, usual) == []
    assert [each.devices[1] for each in compare(usual, other, usual, 2 * usual)] == ["cpu:1", "cpu:3"]


@pytest.mark.parametrize(
    ("one", "other", "values", "largest"),
    [
        (np.float32(0.0), np.float32(-0.0), (0.0, -0.0), 0.0),
        (np.float32(0.1), np.float32(np.nan), (0.1, np.nan), np.nan),
        (np.array(0.1, ml_dtypes.bfloat16), np.array(0.2, ml_dtypes.bfloat16), (0.10009766, 0.20019531), 0.1),
        (np.int32(3), np.int32(5), (3, 5), 2.0),
        (np.bool_(True), np.bool_(False), (True, False), 1.0),
        (np.complex64(1j), np.complex64(2), (1j, 2 + 0j), 5**0.5),
    ],
)
def test_scalars_of_every_type_are_compared_by_their_bits(one, other, values, largest):
    (found,) = compare(np.asarray(one), np.asarray(other), start=())
    assert found.place == ()
    np.testing.assert_allclose(found.values, values, rtol=1e-7)
    np.testing.assert_array_equal(np.signbit(np.real(found.values)), np.signbit(np.real(values)))
    np.testing.assert_allclose(found.largest, largest, rtol=1e-2)


def test_equal_nans_agree():
    assert compare(np.array([np.nan]), np.array([np.nan])) == []


def test_on_one_device_nothing_has_copies():
    state = lrx.adam(0.1).init({"w": jnp.ones(3)})
    found = lrx.check_consistency({"state": state, "note": "text", "key": jax.random.key(0)})
    assert found.consistent
    assert (found.replicated, found.arrays) == (0, len(jax.tree.leaves(state)) + 1)
    assert repr(found).startswith("Consistency(consistent: 0 of ")


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(TypeError, match=r"^state must hold JAX arrays, got a dict without any"):
        lrx.check_consistency({"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"^max_reported must be a whole number of disagreements >= 1"):
        lrx.check_consistency(jnp.ones(3), max_reported=0)
    with pytest.raises(TypeError, match=r"^state must hold arrays, got a traced one"):
        jax.jit(lambda x: lrx.check_consistency(x).arrays)(jnp.ones(3))


FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, lrx
from jax.sharding import NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((2, 2), ("data", "model"))

def put(spec, copies):
    sharding = NamedSharding(mesh, spec)
    arrays = [jax.device_put(copy, device) for copy, device in zip(copies, mesh.devices.ravel())]
    shape = sharding.shard_shape(np.shape(copies[0])) if spec == P() else (2 * len(copies[0]), *np.shape(copies[0])[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)

ones = np.ones((2, 3), np.float32)
off = ones.copy(); off[1, 2] = 1.5
good = {"whole": put(P(), [ones] * 4), "split": put(P("data"), [ones, ones, 2 * ones, 2 * ones])}
good["key"] = jax.device_put(jax.random.key(0), NamedSharding(mesh, P()))
good["alone"] = jnp.ones(3)
print(lrx.check_consistency(good))
bad = {"params": {"whole": put(P(), [ones, ones, off, ones]), "split": put(P("data"), [ones, ones, ones, off])}}
print(lrx.check_consistency({**good, **bad}))
print(len(lrx.check_consistency(bad, max_reported=1).disagreements))

# Without the sum over devices that data parallelism needs, each copy makes a step of its own.
@jax.jit
def step(x):
    def own(w, x):
        return w - 0.1 * jnp.mean(w - x)
    spec = P(("data", "model"))
    return jax.shard_map(own, mesh=mesh, in_specs=(P(), spec), out_specs=P(), check_vma=False)(jnp.float32(1), x)

x = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, P(("data", "model"))))
found = lrx.check_consistency({"w": step(x)})
print([(each.path, each.devices[1], each.values) for each in found.disagreements])
"""


@pytest.mark.slow
def test_copies_that_differ_between_devices_are_found():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Consistency(consistent: 3 of 4 arrays have copies)"
    assert lines[1:4] == [
        "Consistency(not consistent: 5 of 6 arrays have copies, those of 2 differ)",
        "  params/split[3, 2]: 1.0 on cpu:2, 1.5 on cpu:3 (1 of 6 numbers differ, by at most 0.5)",
        "  params/whole[1, 2]: 1.0 on cpu:0, 1.5 on cpu:2 (1 of 6 numbers differ, by at most 0.5)",
    ]
    assert lines[4] == "1"
    assert "('w', 'cpu:1', (0.9, 1.0))" in lines[5]
    assert lines[5].count("'w'") == 3
