"""Groups around groups: the rates of the pairs that occur are shown, scaled and recorded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from group_examples import FACTORS, FROZEN, LABELS, PARAMS
from problems import assert_trees_equal

import lrx
from lrx.training import Batches, Workload, train

DECAYS = {"body": {"w": "decay", "b": "plain"}, "head": "decay"}


def decayed(rate=0.1):
    return optax.partition(
        {"decay": lrx.adamw(rate, weight_decay=0.1), "plain": lrx.adamw(rate, weight_decay=0.0)}, DECAYS
    )


@pytest.mark.parametrize(
    ("method", "inside"),
    [
        (lrx.sgd(0.1), ""),
        (lrx.adam(0.1), ""),
        (lrx.cocob(), ""),
        (lrx.group_rates(lrx.sgd(0.1), lambda path, leaf: "all", {"all": 1.0}), "/all"),
    ],
)
def test_the_rates_shown_around_other_groups_are_those_of_the_pairs_that_occur(method, inside):
    tx = lrx.group_rates(optax.partition({"decay": method, "plain": method}, DECAYS), LABELS, FACTORS)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    expected = {f"decay{inside}/slow": 0.01, f"decay{inside}/fast": 0.2, f"plain{inside}/slow": 0.01}
    rates = lrx.learning_rates(state)
    assert rates.keys() == expected.keys()
    if method.family != "cocob":
        np.testing.assert_allclose([rates[name] for name in expected], list(expected.values()), rtol=1e-6)


def test_groups_around_other_groups_are_read_changed_and_mapped():
    tx = lrx.group_rates(decayed(), LABELS, FACTORS)
    for init in (jax.jit(tx.init), tx.init):
        state = init(PARAMS)
        assert set(lrx.learning_rates(state)) == {"decay/slow", "decay/fast", "plain/slow"}
    once = lrx.scale_learning_rate(state, 0.5, group="decay/fast")
    _, once = tx.update(PARAMS, once, PARAMS)
    np.testing.assert_allclose(lrx.learning_rate(once, "decay/fast"), 0.1, rtol=1e-6)
    np.testing.assert_allclose(lrx.learning_rate(once, "decay/slow"), 0.01, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^group must have a rate of its own"):
        lrx.scale_learning_rate(state, 0.5, group="decay/slow")
    assert {"learning_rate/decay/slow", "scale/plain/slow"} <= set(lrx.monitor(state))
    mapped = optax.tree.map_params(tx, lambda leaf: leaf, state)
    assert_trees_equal(mapped, state)


def test_a_group_within_that_is_frozen_or_has_no_rate_is_in_no_pair():
    inner = optax.partition({"decay": lrx.sgd(0.1), "plain": optax.set_to_zero()}, DECAYS)
    state = lrx.group_rates(inner, {"body": "body", "head": "head"}, {"body": 0.5, "head": 1.0}).init(PARAMS)
    assert set(lrx.learning_rates(state)) == {"decay/body", "decay/head"}
    state = lrx.group_rates(decayed(), LABELS, FROZEN).init(PARAMS)
    assert set(lrx.learning_rates(state)) == {"decay/fast"}


def test_groups_of_foreign_rates_are_shown_in_every_pair_they_could_be_in():
    foreign = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    inner = optax.partition({"decay": foreign, "plain": foreign}, DECAYS)
    state = lrx.group_rates(inner, LABELS, FACTORS).init(PARAMS)
    assert set(lrx.learning_rates(state)) == {"decay/slow", "decay/fast", "plain/slow", "plain/fast"}


def test_groups_of_factors_within_are_paired_too():
    multipliers = optax.partition(
        {"decay": lrx.linear_decay(1.0, 4).multiplier(), "plain": lrx.constant(0.5).multiplier()}, DECAYS
    )
    state = lrx.group_rates(optax.chain(multipliers, lrx.sgd(0.1)), LABELS, FACTORS).init(PARAMS)
    rates = {name: float(rate) for name, rate in lrx.learning_rates(state).items()}
    assert rates == pytest.approx({"decay/slow": 0.01, "decay/fast": 0.2, "plain/slow": 0.005})


def test_train_records_the_rate_of_each_pair_and_resumes(tmp_path):
    batches = Batches({"x": jnp.ones((8, 2)), "y": jnp.ones(8)}, 4)

    def loss(params, batch, key):
        return jnp.mean((batch["x"] @ params["body"] + params["head"][0] - batch["y"]) ** 2)

    workload = Workload.from_functions(
        loss, lambda key: {"body": jnp.zeros(2), "head": jnp.zeros(1)}, batches, name="line"
    )
    inner = optax.partition({"d": lrx.adamw(0.1), "n": lrx.sgd(0.1)}, {"body": "d", "head": "n"})
    tx = lrx.group_rates(inner, {"body": "slow", "head": "fast"}, FACTORS)
    train(workload, tx, steps=2, checkpoint=tmp_path)
    history = train(workload, tx, steps=3, checkpoint=tmp_path)
    assert history.resumed_at == 2
    assert lrx.learning_rates(history.opt_state).keys() == {"d/slow", "n/fast"}
