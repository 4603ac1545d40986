"""The size of updates relative to the parameters, by group; the updates themselves pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_equal, gradient_stream
from units import Case

import lrx

# Of NumPy, so that collecting the cases starts no backend.
PARAMS = {
    "body": {"w": np.full((2, 3), 2.0, np.float32), "b": np.zeros(3, np.float32)},
    "deep": {"attn": {"q": np.ones(4, np.float32), "k": np.full(2, 3.0, np.float32)}},
    "scale": np.full(1, 0.5, np.float32),
}
GROUPS = {"body": ["body/w", "body/b"], "deep/attn": ["deep/attn/q", "deep/attn/k"], "scale": ["scale"]}


def ratios(state):
    found = lrx.monitor(state)
    return {name.removeprefix("update_ratio/"): value for name, value in found.items() if "ratio" in name}


def test_the_ratio_of_each_layer_is_that_of_the_norms_and_updates_pass():
    plain = lrx.adam(0.1)
    tx = optax.chain(plain, lrx.update_ratio())
    params, state, alone = PARAMS, tx.init(PARAMS), plain.init(PARAMS)
    assert set(ratios(state)) == set(GROUPS)
    assert all(value == 0 for value in ratios(state).values())
    for gradients in gradient_stream(PARAMS, 20):
        updates, state = tx.update(gradients, state, params)
        expected, alone = plain.update(gradients, alone, params)
        assert_trees_equal(updates, expected)
        flat = {
            jax.tree_util.keystr(path, simple=True, separator="/"): (np.float64(u), np.float64(p))
            for (path, u), p in zip(jax.tree.leaves_with_path(updates), jax.tree.leaves(params), strict=True)
        }
        for group, members in GROUPS.items():
            moved, size = (np.concatenate([flat[name][place].ravel() for name in members]) for place in (0, 1))
            assert ratios(state)[group] == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(size), rel=1e-5)
        params = optax.apply_updates(params, updates)
    assert float(lrx.learning_rate(state)) == pytest.approx(0.1)


def test_groups_are_labelled_by_a_tree_a_prefix_or_a_function():
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    tree = {"body": 1, "deep": 2, "scale": 1}
    for labels in (tree, lambda path, leaf: 2 if path.startswith("deep") else 1):
        tx = optax.chain(lrx.sgd(0.1), lrx.update_ratio(labels))
        _, state = tx.update(gradients, tx.init(PARAMS), PARAMS)
        found = ratios(state)
        assert set(found) == {"1", "2"}
        assert found["2"] == pytest.approx(0.1 * np.sqrt(6 / 22), rel=1e-5)
    with pytest.raises(ValueError, match=r"^labels must have the parameters' tree or a prefix of it"):
        lrx.update_ratio({"body": 1}).init(PARAMS)
    assert set(ratios(lrx.update_ratio().init(jnp.ones(2)))) == {"all"}


def test_a_group_that_is_0_and_moves_is_infinite_and_one_without_a_gradient_is_0():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2), "n": jnp.arange(3)}
    tx = lrx.update_ratio()
    _, state = tx.update({"a": jnp.ones(2), "b": jnp.zeros(2), "n": None}, tx.init(params), params)
    assert {label: float(value) for label, value in ratios(state).items()} == {"a": np.inf, "b": 0.0, "n": 0.0}


def test_a_frozen_group_and_what_is_not_finite_are_left_out():
    params = {"a": jnp.ones(2), "b": jnp.full(2, 7.0)}
    tx = lrx.group_rates(
        optax.chain(lrx.sgd(0.5), lrx.update_ratio(lambda path, leaf: "all")),
        {"a": "a", "b": "b"},
        lambda label: 0.0 if label == "b" else 1.0,
    )
    _, state = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, tx.init(params), params)
    assert ratios(state)["all"] == pytest.approx(0.5)
    alone = lrx.update_ratio()
    _, state = alone.update({"a": jnp.array([1.0, jnp.nan]), "b": params["b"]}, alone.init(params), params)
    assert ratios(state)["a"] == pytest.approx(1 / np.sqrt(2))


def test_stability_is_read_through_it():
    tx = optax.chain(lrx.sgd(0.5), lrx.update_ratio())
    assert float(lrx.stability_limit(tx.init(PARAMS))) == 4.0


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "update_ratio": Case(lrx.update_ratio, needs_params=True),
    "update_ratio by label": Case(lrx.update_ratio, {"labels": lambda path, leaf: path[:1]}, needs_params=True),
}


REFUSED = [
    (lrx.update_ratio, {"labels": {"a": 0.5}}, TypeError, "^labels must be a tree of labels or a function of path"),
    (lrx.update_ratio, {"labels": {}}, TypeError, "^labels must be a tree of labels or a function of path"),
]


DESCENDS = {
    "update_ratio": lambda: optax.chain(lrx.adam(0.1), lrx.update_ratio()),
}


REFERENCE = {
    "update_ratio": "test_the_ratio_of_each_layer_is_that_of_the_norms_and_updates_pass",
}
