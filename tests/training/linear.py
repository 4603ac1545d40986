"""The workloads that the tests of training share, and what runs of them are compared by."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.training import (
    Batches,
    History,
    Workload,
)

# The same source makes the workload here and in the processes that are killed.
LINEAR = """
import functools, time, jax, jax.numpy as jnp, numpy as np, lrx, optax
from lrx.training import Batches, Workload, train

@functools.cache
def normal_init(features):
    return lambda key: {"w": 0.1 * jax.random.normal(key, (features,))}

def noisy_squares(params, batch, key):
    x, y = batch
    return jnp.mean((x @ params["w"] - y + 0.01 * jax.random.normal(key, y.shape)) ** 2)

def jitter(batch, key):
    return batch[0] + 0.01 * jax.random.normal(key, batch[0].shape), batch[1]

def norm(params):
    return {"norm": jnp.sum(params["w"] ** 2)}

def linear(batch_size=8, examples=60, features=3, evaluate=norm, name="linear"):
    x = np.random.default_rng(0).normal(size=(examples, features)).astype(np.float32)
    y = x @ np.arange(1.0, features + 1, dtype=np.float32)
    batches = Batches((x, y), batch_size, jitter)
    return Workload.from_functions(noisy_squares, normal_init(features), batches, name=name, evaluate=evaluate)
"""
exec(LINEAR)
linear: Any = globals()["linear"]
SGD = lrx.sgd(0.1)  # one object, so that runs share a compilation


def counting(examples: int = 10, batch_size: int = 3, shuffle: bool = True, fail_at: int = -1) -> Workload:
    """The model state counts how often each example was seen; the loss is the first example's number."""

    def init(key: jax.Array) -> Any:
        return {"w": jnp.ones(())}, {"seen": jnp.zeros(examples, jnp.int32), "steps": jnp.int32(0)}

    def loss_fn(params: Any, state: Any, batch: jax.Array, key: jax.Array) -> Any:
        loss = jnp.where(state["steps"] == fail_at, jnp.nan, batch[0] + 0.0 * params["w"])
        return loss + jnp.sin(params["w"]), {"seen": state["seen"].at[batch].add(1), "steps": state["steps"] + 1}

    batches = Batches(jnp.arange(examples), batch_size, shuffle=shuffle)
    return Workload("counting", init, loss_fn, batches, lambda params, state: {"steps": state["steps"]})


def leaves(history: History) -> dict[str, np.ndarray]:
    tree = (history.params, history.model_state, history.opt_state)
    state = {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    curves = {"loss": history.loss, "rate": history.rate, "evaluation_steps": history.evaluation_steps}
    return {**state, **curves, **history.metrics, **{f"evaluated {k}": v for k, v in history.evaluations.items()}}


def assert_identical(one: History, other: History) -> None:
    one_leaves, other_leaves = leaves(one), leaves(other)
    assert one_leaves.keys() == other_leaves.keys()
    for name, values in one_leaves.items():
        np.testing.assert_array_equal(values, other_leaves[name], err_msg=name)
        assert values.dtype == other_leaves[name].dtype, name


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
    )


def traced_workload(traces: list[int]) -> Workload:
    plain = linear()

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        traces.append(1)
        return plain.loss_fn(params, model_state, batch, key)

    return Workload("traced", plain.init, loss_fn, plain.batches, plain.evaluate)
