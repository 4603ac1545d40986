"""Runs of several processes: the numbers of one device, and checkpoints that any number of them can go on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.meshes import (
    ENDLESS,
    NETWORK,
    assert_same_run,
    kill_and_restart,
    require_all_acted,
    require_success,
    start_on,
    start_processes,
)

TRAIN = (
    ENDLESS
    + """
folder = sys.argv[1]

def compared(name, **options):
    history = train(network(), controlled(), steps=80, evaluate_every=20, mesh=mesh, **options)
    if jax.process_index() == 0:
        np.savez(f"{folder}/{name}", **arrays(history))
"""
)
TWO_PROCESSES = (
    TRAIN
    + """
compared("two", param_sharding="fsdp", checkpoint=f"{folder}/run", keep=[30])
keep(run(None, int(sys.argv[2])), f"{folder}/whole.npz")
keep(on_records(mesh=mesh, checkpoint=f"{folder}/records", keep=[30]), f"{folder}/read.npz")
crossed = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2).T, ("data", "model"))

def refused(**options):
    try:
        on_records(**options)
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0], flush=True)

refused(mesh=crossed)
refused(mesh=mesh, torn_on=1)
"""
)
ONE_PROCESS = (
    TRAIN
    + """
compared("one", param_sharding="fsdp", checkpoint=f"{folder}/copy", resume_from=30)
"""
)
STEPS = 64  # of the run of which a process is killed


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> Path:
    """Return the folder with what two processes of two devices each have made."""
    folder = tmp_path_factory.mktemp("two")
    told = [require_success(each) for each in start_processes(2, 2, TWO_PROCESSES, str(folder), str(STEPS))]
    (folder / "told.txt").write_text("\n--\n".join(told))
    return folder


@pytest.mark.slow
def test_two_processes_give_the_run_of_one_device_and_their_checkpoints_fit_any_devices(of_two):
    # From 4 devices to 2, and to one without a mesh.
    shutil.copytree(of_two / "run", of_two / "copy")
    require_success(start_on(2, ONE_PROCESS, str(of_two)))
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    network, controlled, train = (namespace[name] for name in ("network", "controlled", "train"))
    one = namespace["arrays"](train(network(), controlled(), steps=80, evaluate_every=20))
    require_all_acted(one)
    for name in ("two", "one"):
        assert_same_run(dict(np.load(of_two / f"{name}.npz")), one, name)
    alone = train(network(), controlled(), steps=80, evaluate_every=20, checkpoint=of_two / "run", resume_from=30)
    assert alone.resumed_at == 30
    assert_same_run(namespace["arrays"](alone), one, "without a mesh")


@pytest.mark.slow
def test_two_processes_read_their_shares_of_the_minibatches_of_one(of_two):
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    on_records, arrays = namespace["on_records"], namespace["arrays"]
    one = arrays(on_records())
    assert len(one["loss"]) == 80
    read = dict(np.load(of_two / "read.npz"))
    assert_same_run({name: read[name] for name in one}, one, "two processes")
    # The batch size has grown by then, and the epoch is not at its end.
    alone = on_records(checkpoint=of_two / "records", resume_from=30)
    assert alone.resumed_at == 30
    assert_same_run(arrays(alone), one, "one process from there")
    first, second = (of_two / "told.txt").read_text().split("--")
    for told in (first, second):
        assert "ValueError mesh must have rows along its first axis that belong to one process each" in told
        assert "got rows of the processes [[0, 1], [0, 1]]: make it by jax.make_mesh((jax.device_count(),)" in told
    assert "RuntimeError process 1 could not read the next minibatches, and the run ends" in first
    assert "OSError" in second


@pytest.mark.slow
def test_runs_of_which_a_process_is_killed_go_on_bit_for_bit_from_the_newest_whole_checkpoint(of_two, tmp_path):
    for newest, resumed in kill_and_restart(tmp_path, moments=1, steps=STEPS, seed=0):
        assert 0 < newest == resumed
    whole, restarted = (dict(np.load(path)) for path in (of_two / "whole.npz", tmp_path / "restarted.npz"))
    assert whole.keys() == restarted.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(restarted[name], values, err_msg=name)
