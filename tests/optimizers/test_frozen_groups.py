"""A group with a factor of 0 is frozen: it moves nothing and costs no memory."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from problems import assert_trees_equal

import lrx

PARAMS = {"body": {"w": jnp.asarray([[1.0, -2.0]]), "b": jnp.asarray([0.5])}, "head": jnp.asarray([3.0, 0.1])}


LABELS = {"body": "slow", "head": "fast"}


SCHEDULE = lrx.warmup(lrx.step_decay(0.1, 4, factor=0.3), 2)


METHODS = {
    "sgd": lambda rate: lrx.sgd(rate, momentum=0.9),
    "heavy_ball": lrx.heavy_ball,
    "heavy_ball with correction": lambda rate: lrx.heavy_ball(rate, momentum_correction=True),
    "nesterov": lrx.nesterov,
    "adam": lrx.adam,
    "adagrad": lrx.adagrad,
    "rmsprop": lrx.rmsprop,
    "adamw": lambda rate: lrx.adamw(rate, weight_decay=0.1),
    # Without a base rate the decay follows the share of the rate's own peak, which no factor changes.
    "adamw of the paper": lambda rate: lrx.adamw(rate, weight_decay=0.1, decoupling="schedule"),
    "a chain": lambda rate: optax.chain(optax.clip(0.5), optax.scale_by_adam(), rate),
    "accumulation": lambda rate: lrx.accumulate(lrx.heavy_ball(rate), 2),
    "masked": lambda rate: optax.masked(lrx.heavy_ball(rate), {"body": True, "head": True}),
    "partition": lambda rate: optax.partition(
        {"slow": lrx.heavy_ball(rate), "fast": lrx.heavy_ball(rate)}, {"body": "slow", "head": "fast"}
    ),
    "multi steps": lambda rate: optax.MultiSteps(lrx.heavy_ball(rate), 2).gradient_transformation(),
    "apply_if_finite": lambda rate: optax.apply_if_finite(lrx.heavy_ball(rate), 3),
    "injected": lambda rate: optax.inject_hyperparams(lrx.heavy_ball, static_args=("learning_rate",))(rate),
    "optax": lambda rate: optax.adam(rate),
    "flattened": lambda rate: optax.flatten(lrx.sgd(rate)),
}


class Linear(eqx.Module):
    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return self.weight @ x + self.bias


class Net(eqx.Module):
    lin: Linear
    head: Linear
    activation: object = jax.nn.relu

    def __call__(self, x):
        return self.head(self.activation(self.lin(x)))


class NnxNet(nnx.Module):
    def __init__(self):
        self.lin, self.head = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 1, rngs=nnx.Rngs(1))


def linear():
    return Linear(jnp.ones((2, 2)), jnp.ones(2))


def trees_of_parameters():
    """One network as dicts, as an Equinox module, and as flax keeps it, with and without its variables."""
    module = eqx.filter(Net(linear(), linear()), eqx.is_array)
    dicts = {
        name: {"weight": getattr(module, name).weight, "bias": getattr(module, name).bias} for name in ("lin", "head")
    }
    variables = nnx.State(
        {name: {key: nnx.Param(leaf) for key, leaf in layer.items()} for name, layer in dicts.items()}
    )
    return {"dicts": dicts, "equinox": module, "nnx": variables, "nnx, pure": nnx.as_pure(variables)}


FROZEN = {"slow": 0.0, "fast": 2.0}


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


@pytest.mark.parametrize("kind", trees_of_parameters())
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
