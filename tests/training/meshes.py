"""The run that tests of meshes repeat: a small network whose controllers all act."""

from __future__ import annotations

import functools
import os
import random
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from training.linear import start

# The same source makes the workload in every process.
NETWORK = """
import sys, jax, jax.numpy as jnp, numpy as np, lrx, optax
from jax.sharding import Mesh, PartitionSpec as P
from lrx.training import Batches, Workload, train

def network(batch_size=16, nan_at=12, whole=False, features=16):
    x = np.random.default_rng(0).normal(size=(96, features)).astype(np.float32)
    y = x[:, 0] - 2 * x[:, 1]

    def init(key):
        one, other = jax.random.split(key)
        params = {
            "in": {"w": 0.3 * jax.random.normal(one, (features, 32)), "b": jnp.zeros(32)},
            "out": {"w": 0.2 * jax.random.normal(other, (32, 1)), "b": jnp.zeros(1)},
        }
        return params, {"steps": jnp.int32(0)}

    def loss_of(params, batch, key):
        hidden = jnp.tanh(batch[0] @ params["in"]["w"] + params["in"]["b"][None, :])
        out = (hidden @ params["out"]["w"])[:, 0] + params["out"]["b"]
        return jnp.mean((out - batch[1] + 0.01 * jax.random.normal(key, batch[1].shape)) ** 2)

    def loss_fn(params, state, batch, key):
        loss = jnp.where(state["steps"] == nan_at, jnp.nan, loss_of(params, batch, key))
        return loss, {"steps": state["steps"] + 1}

    def evaluate(params, model_state):
        return {"loss": loss_of(params, (x, y), jax.random.key(0))}

    shape = lambda leaf: leaf.reshape(-1, batch_size, *leaf.shape[1:])
    batches = Batches.stack((shape(x), shape(y))) if whole else Batches((x, y), batch_size)
    return Workload("network", init, loss_fn, batches, evaluate)

def on_records(torn_on=-1, **options):
    import dataclasses, grain
    whole = network(nan_at=-1)
    x, y = whole.batches.arrays

    def read(i):
        if i == 40 and jax.process_index() == torn_on:
            raise OSError("a torn file")
        return x[i], y[i]

    dataset = grain.MapDataset.range(len(x)).shuffle(seed=0).map(read)
    batches = Batches.records(dataset, lrx.piecewise_constant(16, {20: 2}))  # of 6 and then of 3 steps an epoch
    tx = lrx.adam(lrx.cosine_decay(0.03, 80) * lrx.reduce_on_plateau(patience=3, accumulation_size=4))
    return train(dataclasses.replace(whole, batches=batches), tx, steps=80, evaluate_every=20, **options)

def controlled():
    rate = lrx.warmup_cosine_decay(0.1, 5, 80) * lrx.reduce_on_plateau(patience=1, rtol=0.2, accumulation_size=4)
    tx = lrx.adamw(rate * lrx.early_stopping(patience=3, min_delta=0.05, accumulation_size=4))
    return lrx.rollback_on_divergence(tx)

def arrays(history):
    curves = {"loss": history.loss, "rate": history.rate, "ended": np.asarray(history.ended)}
    curves |= {f"metrics/{name}": values for name, values in history.metrics.items()}
    return curves | {f"evaluations/{name}": values for name, values in history.evaluations.items()}

def bytes_by_device(tree):
    found = {}
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            for shard in leaf.addressable_shards:
                found[shard.device] = found.get(shard.device, 0) + shard.data.nbytes
    return found
"""


# Where a process is one of several, which talk over loopback.
JOIN = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=int(sys.argv[2]), process_id=int(sys.argv[3]))
sys.argv[1:4] = []
"""


def start_on(devices: int, code: str, *arguments: str) -> Any:
    """Start a process with so many devices of the host."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return start(code, *arguments, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")


