"""A factor of 0 takes a group out of whatever a method computes from all parameters, as if it were not there."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES
from problems import assert_trees_close, assert_trees_equal, gradient_stream
from units import bowl

import lrx

COUPLED = {label: case for label, case in CASES.items() if case.coupled and case.make is not lrx.rollback_on_divergence}
LABELS = {"head": "head", "body": "body"}
# What is frozen is large, so that it would show in every statistic.
PARAMS = {"head": jnp.asarray([[0.5, -1.0], [2.0, 0.25]]), "body": jnp.full(30, 40.0)}
STREAM = [{**gradients, "body": 50 * gradients["body"]} for gradients in gradient_stream(PARAMS, 6)]
STREAM = [{**gradients, "head": gradients["head"] + 1} for gradients in STREAM]  # one way: distances grow


def run(tx, params, value_fn=None):
    tx = optax.with_extra_args_support(tx)

    def step(carry, seen):
        params, state = carry
        gradients, value = seen
        given = {} if value_fn is None else {"value_fn": value_fn}
        updates, state = tx.update(gradients, state, params, value=value, **given)
        return (optax.apply_updates(params, updates), state), updates

    stream = jax.tree.map(lambda *leaves: jnp.stack(leaves), *STREAM)
    values = jnp.asarray([1.0, 0.9, 0.95, 0.7, 0.6, 0.65])
    (params, state), updates = jax.lax.scan(step, (params, tx.init(params)), (stream, values))
    return updates, state


def rate_of(state):
    return lrx.learning_rates(state)["head"]


# Each is three programs.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=label, marks=[] if label in ("dog", "mechanic", "momo") else [pytest.mark.slow])
        for label, case in COUPLED.items()
    ],
)
def test_a_factor_of_0_is_as_if_the_group_were_not_there(case):
    value_fn = None
    if case.searches:  # of the whole, and the same without what is frozen
        value_fn, case = (lambda params: bowl({"head": params["head"]})), dataclasses.replace(case, searches=False)
    tx = case()
    apart = optax.partition({"head": tx, "body": optax.set_to_zero()}, LABELS)
    expected, state = jax.jit(lambda: run(apart, PARAMS, value_fn))()
    reads = bool(jax.tree.leaves(lrx.monitor(state))) and "learning_rate" in " ".join(lrx.monitor(state))

    @jax.jit
    def traced(factor):
        return run(lrx.group_rates(tx, LABELS, {"head": 1.0, "body": factor}), PARAMS, value_fn)

    frozen = jax.jit(lambda: run(lrx.group_rates(tx, LABELS, {"head": 1.0, "body": 0.0}), PARAMS, value_fn))
    for name, (updates, grouped) in {"a number": frozen(), "traced": traced(0.0)}.items():
        assert_trees_close(updates["head"], expected["head"], rtol=1e-5, atol=1e-7)
        assert not np.any(updates["body"]), name
        if reads:
            np.testing.assert_allclose(rate_of(grouped), rate_of(state), rtol=1e-5)
    assert case.make is lrx.armijo or np.any(traced(1.0)[0]["body"])  # which may find no step that the loss allows


def test_what_is_frozen_stays_bit_by_bit_whatever_its_gradient():
    tx = lrx.group_rates(lrx.adamw(0.1, weight_decay=0.5), LABELS, {"head": 1.0, "body": 0.0})
    params, state = PARAMS, tx.init(PARAMS)
    for scale in (1.0, jnp.nan, jnp.inf):
        updates, state = tx.update(jax.tree.map(lambda leaf, scale=scale: scale * leaf, PARAMS), state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_equal(params["body"], PARAMS["body"])


def test_a_search_promises_the_decrease_of_the_step_that_its_groups_take():
    def loss(params):
        return jnp.sum(jnp.square(params["head"]))

    tx = lrx.group_rates(lrx.armijo(c=0.5), LABELS, {"head": 0.01, "body": 1.0})
    value, gradients = jax.value_and_grad(loss)(PARAMS)
    updates, _ = tx.update(gradients, tx.init(PARAMS), PARAMS, value=value, value_fn=loss)
    np.testing.assert_allclose(updates["head"], -0.02 * PARAMS["head"], rtol=1e-5)
