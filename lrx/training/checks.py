"""Checks and shapes of workloads and optimizers that need no training, computed once for equal ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx.direction import require_descent
from lrx.training.equality import compile_once
from lrx.training.workload import Workload


def initial_shapes(workload: Workload) -> tuple[Any, Any]:
    """Return the shapes and types of parameters and model state, by tracing `init`."""
    return _initial_shapes(workload.init)


@compile_once(maxsize=64)
def _initial_shapes(init: Callable[[jax.Array], tuple[Any, Any]]) -> tuple[Any, Any]:
    shapes: tuple[Any, Any] = jax.eval_shape(init, jax.random.key(0))
    return shapes


def optimizer_shapes(tx: optax.GradientTransformation, params: Any) -> Any:
    """Return the shapes and types of the optimizer's state for parameters of these shapes."""
    return _optimizer_shapes(tx, *_static(params))


@compile_once(maxsize=64)
def _optimizer_shapes(tx: optax.GradientTransformation, structure: Any, types: tuple[Any, ...]) -> Any:
    return jax.eval_shape(tx.init, _tree(structure, types))


def require_descent_once(tx: optax.GradientTransformation, params: Any) -> None:
    """Check that the updates of an optimizer descend (`lrx.direction.require_descent`), once for equal optimizers."""
    _require_descent(tx, *_static(params))


@compile_once(maxsize=64)  # a refusal is an exception, which is not kept
def _require_descent(tx: optax.GradientTransformation, structure: Any, types: tuple[Any, ...]) -> None:
    require_descent(tx, _tree(structure, types))


def _static(params: Any) -> tuple[Any, tuple[Any, ...]]:
    leaves, structure = jax.tree.flatten(params)
    return structure, tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)


def _tree(structure: Any, types: tuple[Any, ...]) -> Any:
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*type_) for type_ in types])
