"""Runs of several processes: the numbers of one device, and checkpoints that any number of them can go on from."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from training.meshes import (
    NETWORK,
    UNSTORED,
    assert_same_run,
    kill_and_restart,
    require_all_acted,
    require_success,
    start_on,
    start_processes,
)

TRAIN = (
    NETWORK
    + """
folder = sys.argv[1]
mesh = jax.make_mesh((jax.device_count(),), ("data",))

def run(name, **options):
    history = train(network(), controlled(), steps=80, evaluate_every=20, mesh=mesh, **options)
    if jax.process_index() == 0:
        np.savez(f"{folder}/{name}", **arrays(history))
    return history
"""
)
TWO_PROCESSES = (
    TRAIN
    + """
run("data")
run("two", param_sharding="fsdp", checkpoint=f"{folder}/run", keep=[30])
"""
)
ONE_PROCESS = (
    TRAIN
    + """
run("one", param_sharding="fsdp", checkpoint=f"{folder}/copy", resume_from=30)
"""
)


@pytest.mark.slow
def test_two_processes_give_the_run_of_one_device_and_their_checkpoints_fit_any_devices(tmp_path):
    for process in start_processes(2, 4, TWO_PROCESSES, str(tmp_path)):
        require_success(process)
    # From 8 devices to 2, and to one without a mesh.
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    require_success(start_on(2, ONE_PROCESS, str(tmp_path)))
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    network, controlled, train = (namespace[name] for name in ("network", "controlled", "train"))
    one = namespace["arrays"](train(network(), controlled(), steps=80, evaluate_every=20))
    require_all_acted(one)
    for name in ("data", "two", "one"):
        assert_same_run(dict(np.load(tmp_path / f"{name}.npz")), one, name)
    alone = train(network(), controlled(), steps=80, evaluate_every=20, checkpoint=tmp_path / "run", resume_from=30)
    assert alone.resumed_at == 30
    assert_same_run(namespace["arrays"](alone), one, "without a mesh")


@pytest.mark.slow
def test_runs_of_which_a_process_is_killed_go_on_bit_for_bit_from_the_newest_whole_checkpoint(tmp_path):
    for process in start_processes(2, 2, UNSTORED, str(tmp_path / "whole.npz"), "120"):
        require_success(process)
    for newest, resumed in kill_and_restart(tmp_path, moments=1, steps=120, seed=0):
        assert 0 < newest == resumed
    whole, restarted = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("whole", "restarted"))
    assert whole.keys() == restarted.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(restarted[name], values, err_msg=name)
