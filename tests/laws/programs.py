"""What the laws share: the compiled update of a case, and runs without a program around them.

Outside of a compiled program an operation is compiled once for all cases, which costs a tenth of a program for each.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import Case
from problems import gradient_stream, value_stream, vector_params

import lrx

INT32_MAX = 2**31 - 1
NAN, INF = float("nan"), float("inf")


class Program:
    """The compiled update of a case on the mixed tree, shared by the tests of one process."""

    def __init__(self, case: Case):
        self.tx = case()
        self.traces = 0

        def update(gradients: Any, state: Any, params: Any, value: Any) -> Any:
            self.traces += 1
            return self.tx.update(gradients, state, params, value=value)

        self.update = jax.jit(update)

    def run(self, params: Any, state: Any, stream: list[Any], values: list[float]) -> list[tuple[Any, Any, Any]]:
        """Return (updates, state, params) after each step; a case with observed feedback sees no value here."""
        rows = []
        for gradients, value in zip(stream, values, strict=True):
            updates, state = self.update(gradients, state, params, jnp.asarray(value, jnp.float32))
            params = optax.apply_updates(params, updates)
            rows.append((updates, state, params))
        return rows


@functools.cache
def program(case: Case) -> Program:
    """Return the program of a case, compiled once in a process."""
    return Program(case)


def eager_run(tx: Any, params: Any, stream: list[Any], values: list[float], *, moving: bool = False) -> tuple[Any, Any]:
    """Return all updates and the last state, without compiling anything; observed feedback is given as well."""
    tx = optax.with_extra_args_support(tx)
    state, rows = tx.init(params), []
    for gradients, value in zip(stream, values, strict=True):
        state = observed(state, value)
        updates, state = tx.update(gradients, state, params, value=value)
        rows.append(updates)
        params = optax.apply_updates(params, updates) if moving else params
    return rows, state


BARE = 4  # steps, after which every controller of the cases that will act has acted


@functools.cache
def bare_run(case: Case) -> tuple[list[Any], list[Any]]:
    """Return the updates of a case alone on two leaves, and the parameters after each: what wrappers must equal."""
    params, tx, points = vector_params(), case(), []
    rows, _ = eager_run(tx, params, gradient_stream(params, BARE), value_stream(BARE), moving=True)
    for row in rows:
        params = optax.apply_updates(params, row)
        points.append(params)
    return rows, points


def observed(state: Any, value: Any) -> Any:
    """Return the state with an observation, if it holds a controller."""
    try:
        return lrx.observe(state, value=value)
    except ValueError as error:
        if "no controller" not in str(error):
            raise
        return state


def is_finite(tree: Any) -> bool:
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.device_get(tree)))


def has_nan(tree: Any) -> bool:
    return any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(jax.device_get(tree)))


def sweep_values(case: Case, name: str) -> jax.Array:
    """Return the values over which a hyperparameter is swept, as one array."""
    values = case.sweep[name]
    return jnp.asarray(values, jnp.int32 if all(isinstance(value, int) for value in values) else jnp.float32)
