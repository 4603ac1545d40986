"""A state can be planned before there are parameters: from shapes and types alone."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import CASES, all_states
from problems import assert_trees_equal, gradient_stream, mixed_params, vector_params

import lrx


def abstract(tree: Any) -> Any:
    """Return the tree's shapes and types."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def signature(tree: Any) -> tuple[Any, ...]:
    """Return the structure, and shape and type of every leaf, abstract or not."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


@all_states
def test_a_state_of_abstract_parameters_has_the_tree_of_the_concrete_one(case):
    tx, params = case(), mixed_params()
    state = tx.init(abstract(params))
    assert signature(state) == signature(tx.init(params))
    assert signature(jax.eval_shape(tx.init, abstract(params))) == signature(state)


@all_states
def test_what_an_abstract_state_knows_is_concrete_and_right(case):
    # What depends on shapes alone is there at once, as with optax; what holds numbers of the parameters is abstract.
    tx, params = case(), vector_params()
    planned, state = tx.init(abstract(params)), tx.init(params)
    for known, expected in zip(jax.tree.leaves(planned), jax.tree.leaves(state), strict=True):
        if not isinstance(known, jax.ShapeDtypeStruct):
            np.testing.assert_array_equal(np.asarray(known), np.asarray(expected))


@all_states
def test_an_update_can_be_planned_from_an_abstract_state(case):
    tx, params = case(), vector_params()
    gradients = abstract(gradient_stream(params, 1)[0])
    state = tx.init(abstract(params))
    updates, after = jax.eval_shape(lambda *xs: tx.update(*xs, value=1.0), gradients, state, abstract(params))
    assert signature(updates) == signature(gradients)
    assert signature(after) == signature(state)


AROUND = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "masked": lambda tx: optax.masked(tx, {"a": True, "b": False}),
    "partition": lambda tx: optax.partition({"all": tx}, {"a": "all", "b": "all"}),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "accumulate": lambda tx: lrx.accumulate(tx, 2),
    "group_rates": lambda tx: lrx.group_rates(tx, {"a": "first", "b": "second"}, {"first": 1.0, "second": 0.1}),
    "rollback_on_divergence": lrx.rollback_on_divergence,
    "master_weights": lrx.master_weights,
    "averaged": lrx.averaged,
}
KEEPING_PARAMETERS = {
    "dog": lambda: lrx.dog(0.1),
    "schedule_free_sgd": lambda: lrx.schedule_free_sgd(0.1),
    "plateau": lambda: lrx.adamw(0.1 * lrx.reduce_on_plateau()),
}


@pytest.mark.parametrize("wrapper", AROUND)
@pytest.mark.parametrize("method", KEEPING_PARAMETERS)
def test_a_wrapped_state_can_be_planned_and_its_first_rate_read(wrapper, method):
    tx, params = AROUND[wrapper](KEEPING_PARAMETERS[method]()), vector_params()
    planned = tx.init(abstract(params))
    assert signature(planned) == signature(tx.init(params))
    expected = {"a": 0.1, "b": 0.01} if wrapper == "group_rates" else {"a": 0.1}
    for (_, rate), first in zip(sorted(lrx.learning_rates(planned).items()), expected.values(), strict=True):
        assert math.isclose(float(rate), first, rel_tol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_is_restored_into_an_abstract_state(tmp_path):
    params = vector_params()
    names = ("adamw", "cocob", "dog by layers", "mechanic", "prodigy", "schedule_free_adamw")
    chosen = {name: CASES[name]() for name in names}
    states = {}
    for name, tx in chosen.items():
        _, states[name] = tx.update(gradient_stream(params, 1)[0], tx.init(params), params, value=1.0)
    planned = {name: tx.init(abstract(params)) for name, tx in chosen.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", planned)
    assert_trees_equal(restored, states)


def test_an_optimizer_step_is_compiled_before_there_are_parameters():
    tx, params = lrx.dog(0.1), vector_params()
    gradients = gradient_stream(params, 1)[0]

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    planned = abstract(params)
    compiled = jax.jit(step).lower(planned, tx.init(planned), planned).compile()
    assert_trees_equal(compiled(params, tx.init(params), gradients), jax.jit(step)(params, tx.init(params), gradients))
    assert jnp.any(compiled(params, tx.init(params), gradients)[0]["a"] != params["a"])
