"""A straight line through points: the workload of most tests of tuning, whose programs compile in a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lrx
from lrx.training import Batches, Workload
from lrx.tuning import Execution, SweepResult, sweep

SLOPE = 3.0
VMAP, MAP = Execution("vmap"), Execution("map")


def squares(slope: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    return jnp.mean((slope * batch[0] - batch[1]) ** 2)


def noisy_squares(slope: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    noise = 0.1 * jax.random.normal(key, batch[0].shape)
    return jnp.mean((slope * batch[0] - batch[1] + noise) ** 2)


def draw(key: jax.Array) -> jax.Array:
    return jax.random.normal(key)


def error(slope: jax.Array) -> dict[str, jax.Array]:
    return {"error": jnp.abs(slope - SLOPE)}


def line(evaluate: Callable[..., Any] | None = None, *, noisy: bool = False) -> Workload:
    """A line of 40 points in minibatches of 8; only a noisy one is shuffled and draws numbers at each step."""
    x = jnp.linspace(-1.0, 1.0, 40)
    batches = Batches((x, SLOPE * x), 8, shuffle=noisy)
    return Workload.from_functions(noisy_squares if noisy else squares, draw, batches, name="line", evaluate=evaluate)


LINE, NOISY_LINE = line(error), line(error, noisy=True)


def sgd(lr: Any) -> Any:
    return lrx.sgd(lr)


def momentum_sgd(lr: Any, momentum: Any) -> Any:
    return lrx.sgd(lr, momentum=momentum)


RATES = [0.01, 0.1, 1e9]  # the last one diverges


def swept(workload: Workload = LINE, **arguments: Any) -> SweepResult:
    """A sweep of three rates with two seeds."""
    settings = {"tx": sgd, "space": {"lr": RATES}, "num_steps": 23, "seeds": 2, "execution": VMAP}
    return sweep(workload, **(settings | arguments))