def start_processes(processes: int, devices: int, code: str, *arguments: str) -> list[Any]:
    """Start processes that make one run together, with so many devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start_on(devices, JOIN + code, address, str(processes), str(place), *arguments) for place in range(processes)
    ]


def require_success(process: Any, seconds: float = 600) -> str:
    """Wait for a process and return what it has printed."""
    out, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors[-4000:]
    return out


def require_all_acted(one: dict[str, Any]) -> None:
    """Check that the run stopped early, after a rollback and a plateau."""
    assert one["ended"] == "stopped"
    assert 30 < len(one["loss"]) < 70
    assert one["metrics/rollback/rollbacks"][-1] == 1
    assert len(set(one["metrics/reduce_on_plateau/scale"].tolist())) > 1


def assert_same_run(other: dict[str, Any], one: dict[str, Any], way: str = "") -> None:
    """Check that losses agree to rounding, and rates, counts and decisions exactly."""
    assert other.keys() == one.keys()
    for name, values in one.items():
        decides = values.dtype.kind in "biU" or name.split("/")[-1] in ("rate", "scale", "factor")
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
        (np.testing.assert_array_equal if decides else close)(other[name], values, err_msg=f"{way} {name}")


ENDLESS = (
    NETWORK
    + """
import time
mesh = jax.make_mesh((jax.device_count(),), ("data",))

def slowly(params, model_state):
    time.sleep(0.02)
    return {"norm": jnp.sum(params["in"]["w"] ** 2)}

def run(folder, steps):
    import dataclasses
    workload = dataclasses.replace(network(nan_at=-1), evaluate=slowly)
    tx = lrx.adam(lrx.cosine_decay(0.03, steps) * lrx.reduce_on_plateau(patience=3, accumulation_size=4))
    options = {} if folder is None else {"checkpoint": folder, "checkpoint_every": 4}
    return train(workload, tx, steps=steps, evaluate_every=4, mesh=mesh, param_sharding="fsdp", **options)

def keep(history, file):
    from jax.experimental import multihost_utils
    params = multihost_utils.process_allgather((history.params, history.opt_state), tiled=True)
    if jax.process_index() == 0:
        leaves = {f"leaf{place}": np.asarray(leaf) for place, leaf in enumerate(jax.tree.leaves(params))}
        np.savez(file, **arrays(history), **leaves)
"""
)
STORED = ENDLESS + "\nkeep(run(sys.argv[1], int(sys.argv[3])), sys.argv[2])\n"


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder that are whole by their names."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def kill_and_restart(folder: Path, moments: int, steps: int, seed: int) -> list[tuple[int, int]]:
    """Train with two processes; kill one at random moments, end the other as a scheduler does, and start both again.

    Returns:
      For each kill the newest checkpoint then, and the one that the next start went on from.
    """
    rng = random.Random(seed)
    found: list[tuple[int, int]] = []
    while True:
        processes = start_processes(2, 2, STORED, str(folder / "run"), str(folder / "restarted.npz"), str(steps))
        before = max(steps_in(folder / "run"), default=0)
        is_last = len(found) == moments
        if not is_last:
            # From the first new checkpoint on, at any moment until a few later: within a write as well as between two.
            deadline = time.monotonic() + 300
            while max(steps_in(folder / "run"), default=0) <= before and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.4))
            rng.choice(processes).kill()
            time.sleep(rng.uniform(0.0, 0.2))
            for process in processes:
                process.kill()
        texts = [process.communicate(timeout=600) for process in processes]
        errors = "".join(text for _, text in texts)
        if found:
            resumed = re.search(r"resumed at step ([\d,]+)", errors)
            assert resumed, errors[-4000:]
            found[-1] = found[-1][0], int(resumed[1].replace(",", ""))
        if is_last:
            assert [process.returncode for process in processes] == [0, 0], errors[-4000:]
            return found
        # JAX may abort the other process, which it finds alone, before it is ended.
        assert all(process.returncode in (-signal.SIGKILL, -signal.SIGABRT) for process in processes), errors[-4000:]
        found.append((max(steps_in(folder / "run"), default=0), -1))
