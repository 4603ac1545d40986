"""`group_rates`: each group of parameters has a rate of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from branches import taking_branches
from flax import nnx
from group_examples import FACTORS, KINDS_OF_TREES, LABELS, METHODS, PARAMS, SCHEDULE, NnxNet, trees_of_parameters
from problems import assert_trees_close, assert_trees_equal, gradient_stream
from tiers import first_tier_has
from units import (
    RATES,
    Case,
    refuse_links,
)

import lrx

STEPS = 8  # a warm-up, and a boundary at the seventh


def run(tx, params, stream, compiled=True):
    tx = optax.with_extra_args_support(tx)
    state, update, rows = tx.init(params), jax.jit(tx.update) if compiled else tx.update, []
    for gradients in stream:
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        rows.append(updates)
    return rows, state, params


def eager(tx, params, stream):
    """Run a method without groups, whose few operations take less time than a program of them."""
    with taking_branches():
        return run(tx, params, stream, compiled=False)


@pytest.mark.parametrize("name", first_tier_has(["nesterov", "masked", "injected"], METHODS))
def test_each_group_has_a_rate_of_its_own_wherever_the_method_has_it(name):
    stream = gradient_stream(PARAMS, STEPS)
    rows, _, _ = run(lrx.group_rates(METHODS[name](SCHEDULE), LABELS, FACTORS), PARAMS, stream)
    alone = METHODS["heavy_ball" if name in ("masked", "partition") else name]
    # Clipping by value, Adam and the rest treat leaves one by one, so a group alone is a run of its own.
    for group, label in LABELS.items():
        expected, _, _ = eager(
            alone(SCHEDULE * FACTORS[label]),
            {group: PARAMS[group]},
            [{group: gradients[group]} for gradients in stream],
        )
        for row, expected_row in zip(rows, expected, strict=True):
            assert_trees_close({group: row[group]}, expected_row, rtol=2e-5, atol=1e-6)


def test_a_factor_that_follows_the_step_is_inside_the_velocity():
    factor = lrx.step_decay(1.0, 3, factor=0.1)
    stream = gradient_stream(PARAMS, STEPS)
    rows, state, _ = run(
        lrx.group_rates(lrx.heavy_ball(SCHEDULE), LABELS, {"slow": factor, "fast": 1.0}), PARAMS, stream
    )
    expected, _, _ = eager(
        lrx.heavy_ball(SCHEDULE * factor), PARAMS["body"], [gradients["body"] for gradients in stream]
    )
    assert_trees_close([row["body"] for row in rows], expected)
    np.testing.assert_allclose(lrx.learning_rate(state, "slow"), SCHEDULE(STEPS - 1) * 0.01, rtol=1e-6)


def test_evaluation_points_know_the_groups_rates():
    stream = gradient_stream(PARAMS, STEPS)
    _, state, params = run(lrx.group_rates(lrx.nesterov(SCHEDULE), LABELS, FACTORS), PARAMS, stream)
    _, alone, head = eager(lrx.nesterov(SCHEDULE * 2.0), PARAMS["head"], [gradients["head"] for gradients in stream])
    assert_trees_close(lrx.eval_params(state, params)["head"], lrx.eval_params(alone, head))


def test_groups_are_read_and_scaled():
    tx = lrx.group_rates(lrx.adam(SCHEDULE), LABELS, FACTORS)
    _, state, _ = run(tx, PARAMS, gradient_stream(PARAMS, 3))
    rates = lrx.learning_rates(state)
    assert set(rates) == {"slow", "fast"}
    np.testing.assert_allclose([rates["slow"], rates["fast"]], np.asarray([0.1, 2.0]) * SCHEDULE(2), rtol=1e-6)
    assert {"learning_rate/slow", "learning_rate/fast", "adam/b1"} <= set(lrx.monitor(state))
    with pytest.raises(ValueError, match=r"^group must be one of \['fast', 'slow'\]"):
        lrx.learning_rate(state)
    _, state = tx.update(PARAMS, lrx.scale_learning_rate(state, 0.5), PARAMS)
    np.testing.assert_allclose(lrx.learning_rate(state, "fast"), SCHEDULE(3), rtol=1e-6)


def test_before_the_first_update_the_groups_show_what_it_will_use():
    state = lrx.group_rates(lrx.sgd(0.5), LABELS, FACTORS).init(PARAMS)
    np.testing.assert_allclose(lrx.learning_rate(state, "slow"), 0.05, rtol=1e-6)


def test_groups_within_groups_multiply():
    inner = lrx.group_rates(lrx.heavy_ball(0.1), LABELS, FACTORS)
    tx = lrx.group_rates(inner, LABELS, {"slow": 0.5, "fast": 1.0})
    once = lrx.group_rates(lrx.heavy_ball(0.1), LABELS, {"slow": 0.05, "fast": 2.0})
    stream = gradient_stream(PARAMS, STEPS)
    rows, state, _ = run(tx, PARAMS, stream)
    assert_trees_close(rows, run(once, PARAMS, stream)[0])
    np.testing.assert_allclose(lrx.learning_rate(state, "slow"), 0.005, rtol=1e-6)


def test_layer_wise_decay_is_one_line():
    params = {f"layer_{depth}": {"kernel": jnp.ones(2)} for depth in range(4)}
    tx = lrx.group_rates(lrx.sgd(1.0), lambda path, leaf: int(path.split("/")[0][6:]), lambda depth: 0.8 ** (3 - depth))
    updates, state = tx.update(params, tx.init(params))
    for depth in range(4):
        np.testing.assert_allclose(updates[f"layer_{depth}"]["kernel"], -(0.8 ** (3 - depth)), rtol=1e-6)
    assert list(lrx.learning_rates(state)) == ["0", "1", "2", "3"]


def test_a_label_function_sees_paths_and_leaves():
    tx = lrx.group_rates(
        lrx.sgd(1.0), lambda path, leaf: "vector" if leaf.ndim == 1 else path, {"vector": 0.0, "body/w": 1.0}
    )
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert not np.any(updates["head"])
    np.testing.assert_array_equal(updates["body"]["w"], -PARAMS["body"]["w"])


def test_an_nnx_model_is_grouped_by_path():
    class Model(nnx.Module):
        def __init__(self):
            self.body, self.head = nnx.Param(jnp.ones(2)), nnx.Param(jnp.ones(2))

    model = Model()
    tx = lrx.group_rates(lrx.heavy_ball(0.1), lambda path, leaf: path.split("/")[0], {"body": 0.5, "head": 1.0})
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(2):
        optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    np.testing.assert_allclose(model.body[...] - 1, 0.5 * (model.head[...] - 1), rtol=1e-6)
    np.testing.assert_allclose(lrx.learning_rate(optimizer, "body"), 0.05, rtol=1e-6)


def test_factors_are_swept():
    def first_update(factor):
        tx = lrx.group_rates(lrx.sgd(1.0), LABELS, {"slow": factor, "fast": 1.0})
        return tx.update(PARAMS, tx.init(PARAMS))[0]["body"]["b"]

    np.testing.assert_allclose(jax.vmap(first_update)(jnp.asarray([0.0, 0.5])), [[0.0], [-0.25]])


@pytest.mark.parametrize(
    ("labels", "factors", "message"),
    [
        (LABELS, {"slow": 1.0}, "^factors must have one for each label, got none for 'fast': known are"),
        (LABELS, {**FACTORS, "slwo": 1.0}, r"^factors must belong to a leaf each, got no leaf labelled \['slwo'\]"),
        ({"body": "slow"}, FACTORS, "^labels must have the parameters' tree or a prefix of it, got labels="),
    ],
)
def test_labels_and_factors_must_fit(labels, factors, message):
    with pytest.raises(ValueError, match=message):
        lrx.group_rates(lrx.sgd(0.1), labels, factors).init(PARAMS)


def test_paths_are_the_same_whatever_the_tree_is_made_of():
    seen = {}
    for kind, params in trees_of_parameters().items():
        found = seen.setdefault(kind, [])
        tx = lrx.group_rates(lrx.sgd(1.0), lambda path, leaf, found=found: found.append(path) or "all", {"all": 1.0})
        tx.update(params, tx.init(params))
    everything = sorted(["lin/weight", "lin/bias", "head/weight", "head/bias"] * 2)
    assert {kind: sorted(paths) for kind, paths in seen.items()} == dict.fromkeys(seen, everything)


@pytest.mark.parametrize("of_labels", KINDS_OF_TREES)
@pytest.mark.parametrize("of_params", KINDS_OF_TREES)
def test_a_tree_of_labels_fits_parameters_in_other_containers(of_params, of_labels):
    params = trees_of_parameters()[of_params]
    labels = jax.tree.map(lambda leaf: "matrix" if leaf.ndim == 2 else "vector", trees_of_parameters()[of_labels])
    tx = lrx.group_rates(lrx.sgd(1.0), labels, {"matrix": 0.5, "vector": 2.0})
    updates, _ = tx.update(params, tx.init(params))
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, -0.5 if leaf.ndim == 2 else -2.0))


def test_groups_of_an_nnx_model_are_those_of_its_updates():
    model = NnxNet()
    before = nnx.as_pure(nnx.state(model, nnx.Param))
    labels = jax.tree.map(lambda leaf: "matrix" if leaf.ndim == 2 else "vector", nnx.state(model, nnx.Param))
    for given in (labels, lambda path, leaf: "vector" if path in ("lin/bias", "head/bias") else "matrix"):
        tx = lrx.group_rates(lrx.heavy_ball(1.0), given, {"matrix": 0.5, "vector": 0.1})
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    moved = jax.tree.map(jnp.subtract, before, nnx.as_pure(nnx.state(model, nnx.Param)))
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_allclose(leaf, 1.0 if leaf.ndim == 2 else 0.2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["equinox", "nnx"])
def test_a_mask_may_be_a_tree_that_can_be_called_or_holds_variables(kind):
    params = trees_of_parameters()[kind]
    tx = lrx.adamw(0.1, weight_decay=0.5, mask=jax.tree.map(lambda leaf: leaf.ndim > 1, params))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, -0.05 if leaf.ndim == 2 else 0.0, rtol=1e-6)


def test_an_nnx_model_decays_by_a_mask_made_of_its_state():
    model = NnxNet()
    kernel = np.asarray(model.lin.kernel[...])
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, lrx.adamw(0.1, weight_decay=0.5, mask=mask), wrt=nnx.Param)
    nnx.jit(lambda model, optimizer, grads: optimizer.update(model, grads))(
        model, optimizer, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    )
    np.testing.assert_allclose(model.lin.kernel[...], 0.95 * kernel, rtol=1e-6)


@pytest.mark.parametrize("mask", [{"body": True}, {"body": True, "head": True, "neck": True}])
def test_a_mask_that_cannot_fit_is_refused_when_the_state_is_made(mask):
    with pytest.raises(
        ValueError, match=r"^mask must have the parameters' tree or a prefix of it, got mask=.* function"
    ):
        lrx.adamw(0.1, mask=mask).init(PARAMS)


@pytest.mark.parametrize("name", METHODS)
def test_the_inner_update_may_be_compiled(name):
    inner = optax.with_extra_args_support(METHODS[name](SCHEDULE))
    traces = []

    @jax.jit
    def update(updates, state, params, **extra_args):
        traces.append(1)
        return inner.update(updates, state, params, **extra_args)

    compiled = optax.GradientTransformationExtraArgs(inner.init, update)
    stream = gradient_stream(PARAMS, 3)
    expected, _, _ = run(lrx.group_rates(inner, LABELS, FACTORS), PARAMS, stream)
    tx = lrx.group_rates(compiled, LABELS, FACTORS)
    state, params = tx.init(PARAMS), PARAMS
    for step, (gradients, row) in enumerate(zip(stream, expected, strict=True)):
        if step == 2:
            first = len(traces)
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        assert_trees_close(updates, row, rtol=2e-5, atol=1e-6)
    assert len(traces) == first


@pytest.mark.parametrize("labels", [LABELS, lambda path, leaf: "fast" if path == "head" else "slow"])
def test_optax_maps_over_the_parameters_within_a_state(labels):
    tx = lrx.group_rates(lrx.adamw(0.1), labels, FACTORS)
    state = tx.init(PARAMS)
    doubled = optax.tree.map_params(tx, lambda leaf: leaf + 1, state, transform_non_params=lambda other: other)
    assert_trees_equal(doubled.factors, state.factors)
    for leaf in jax.tree.leaves(doubled.inner.adam.first_moment):
        np.testing.assert_array_equal(leaf, np.ones(leaf.shape))


def test_what_is_made_within_a_compiled_function_is_used_outside():
    made = []

    @jax.jit
    def make(x):
        factor = {"slow": lrx.linear_decay(1.0, 4), "fast": 1.0}
        made.append(lrx.group_rates(lrx.sgd(0.1), LABELS, factor))
        made.append(lrx.group_rates(lrx.sgd(0.1), LABELS, lambda label: jnp.float32(0.5) * 2))
        made[-1].init(PARAMS)
        return x

    make(1.0)
    for tx in made:
        updates, _ = tx.update(PARAMS, tx.init(PARAMS))
        np.testing.assert_allclose(updates["head"], -0.1 * PARAMS["head"], rtol=1e-6)


ELEMENTWISE = sorted(set(METHODS) - {"masked", "partition"})  # whose masks name other leaves


@pytest.mark.parametrize("name", first_tier_has(["adam", "multi steps"], ELEMENTWISE))
def test_a_factor_for_each_layer_of_a_stack_is_that_of_the_layer_alone(name):
    factors = {"first": 0.0, "second": 0.5, "third": 2.0}
    params = dict(zip(factors, gradient_stream({"w": jnp.zeros((2, 2))}, 3), strict=True))
    stream = gradient_stream(params, 4)

    def stack(tree):
        return {"layers": jnp.stack([leaf["w"] for leaf in tree.values()])}

    each, _, _ = run(lrx.group_rates(METHODS[name](SCHEDULE), {name: name for name in params}, factors), params, stream)
    column = jnp.asarray(list(factors.values())).reshape(3, 1, 1)
    together = lrx.group_rates(METHODS[name](SCHEDULE), {"layers": "all"}, {"all": column})
    rows, state, _ = run(together, stack(params), [stack(gradients) for gradients in stream])
    for row, expected in zip(rows, each, strict=True):
        assert_trees_close(row, stack(expected), rtol=1e-5, atol=1e-6)
    if name != "optax":
        assert lrx.learning_rate(state).shape == ()


def test_the_rate_shown_for_an_array_of_factors_is_the_largest():
    tx = lrx.group_rates(lrx.sgd(0.1), {"w": "rows"}, {"rows": jnp.asarray([[0.5], [2.0]])})
    state = tx.init({"w": jnp.ones((2, 3))})
    np.testing.assert_allclose(lrx.learning_rate(state), 0.2, rtol=1e-6)


def test_factors_within_a_leaf_must_broadcast_against_it():
    tx = lrx.group_rates(lrx.sgd(0.1), {"w": "rows"}, {"rows": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"^factors\['rows'\] must broadcast against each leaf .* give shape \(2, 1\)"):
        tx.init({"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"^factors\['rows'\] must be an array of finite numbers >= 0, got"):
        lrx.group_rates(lrx.sgd(0.1), {"w": "rows"}, {"rows": jnp.asarray([1.0, -1.0, 1.0])})


# --- what the laws hold it to ----------------------------------------------------------------------------------------


CASES = {
    "group_rates": Case(
        lrx.group_rates,
        {"tx": lrx.heavy_ball(0.1), "labels": lambda path, leaf: len(path) % 2, "factors": lambda label: 0.5 + label},
        {"factors": RATES},
        {"factors": lambda factor: lambda label: factor + label},
    ),
    "group_rates that freezes": Case(
        lrx.group_rates,
        {"tx": lrx.adamw(0.1), "labels": lambda path, leaf: len(path) % 2, "factors": lambda label: 2.0 * label},
        needs_params=True,
        decays=True,
    ),
}


REFUSED = [
    *refuse_links(lrx.group_rates),
    (lrx.group_rates, {"labels": None}, TypeError, "^labels must be a tree of labels or a function"),
    (lrx.group_rates, {"factors": {"x": -1.0}}, ValueError, "^factors\\['x'\\] must be a finite number >= 0, got"),
    (lrx.group_rates, {"factors": {"x": "1"}}, TypeError, "^factors\\['x'\\] must be a number, got"),
    (lrx.group_rates, {"factors": 0.5}, TypeError, "^factors must be a dict or a function of the label"),
]


DESCENDS = {
    "group_rates": lambda: lrx.group_rates(lrx.adam(0.1), lambda path, leaf: "all", {"all": 0.5}),
}


REFERENCE = {
    "group_rates": "test_each_group_has_a_rate_of_its_own_wherever_the_method_has_it",
}
