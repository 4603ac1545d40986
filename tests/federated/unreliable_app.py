"""A Flower app whose clients fail in the rounds that `FAULTS` names; the server saves what it has seen to $RESULT.

`test_flower_processes.py` runs it; it is no test by itself.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

import lrx
from lrx.federated import Partition
from lrx.federated.flower import make_client_app, make_strategy

NUM_ROUNDS = 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5])).astype(np.float32)
PARTITION = Partition([np.arange(2), np.arange(2, 7), np.arange(7, 12)])
SERVER = lrx.sgd(lrx.constant(0.5) * lrx.pid())
CLIENT = lrx.sgd(0.1)


def squared_error(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    del key
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


def workload_of(chosen: Any = slice(None)) -> lrx.Workload:
    batches = lrx.Batches((X[chosen], Y[chosen]), batch_size=2)
    return lrx.Workload.from_functions(squared_error, lambda key: jax.random.normal(key, (3,)), batches)


reliable = make_client_app(lambda number: workload_of(PARTITION.indices[number, : PARTITION.sizes[number]]), CLIENT)
client_app = ClientApp()
server_app = ServerApp()


def killed(array: np.ndarray) -> np.ndarray:
    """End the node of this client, with all its processes, in the middle of the round."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
    return array


FAULTS = {  # round and client
    (3, 1): lambda array: np.full_like(array, np.nan),
    (3, 2): lambda array: array[:-1],
    (4, 1): lambda array: array + np.float32(1e20),
    (4, 2): killed,
}


@client_app.train()
def train(message: Any, context: Any) -> Any:
    reply = reliable(message, context)
    fault = FAULTS.get((int(message.content["config"]["round"]), int(context.node_config["partition-id"])))
    if fault is not None:
        arrays = {name: Array(fault(array.numpy())) for name, array in reply.content["arrays"].items()}
        reply.content["arrays"] = ArrayRecord(arrays)
    return reply


@server_app.main()
def serve(grid: Any, context: Any) -> None:
    del context
    strategy = make_strategy(workload_of(), server=SERVER, max_norm=10.0, min_available_nodes=3)
    start = strategy.state.params
    strategy.run(grid, 3, timeout=300.0)
    # The server waits this long for the client that is killed, and perhaps once more for its node.
    params = strategy.run(grid, NUM_ROUNDS, timeout=90.0)
    seen = {
        "rounds": strategy.rounds,
        "refused": strategy.refused,
        "losses": [float(squared_error(each, (X, Y), jax.random.key(0))) for each in (start, params)],
    }
    Path(os.environ["RESULT"]).write_text(json.dumps(seen))
