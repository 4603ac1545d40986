"""Several devices give the same run."""

from __future__ import annotations

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
"""
)


@pytest.mark.slow
def test_several_devices_give_the_same_run(tmp_path):
    results = {}
    for devices in ("1", "2"):
        folder = tmp_path / devices
        folder.mkdir()
        flags = f"--xla_force_host_platform_device_count={devices}"
        process = start(TWO_DEVICES, str(folder), devices, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        results[devices] = {size: np.load(folder / f"{size}.npz") for size in (8, 5)}
        if devices == "2":
            assert "[2, 1]" in out  # an odd batch is not split
            assert "(CpuDevice(id=1),)" in out  # the default device, where one is set, is used alone
    for size in (8, 5):
        for name in ("loss", "w", "norm"):
            # The mean over a batch is summed in another order.
            np.testing.assert_allclose(results["2"][size][name], results["1"][size][name], rtol=2e-5, err_msg=name)
