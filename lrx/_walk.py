"""Walk through a state: to the nodes below, to those on the path of a gradient, to those that have a method."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import numpy as np
import optax

from lrx._foreign import adapt
from lrx.states import has_method


def state_of(function: str, state: Any) -> Any:
    """Return the optimizer state; of an object that carries one (`nnx.Optimizer`, `TrainState`), its `opt_state`."""
    if isinstance(state, optax.GradientTransformation):
        raise TypeError(
            f"{function} reads the state of a transformation, got the transformation {state!r}: give what "
            "tx.init(params) has returned, or the last tx.update(...)."
        )
    alone = type(state) in (bool, int, float, complex, str, bytes)
    if state is None or alone or isinstance(state, type) or inspect.isroutine(state):
        raise TypeError(
            f"{function} reads an optimizer state, got {state!r}: give what tx.init(params) has returned, or the last "
            "tx.update(...)."
        )
    if isinstance(state, tuple):  # also a state of optax's with a field of that name
        return state
    carried = getattr(state, "opt_state", state)
    if carried is state and not isinstance(state, np.ndarray | jax.Array) and jax.tree_util.all_leaves([state]):
        raise TypeError(
            f"{function} reads an optimizer state, or an object that carries one as `opt_state`, got {state!r}: give "
            "what tx.init(params) has returned, or the last tx.update(...)."
        )
    return carried


def refuse_objects(function: str, state: Any) -> None:
    """Refuse an object that carries a state: an edited state has to be put back into it by the caller."""
    # Some of optax's own states have a field of that name; those are tuples.
    if hasattr(state, "opt_state") and not isinstance(state, tuple):
        raise TypeError(
            f"{function} takes an optimizer state and gives back a new one, got a {type(state).__name__}: give it "
            f"x.opt_state, and put the result back (nnx: x.opt_state = ..., TrainState: x.replace(opt_state=...))."
        )


def nodes_below(node: Any) -> tuple[Any, ...]:
    """Return the nodes one level below; arrays are left out, since there may be thousands."""
    flat = jax.tree_util.default_registry.flatten_one_level(node)
    return () if flat is None else tuple(child for child in flat[0] if not isinstance(child, jax.Array | np.ndarray))


def nodes_within(view: Any, node: Any) -> tuple[Any, ...]:
    """Return the states within a state, or else all nodes one level below."""
    return view.within() if has_method(view, "within") else nodes_below(node)


def nodes_on_path(view: Any, node: Any) -> tuple[Any, ...]:
    """Return the states below that lie on a gradient's path to the update."""
    return view.on_path() if has_method(view, "on_path") else nodes_within(view, node)


def join_labels(label: str, name: str) -> str:
    """Return the label of a group within a group: "outer/inner"."""
    return f"{label}/{name}" if label else name


def refuse_abstract(value: Any) -> Any:
    """Return a number of a state; refuse an abstract one, which `jax.eval_shape` makes."""
    if isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            "the state must hold numbers, got an abstract one, as jax.eval_shape makes: read within it, "
            "jax.eval_shape(lambda params: lrx.learning_rate(tx.init(params)), params)."
        )
    return value


def nodes_with(node: Any, method: str, *, nested: bool = True) -> list[Any]:
    """Return the states (or their adapters) that have a method of the protocol, in the order of the tree.

    Args:
      node: a state.
      method: the name of the method.
      nested: whether to look within a state that has the method; otherwise the walk stops there.
    """
    view = adapt(node)
    found = [view] if has_method(view, method) else []
    if found and not nested:
        return found
    return found + [each for child in nodes_within(view, node) for each in nodes_with(child, method, nested=nested)]
