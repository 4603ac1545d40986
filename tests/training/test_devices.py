"""Several devices give the same run."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest
from training.linear import LINEAR, start

TWO_DEVICES = (
    LINEAR
    + """
import sys
assert jax.device_count() == int(sys.argv[2])
for batch_size in (8, 5):
    history = train(linear(batch_size), lrx.adam(0.1), epochs=3, checkpoint=f"{sys.argv[1]}/run{batch_size}")
    assert history.params["w"].devices() == {jax.devices()[0]}
    np.savez(f"{sys.argv[1]}/{batch_size}", loss=history.loss, w=history.params["w"], **history.evaluations)
jaxpr = jax.jit(lambda: 0)
from lrx.training.placement import batch_devices
print([len(batch_devices(linear(b).batches)) for b in (8, 5)])
with jax.default_device(jax.devices()[-1]):
    print(batch_devices(linear(8).batches))

# Data are used where they were put.
import dataclasses
plain, last = linear(8), jax.devices()[-1]
moved = dataclasses.replace(plain.batches, arrays=jax.device_put(plain.batches.arrays, last))
there = dataclasses.replace(plain, batches=moved)
history = train(there, lrx.adam(0.1), epochs=3)
assert history.params["w"].devices() == {last}, history.params["w"].devices()
swept = lrx.sweep(there, lrx.adam, {"learning_rate": [0.1, 0.2]}, num_steps=7)
np.savez(f"{sys.argv[1]}/moved", loss=history.loss, swept=swept.losses, **history.evaluations)
if jax.device_count() == 2:
    x, y = plain.batches.arrays
    put = jax.device_put(y, last), jax.device_put(y, jax.devices()[0])
    apart = dataclasses.replace(plain.batches, arrays=(x, *put))
    try:
        train(dataclasses.replace(plain, batches=apart), lrx.adam(0.1), epochs=1)
    except ValueError as error:
        print(error)
"""
)


@pytest.mark.slow
def test_several_devices_give_the_same_run(tmp_path, monkeypatch):
    for devices in ("1", "2"):
        (tmp_path / devices).mkdir()
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    process = start(TWO_DEVICES, str(tmp_path / "2"), "2", XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "1"), "1"])
    exec(TWO_DEVICES, {})  # this process has one device
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "[2, 1]" in out  # an odd batch is not split
    assert "(CpuDevice(id=1),)" in out  # the default device, where one is set, is used alone
    assert re.search(r"arrays must be on the same devices, got arrays\[1\] on .*1 and arrays\[2\] on .*0: put", out)
    results = {
        devices: {size: np.load(tmp_path / devices / f"{size}.npz") for size in (8, 5, "moved")} for devices in "12"
    }
    for name in ("loss", "swept", "norm"):
        np.testing.assert_array_equal(results["2"]["moved"][name], results["1"]["moved"][name], err_msg=name)
    for size in (8, 5):
        for name in ("loss", "w", "norm"):
            # The mean over a batch is summed in another order.
            np.testing.assert_allclose(results["2"][size][name], results["1"][size][name], rtol=2e-5, err_msg=name)


MESHES = (
    LINEAR
    + """
import dataclasses
from jax.sharding import Mesh
one, four = (Mesh(jax.devices()[:n], ("runs",)) for n in (1, 4))
rates = {"learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0, 1e9]}
for strategy in ("vmap", "map"):
    found = [
        lrx.sweep(linear(), lrx.sgd, rates, num_steps=9, seeds=2, execution=lrx.tuning.Execution(strategy, mesh=mesh))
        for mesh in (one, four, None)  # without a mesh over all devices
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other.losses, found[0].losses, rtol=1e-5)
        np.testing.assert_allclose(other.final_loss, found[0].final_loss, rtol=1e-5)
    assert np.isinf(found[0].final_loss).tolist() == [[False] * 2] * 5 + [[True] * 2]
    print(strategy, *(each.chunk_size for each in found))
for seeds in (4, 3):
    tests = [lrx.range_test(linear(), lrx.sgd, num_steps=20, seeds=seeds, mesh=mesh) for mesh in (one, four)]
    assert [test.suggestion for test in tests][0] == [test.suggestion for test in tests][1]
    np.testing.assert_allclose(tests[1].losses, tests[0].losses, rtol=1e-5)
    print(seeds)
# A selection goes on where a run has come to, one at a time, on one of the devices that the data were put on.
whole = linear()
arrays = jax.device_put(whole.batches.arrays, jax.NamedSharding(four, jax.P()))
there = dataclasses.replace(whole, batches=lrx.Batches(arrays, 8, jitter))
few = {name: lrx.tuning.PORTFOLIO[name] for name in ("adamw, warmup-stable-decay", "cocob")}
chosen = [lrx.select(each, num_steps=140, budget=2.0, portfolio=few) for each in (whole, there)]
assert [each.code for each in chosen][0] == [each.code for each in chosen][1]
test, other = (next(iter(each.range_tests.values())) for each in chosen)
np.testing.assert_allclose(test.gains, other.gains, rtol=1e-5)
print("selected")
"""
)


@pytest.mark.slow
def test_runs_side_by_side_are_spread_over_the_devices_of_a_mesh():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    out, errors = start(MESHES, XLA_FLAGS=flags, JAX_PLATFORMS="cpu").communicate(timeout=600)
    assert errors == ""
    rows = [line.split() for line in out.splitlines()]
    assert rows == [["vmap", "6", "8", "8"], ["map", "6", "8", "8"], ["4"], ["3"], ["selected"]]
