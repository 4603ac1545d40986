"""What the controllers do with a stream of losses: each method's own promise, and every kind of fault."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
import lrx.workloads.datasets

NAN, INF = float("nan"), float("inf")
CONTROLLERS = {
    "reduce_on_plateau": lambda: lrx.reduce_on_plateau(min_scale=1e-3),
    "greedy": lrx.greedy,
    "pid": lrx.pid,
    "relative_adaptation": lrx.relative_adaptation,
    "early_stopping": lambda: lrx.early_stopping(patience=2**30),
}


@functools.cache
def follower(name: str) -> Any:
    controller = CONTROLLERS[name]()

    def run(values: jax.Array) -> tuple[Any, jax.Array]:
        def body(state: Any, value: jax.Array) -> tuple[Any, jax.Array]:
            _, state = controller.update((), state, value=value)
            return state, state.latest

        return jax.lax.scan(body, controller.init(None), values)

    return jax.jit(run)


def factors(name: str, values: Any) -> np.ndarray:
    return np.asarray(follower(name)(jnp.asarray(values, jnp.float32))[1])


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("stream", ["nan", "inf", "minus inf", "constant", "zero", "step", "huge"])
def test_no_stream_of_losses_breaks_a_controller(name: str, stream: str) -> None:
    values = np.linspace(2.0, 1.0, 200)
    values[50:60] = {"nan": NAN, "inf": INF, "minus inf": -INF}.get(stream, values[50])
    values = {"constant": np.ones(200), "zero": np.zeros(200), "huge": values * 1e38}.get(stream, values)
    if stream == "step":
        values[100:] *= 100
    state, seen = follower(name)(jnp.asarray(values, jnp.float32))
    assert np.all(np.isfinite(seen) & (np.asarray(seen) >= 0))
    report = lrx.monitor(state)
    assert any(key.startswith(f"{name}/") for key in report)
    assert all(np.isfinite(value) for value in report.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_million_steps_of_noise_leave_every_statistic_in_place(name: str) -> None:
    values = 1.0 + 0.1 * np.random.default_rng(0).standard_normal(1_000_000)
    state, seen = follower(name)(jnp.asarray(values, jnp.float32))
    assert np.all(np.isfinite(seen) & (np.asarray(seen) >= 0))
    for node in jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "weighted_sum")):
        if hasattr(node, "weighted_sum"):
            assert 0.99 < float(node.weight) <= 1.0001
            assert -0.2 < float(node.weighted_sum) < 1.5
