"""A group with a factor of 0 is frozen: it moves nothing and costs no memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from group_examples import FROZEN, KINDS_OF_TREES, LABELS, METHODS, PARAMS, SCHEDULE, NnxNet, trees_of_parameters
from problems import assert_trees_equal

import lrx


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", METHODS)
def test_a_factor_of_0_keeps_nothing_for_what_it_freezes_and_moves_nothing(name):
    tx = optax.with_extra_args_support(lrx.group_rates(METHODS[name](SCHEDULE), LABELS, FROZEN))
    state, alone = (
        tx.init(PARAMS),
        METHODS[name](SCHEDULE * 2.0).init({"body": optax.MaskedNode(), "head": PARAMS["head"]}),
    )
    assert size(state.inner) == size(alone)
    updates, _ = jax.jit(tx.update)(jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS), state, PARAMS)
    assert_trees_equal(updates["body"], jax.tree.map(jnp.zeros_like, PARAMS["body"]))
    if name != "optax":
        assert set(lrx.learning_rates(state)) == {"fast"}


@pytest.mark.parametrize("kind", KINDS_OF_TREES)
def test_frozen_leaves_are_hidden_in_every_kind_of_tree(kind):
    params = trees_of_parameters()[kind]
    tx = lrx.group_rates(lrx.adamw(0.1), lambda path, leaf: path.split("/")[0], {"lin": 0.0, "head": 1.0})
    state = tx.init(params)
    assert size(state.inner.adam.first_moment) == size(params) // 2
    for _ in range(2):
        updates, state = tx.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    moved = [bool(jnp.any(leaf)) for leaf in jax.tree.leaves(updates)]
    assert sorted(moved) == [False, False, True, True]


def test_an_nnx_optimizer_keeps_nothing_for_a_frozen_layer():
    model = NnxNet()
    frozen = np.asarray(model.lin.kernel[...])
    tx = lrx.group_rates(lrx.adam(0.1), lambda path, leaf: path.split("/")[0], {"lin": 0.0, "head": 1.0})
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))
    for _ in range(2):
        step(model, optimizer, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    np.testing.assert_array_equal(model.lin.kernel[...], frozen)
    np.testing.assert_allclose(lrx.learning_rate(optimizer), 0.1, rtol=1e-6)


def test_what_searches_along_a_line_evaluates_the_loss_with_the_frozen_parameters():
    def loss(params):
        return jnp.sum((params["head"] - params["body"]["b"]) ** 2) + 0 * jnp.sum(params["body"]["w"])

    tx = lrx.group_rates(lrx.armijo(c=0.5), LABELS, {"slow": 0.0, "fast": 1.0})
    value, gradients = jax.value_and_grad(loss)(PARAMS)
    updates, state = tx.update(gradients, tx.init(PARAMS), PARAMS, value=value, value_fn=loss, grad=gradients)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.5, rtol=0.1)
    assert loss(optax.apply_updates(PARAMS, updates)) < 0.1 * value


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_state_that_was_made_with_or_without_a_group_stays_so(before, after):
    def grouped(factor):
        return lrx.group_rates(lrx.adam(0.1), LABELS, {"slow": factor, "fast": 1.0})

    state = grouped(before).init(PARAMS)
    with pytest.raises(ValueError, match=r"^factors\['slow'\] must be 0 for as long as a state lives or never, got"):
        grouped(after).update(PARAMS, state, PARAMS)
    grouped(lrx.constant(before)).update(PARAMS, state, PARAMS)


def test_a_frozen_leaf_may_have_no_gradient():
    tx = lrx.group_rates(lrx.dog(), LABELS, FROZEN)
    state = tx.init(PARAMS)
    for gradients in (PARAMS, {"body": {"w": None, "b": PARAMS["body"]["b"]}, "head": PARAMS["head"]}):
        updates, state = tx.update(gradients, state, PARAMS)
        assert jax.tree.structure(updates) == jax.tree.structure(gradients)


@pytest.mark.parametrize("frozen", ["a", "n"])
def test_integers_may_be_frozen_or_not(frozen):
    params = {"a": jnp.ones(2), "n": jnp.arange(3)}
    gradients = jax.grad(lambda params: jnp.sum(params["a"] ** 2), allow_int=True)(params)
    tx = lrx.group_rates(lrx.adam(0.1), {"a": "a", "n": "n"}, {"a": 1.0, "n": 1.0} | {frozen: 0.0})
    updates, _ = tx.update(gradients, tx.init(params), params)
    assert updates["n"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(updates["a"], 0.0 if frozen == "a" else -0.1, rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda tx: lrx.accumulate(tx, 2), lrx.averaged, lrx.master_weights])
def test_around_a_wrapper_a_frozen_group_costs_no_memory(wrap):
    params = {"body": jnp.ones(1000), "head": jnp.ones(2)}

    def frozen(tx):
        return lrx.group_rates(tx, {"body": "body", "head": "head"}, {"body": 0.0, "head": 1.0})

    around, within = frozen(wrap(lrx.adam(0.1))), wrap(frozen(lrx.adam(0.1)))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tx.init(params))) for tx in (around, within)]
    assert sizes[1] == sizes[0] + 1000
    states = [tx.init(params) for tx in (around, within)]
    for _ in range(2):
        steps = [tx.update(params, state, params) for tx, state in zip((around, within), states, strict=True)]
        states = [state for _, state in steps]
    for ours, theirs in zip(*(jax.tree.leaves(updates) for updates, _ in steps), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_map_params_is_told_that_a_frozen_group_is_masked():
    tx = lrx.group_rates(lrx.adam(0.1), {"a": "a", "b": "b"}, {"a": 1.0, "b": 0.0})
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(2)})

    def is_masked(node):
        return isinstance(node, optax.MaskedNode)

    named = optax.tree.map_params(
        tx, lambda leaf, name: leaf if is_masked(leaf) else name, state, {"a": "of a", "b": "of b"}, is_leaf=is_masked
    )
    assert named.inner[0].first_moment == {"a": "of a", "b": optax.MaskedNode()}
