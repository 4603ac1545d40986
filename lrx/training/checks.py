"""Keys, shapes and checks of workloads and optimizers, for which nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrx.direction import require_descent
from lrx.run_state import require_scalars
from lrx.training.equality import Same, UndecidedError, key_of
from lrx.training.identity import family_identity
from lrx.training.program_cache import compile_once
from lrx.training.program_hash import program_identity
from lrx.training.step import require_pair
from lrx.training.workload import Workload


def workload_key(workload: Workload) -> Hashable:
    """Return a key that is equal for workloads whose initial values, minibatches, losses and gradients are the same.

    The data are not part of it, nor is the evaluation. If the functions cannot be compared by their code and by what
    they hold, they are traced, and what they compute is compared.
    """
    try:
        return key_of((workload.init, workload.loss_fn, workload.batches.sampling))
    except UndecidedError:
        pass
    batches = workload.batches
    key = jax.eval_shape(lambda: jax.random.key(0))
    minibatch = batches.minibatch_shapes()

    # New functions, since JAX keeps the traces of a function, and what it holds may have changed.
    def init(key: jax.Array) -> tuple[Any, Any]:
        return require_pair(workload.init(key), "init", "(params, model_state)")

    def transform(*x: Any) -> Any:
        return batches.transform(*x)

    gradient = jax.value_and_grad(lambda params, *x: workload.loss_fn(params, *x), has_aux=True)
    arguments = (*jax.eval_shape(init, key), jax.eval_shape(transform, minibatch, key), key)
    return (
        *(batches.batch_size, batches.shuffle),
        *(_traced_key(init, key), _traced_key(transform, minibatch, key)),
        _traced_key(gradient, *arguments),
    )


def optimizer_key(
    make: Callable[..., optax.GradientTransformation], arguments: tuple[Any, ...], workload: Workload
) -> Hashable:
    """Return a key that is equal for functions that make equal optimizers of their arguments, as `workload_key` does.

    Args:
      make: maps the arguments, which may be traced, to a transformation.
      arguments: shapes of the arguments.
      workload: the workload that the optimizers train.
    """
    try:
        return key_of(make)
    except UndecidedError:
        traced = family_identity(make, arguments, initial_shapes(workload)[0])
    return tuple(map(_digest_key, traced.values()))


def _traced_key(function: Callable[..., Any], *arguments: Any) -> Hashable:
    return _digest_key(program_identity(function, *arguments))


def _digest_key(traced: dict[str, Any] | None) -> Hashable:
    if traced is None or "calls_back" in traced:
        return Same(object())  # equal to nothing
    return traced["digest"]


def initial_shapes(workload: Workload) -> tuple[Any, Any]:
    """Return the shapes and types of parameters and model state, by tracing `init`."""
    return _initial_shapes(workload.init)


@compile_once(maxsize=64)
def _initial_shapes(init: Callable[[jax.Array], tuple[Any, Any]]) -> tuple[Any, Any]:
    shapes = jax.eval_shape(lambda key: init(key), jax.random.key(0))  # a new function, so that it is traced again
    return require_pair(shapes, "init", "(params, model_state)")


def optimizer_shapes(tx: optax.GradientTransformation, params: Any) -> Any:
    """Return the shapes and types of the optimizer's state for parameters of these shapes."""
    return _optimizer_shapes(tx, *_static(params))


@compile_once(maxsize=64)
def _optimizer_shapes(tx: optax.GradientTransformation, structure: Any, types: tuple[Any, ...]) -> Any:
    return jax.eval_shape(tx.init, _tree(structure, types))


def require_scalars_once(tx: optax.GradientTransformation, params: Any) -> None:
    """Check what the states of an optimizer return (`lrx.run_state.require_scalars`), once for equal optimizers."""
    _require_scalars(tx, *_static(params))


@compile_once(maxsize=64)  # a refusal is an exception, which is not kept
def _require_scalars(tx: optax.GradientTransformation, structure: Any, types: tuple[Any, ...]) -> None:
    jax.eval_shape(lambda params: require_scalars(tx.init(params)), _tree(structure, types))


def require_descent_once(tx: optax.GradientTransformation, params: Any) -> None:
    """Check that the updates of an optimizer descend (`lrx.direction.require_descent`), once for equal optimizers."""
    _require_descent(tx, *_static(params))


@compile_once(maxsize=64)
def _require_descent(tx: optax.GradientTransformation, structure: Any, types: tuple[Any, ...]) -> None:
    require_descent(tx, _tree(structure, types))


def _static(params: Any) -> tuple[Any, tuple[Any, ...]]:
    leaves, structure = jax.tree.flatten(params)
    return structure, tuple((tuple(jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in leaves)


def _tree(structure: Any, types: tuple[Any, ...]) -> Any:
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*type_) for type_ in types])
