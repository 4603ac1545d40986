"""optax finds what belongs to parameters in every state: for partition specs, for moving states to another device."""

from __future__ import annotations

from typing import Any

import jax
import optax
import pytest
from cases import all_states
from problems import vector_params

import lrx

NAMES = {"a": "name of a", "b": "name of b"}


def is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def described(tx: Any, state: Any) -> Any:
    """Replace what belongs to a parameter by the parameter's name, and everything else by nothing."""
    return optax.tree.map_params(
        tx,
        lambda leaf, name: leaf if is_masked(leaf) else name,
        state,
        NAMES,
        transform_non_params=lambda tree: jax.tree.map(lambda leaf: "", tree),
        is_leaf=is_masked,
    )


def require_names(state: Any, names: Any, params: Any) -> None:
    assert jax.tree.structure(names) == jax.tree.structure(state)
    for leaf, name in zip(jax.tree.leaves(state), jax.tree.leaves(names), strict=True):
        for parameter in ("a", "b"):
            assert leaf.shape != params[parameter].shape or name == NAMES[parameter]


@all_states
def test_map_params_finds_every_leaf_that_is_laid_out_as_a_parameter(case):
    tx, params = case(), vector_params()
    state = tx.init(params)
    require_names(state, described(tx, state), params)


WRAPPED = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), lrx.adamw(0.1)),
    "masked": lambda: optax.masked(lrx.adam(0.1), {"a": True, "b": False}),
    "partition": lambda: optax.partition({1: lrx.adam(0.1), 2: lrx.dog()}, {"a": 1, "b": 2}),
    "MultiSteps": lambda: optax.MultiSteps(lrx.prodigy(), 2).gradient_transformation(),
    "group_rates": lambda: lrx.group_rates(lrx.dog(), {"a": 1, "b": 2}, {1: 1.0, 2: 0.5}),
    "group_rates with a frozen group": lambda: lrx.group_rates(lrx.adam(0.1), {"a": 1, "b": 2}, {1: 1.0, 2: 0.0}),
    "group_rates around partition": lambda: lrx.group_rates(
        optax.partition({1: lrx.adam(0.1), 2: lrx.adam(1.0)}, {"a": 1, "b": 2}), {"a": "x", "b": "y"}, {"x": 1, "y": 2}
    ),
    "accumulate": lambda: lrx.accumulate(lrx.prodigy(), 2),
    "rollback_on_divergence": lambda: lrx.rollback_on_divergence(lrx.schedule_free_adamw(0.1)),
    "mechanic": lambda: lrx.mechanic(lrx.adam(0.1)),
    "master_weights": lambda: lrx.master_weights(lrx.dog()),
    "averaged": lambda: lrx.averaged(lrx.schedule_free_adamw(0.1)),
    "cumulative_path": lambda: lrx.sgd(0.1 * lrx.cumulative_path()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_map_params_finds_the_leaves_in_wrapped_states(name):
    tx, params = WRAPPED[name](), vector_params()
    state = tx.init(params)
    names = described(tx, state)
    require_names(state, names, params)
    assert NAMES["a"] in jax.tree.leaves(names)
