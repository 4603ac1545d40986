"""Gradient accumulation against the large batch, and time counted in applied updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, assert_trees_equal, gradient_stream, vector_params

import lrx

EVERY, ROUNDS = 4, 8


def rounds():
    stream = gradient_stream(vector_params(), EVERY * ROUNDS)
    return [stream[start : start + EVERY] for start in range(0, EVERY * ROUNDS, EVERY)]


def mean(trees):
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


SCHEDULE = lrx.warmup(lrx.linear_decay(0.1, 5), 2)
OPTIMIZERS = {
    "sgd": lrx.sgd(SCHEDULE, momentum=0.9),
    "heavy_ball": lrx.heavy_ball(SCHEDULE),
    "nesterov": lrx.nesterov(SCHEDULE),
    "adam": lrx.adam(SCHEDULE),
    "adamw": lrx.adamw(SCHEDULE, weight_decay=0.1),
    "controlled": lrx.sgd(SCHEDULE * lrx.reduce_on_plateau(factor=0.5, patience=0)),
    "optax": optax.adam(SCHEDULE),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), lrx.sgd(SCHEDULE)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_equals_the_large_batch(name):
    tx = OPTIMIZERS[name]
    accumulated = lrx.accumulate(tx, EVERY)
    params = large = vector_params()
    state, large_state = accumulated.init(params), optax.with_extra_args_support(tx).init(large)
    update = jax.jit(accumulated.update)
    values = np.random.default_rng(0).uniform(1, 2, (ROUNDS, EVERY)).astype(np.float32)
    for gradients, losses in zip(rounds(), values, strict=True):
        for gradient, loss in zip(gradients[:-1], losses[:-1], strict=True):
            updates, state = update(gradient, state, params, value=loss)
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
        updates, state = update(gradients[-1], state, params, value=losses[-1])
        params = optax.apply_updates(params, updates)
        expected, large_state = optax.with_extra_args_support(tx).update(
            mean(gradients), large_state, large, value=np.mean(losses)
        )
        large = optax.apply_updates(large, expected)
        assert_trees_close(updates, expected, rtol=1e-5, atol=1e-6)
    assert_trees_close(state.inner, large_state, rtol=1e-5, atol=1e-6)


def test_schedules_and_adams_count_advance_once_for_each_applied_update():
    tx = lrx.accumulate(lrx.adam(lrx.linear_decay(1.0, 10)), EVERY)
    state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    for call in range(1, 3 * EVERY + 1):
        _, state = update(jnp.ones(1), state)
        applied = call // EVERY
        assert state.inner[0].count == applied
        np.testing.assert_allclose(lrx.learning_rate(state), 1 - max(applied - 1, 0) / 10, rtol=1e-6)


def test_a_controller_sees_the_mean_loss_once():
    tx = lrx.accumulate(lrx.sgd(1.0 * lrx.reduce_on_plateau(factor=0.5, patience=0)), 2)
    state = tx.init(jnp.zeros(1))
    for value in (3.0, 1.0, 0.5, 3.5):  # means 2 and 2: a plateau, though single losses rise and fall
        _, state = tx.update(jnp.ones(1), state, value=value)
    report = lrx.monitor(state)
    assert report["reduce_on_plateau/best_value"] == 2.0
    assert report["learning_rate"] == 0.5


def test_it_runs_in_a_compiled_scan():
    tx = lrx.accumulate(OPTIMIZERS["adam"], EVERY)
    params = vector_params()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[g for gradients in rounds() for g in gradients])

    def body(carry, gradients):
        params, state = carry
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), lrx.learning_rate(state)

    (scanned, _), rates = jax.jit(lambda *carry: jax.lax.scan(body, carry, stacked))(params, tx.init(params))
    state = tx.init(params)
    for gradients in (g for some in rounds() for g in some):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_close(scanned, params)
    np.testing.assert_allclose(rates[EVERY - 1 :: EVERY], SCHEDULE(np.arange(ROUNDS)), rtol=1e-6)


def test_the_inner_update_does_not_run_between():
    calls = []

    def update(updates, state, params=None):
        del params
        jax.debug.callback(lambda: calls.append(1), ordered=False)
        return updates, state

    tx = lrx.accumulate(optax.GradientTransformation(lambda params: optax.EmptyState(), update), EVERY)
    state, step = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    for _ in range(2 * EVERY):
        _, state = step(jnp.ones(1), state)
    jax.effects_barrier()
    assert len(calls) == 2


def test_sums_of_narrow_gradients_are_wide():
    tx = lrx.accumulate(lrx.sgd(1.0), 512)
    state, update = tx.init(jnp.zeros(1, jnp.bfloat16)), jax.jit(tx.update)
    for _ in range(512):
        updates, state = update(jnp.ones(1, jnp.bfloat16), state)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(updates, np.float32), [-1.0])


def test_an_observation_waits_for_the_applied_update():
    tx = lrx.accumulate(lrx.sgd(1.0 * lrx.reduce_on_plateau(factor=0.5, patience=0, feedback="observed")), 2)
    state = tx.init(jnp.zeros(1))
    for _ in range(2):
        state = lrx.observe(state, value=1.0)
        for _ in range(2):
            _, state = tx.update(jnp.ones(1), state)
    assert lrx.learning_rate(state) == 0.5


def test_after_the_round_everything_starts_from_zero():
    tx = lrx.accumulate(lrx.sgd(0.1), 2)
    fresh = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.ones(2), fresh, value=1.0)
    assert state.gathered == 1
    _, state = tx.update(jnp.ones(2), state, value=1.0)
    assert_trees_equal(state[:3], fresh[:3])


def test_an_evaluation_point_and_a_scaling_are_found_within():
    tx = lrx.accumulate(lrx.nesterov(0.1), 1)
    y = jnp.ones(1)
    updates, state = tx.update(y, tx.init(y), y)
    np.testing.assert_allclose(lrx.eval_params(state, y + updates), [0.9], rtol=1e-6)
    _, state = tx.update(y, lrx.scale_learning_rate(state, 0.5), y)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.05, rtol=1e-6)
