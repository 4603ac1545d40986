"""Gradient accumulation against the large batch, and time counted in applied updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, assert_trees_equal, gradient_stream, vector_params
from units import (
    NAN,
    Case,
    refuse,
    refuse_links,
)

import lrx
from lrx.run_state import minibatches

EVERY, ROUNDS = 4, 5  # a warm-up, and most of a decay


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
    state, update = tx.init(params), jax.jit(tx.update)
    for gradients in (g for some in rounds() for g in some):
        updates, state = update(gradients, state, params)
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


def calls(tx, gradients, values=None, state=None, params=None, **extra_args):
    """Return the updates of one coordinate, one after the other, and the last state."""
    params = jnp.zeros(1) if params is None else params
    state = tx.init(params) if state is None else state
    moved = []
    for index, gradient in enumerate(gradients):
        now = {name: given[index] for name, given in extra_args.items()}
        value = None if values is None else values[index]
        updates, state = tx.update(jnp.full(1, gradient), state, params, value=value, **now)
        moved.append(float(updates[0]))
    return moved, state


def test_a_round_that_goes_on_with_another_length_is_divided_by_what_was_gathered():
    seen = lrx.sgd(1.0 * lrx.reduce_on_plateau(factor=0.5, patience=9))
    _, state = calls(lrx.accumulate(seen, 4), [1.0] * 3, [5.0] * 3)
    for every in (2, 4):
        moved, after = calls(lrx.accumulate(seen, every), [1.0], [5.0], state)
        assert moved == [-1.0]
        assert lrx.monitor(after)["reduce_on_plateau/best_value"] == 5.0


def test_weights_make_means_over_tokens():
    seen = lrx.sgd(1.0 * lrx.reduce_on_plateau(factor=0.5, patience=9))
    moved, state = calls(lrx.accumulate(seen, 2), [1.0, 0.0], [2.0, 4.0], weight=[11, 101])
    np.testing.assert_allclose(moved, [0.0, -11 / 112], rtol=1e-7)
    best = lrx.monitor(state)["reduce_on_plateau/best_value"]
    np.testing.assert_allclose(best, (11 * 2 + 101 * 4) / 112, rtol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weighted_rounds_equal_the_large_batch_of_all_tokens(name):
    tx = optax.with_extra_args_support(OPTIMIZERS[name])
    accumulated, params = lrx.accumulate(tx, EVERY), vector_params()
    state, expected_state = accumulated.init(params), tx.init(params)
    update = jax.jit(accumulated.update)
    tokens = np.random.default_rng(0).integers(1, 50, (2, EVERY)).astype(np.float32)
    for gradients, weights in zip(rounds(), tokens, strict=False):
        for gradient, weight in zip(gradients, weights, strict=True):
            updates, state = update(gradient, state, params, value=weight / 7, weight=weight)
        large = jax.tree.map(lambda *leaves, w=weights: sum(map(np.multiply, w / w.sum(), leaves)), *gradients)
        loss = np.sum(weights * weights / 7) / weights.sum()
        expected, expected_state = tx.update(large, expected_state, params, value=loss)
        assert_trees_close(updates, expected, rtol=1e-5, atol=1e-6)
    assert_trees_close(state.inner, expected_state, rtol=1e-5, atol=1e-6)


def test_a_minibatch_without_weight_adds_nothing_and_a_round_of_them_goes_on():
    tx = lrx.accumulate(lrx.sgd(1.0), 2)
    moved, _ = calls(tx, [np.nan, 3.0], [np.nan, 1.0], weight=[0.0, 2.0])
    assert moved == [0.0, -3.0]
    moved, state = calls(tx, [np.nan, np.nan, 3.0], [np.nan] * 3, weight=[0.0, 0.0, 2.0])
    assert moved == [0.0, 0.0, -3.0]
    assert state.gathered == 0


def test_nested_rounds_keep_their_weights():
    tx = lrx.accumulate(lrx.accumulate(lrx.sgd(1.0), 2), 2)
    moved, _ = calls(tx, [1.0, 0.0, 0.0, 0.0], weight=[11, 1, 50, 50])
    np.testing.assert_allclose(moved, [0.0, 0.0, 0.0, -11 / 112], rtol=1e-7)


GROWING = [
    lrx.piecewise_constant(1, {1: 2, 3: 2}),
    lambda applied: jnp.where(applied < 1, 1, jnp.where(applied < 3, 2, 4)),
    lrx.join([1.0, 2.0, 4.0], [1, 3]),
]


@pytest.mark.parametrize("every", GROWING, ids=["schedule", "function", "join"])
def test_the_batch_grows_by_the_applied_update(every):
    tx = lrx.accumulate(lrx.sgd(1.0), every)
    state, traces = tx.init(jnp.zeros(1)), []

    @jax.jit
    def step(state):
        traces.append(1)
        return tx.update(jnp.ones(1), state)

    applied, lengths = [], []
    for call in range(1, 14):
        lengths.append(int(state.every))
        updates, state = step(state)
        applied += [call] if updates[0] else []
    assert applied == [1, 3, 5, 9, 13]
    assert lengths == [1, 2, 2, 2, 2, *[4] * 8]
    assert len(traces) == 1


def test_a_growing_batch_is_swept():
    def updates(every):
        tx = lrx.accumulate(lrx.sgd(1.0), lrx.piecewise_constant(1, {1: every}))
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], tx.init(jnp.zeros(1)), jnp.ones((4, 1)))[1]

    np.testing.assert_array_equal(jax.vmap(updates)(jnp.asarray([1, 2]))[..., 0], [[-1] * 4, [-1, 0, -1, 0]])


@pytest.mark.parametrize("traced", [False, True])
def test_the_last_step_of_a_run_applies_what_is_there(traced):
    tx = lrx.accumulate(lrx.sgd(1.0), 4)
    tx = optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update) if traced else tx.update)
    moved, state = calls(tx, [1.0] * 10, complete=[False] * 9 + [True])
    assert sum(moved) == -3.0
    assert state.gathered == 0
    nested = lrx.accumulate(lrx.accumulate(lrx.sgd(1.0), 2), 2)
    assert sum(calls(nested, [1.0] * 7, complete=[False] * 6 + [True])[0]) == -2.0


def test_a_state_says_how_far_its_rounds_are():
    tx = lrx.accumulate(optax.chain(optax.clip(1.0), lrx.accumulate(lrx.adam(0.1), 3)), 2)
    _, state = calls(tx, [1.0] * 5)
    assert [(int(gathered), int(every)) for gathered, every in minibatches(state)] == [(5, 6)]
    steps = optax.MultiSteps(lrx.sgd(0.1), 3).gradient_transformation()
    _, state = calls(optax.with_extra_args_support(steps), [1.0] * 2)
    assert [(int(gathered), every) for gathered, every in minibatches(state)] == [(2, None)]
    assert minibatches(lrx.adam(0.1).init(jnp.zeros(1))) == []
    assert lrx.monitor(tx.init(jnp.zeros(1)))["accumulation/every"] == 2


def test_weights_below_zero_are_refused():
    tx = lrx.accumulate(lrx.sgd(1.0), 2)
    with pytest.raises(ValueError, match=r"^weight must be a finite number >= 0, got weight=-1\.0"):
        calls(tx, [1.0], weight=[-1.0])
    with pytest.raises(ValueError, match=r"^weight must be a scalar, got weight of shape"):
        calls(tx, [1.0], weight=[jnp.ones(2)])


@pytest.mark.parametrize("compiled", [False, True])
def test_it_keeps_explicit_shardings(compiled):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.ones((2, 2)), jax.P("data", None))
        tx = lrx.accumulate(lrx.adam(0.1), 2)
        state, update = tx.init(params), jax.jit(tx.update) if compiled else tx.update
        for _ in range(2):
            updates, state = update(params, state, params)
        assert jax.typeof(updates).sharding == jax.typeof(params).sharding
        assert jax.typeof(state.gradients).sharding == jax.typeof(params).sharding
    np.testing.assert_allclose(updates, -0.1, rtol=1e-5)


def stream(noise, signal, number, weights=None, seed=0):
    """Return (number, 200) float32: gradients of a known signal and noise, whose variance falls with their weight."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=200)
    drawn = rng.normal(size=(number, 200)) * np.sqrt(noise / 200)
    scale = 1 if weights is None else np.asarray(weights)[:, None] ** -0.5
    return (np.sqrt(signal) * direction / np.linalg.norm(direction) + scale * drawn).astype(np.float32)


def noise_scale_after(tx, gradients, weights=None):
    def step(state, seen):
        gradient, weight = seen
        return tx.update(gradient, state, jnp.zeros(200), **({} if weights is None else {"weight": weight}))[1], None

    weight = jnp.ones(len(gradients)) if weights is None else jnp.asarray(weights, jnp.float32)
    state = jax.jit(lambda *seen: jax.lax.scan(step, tx.init(jnp.zeros(200)), seen)[0])(gradients, weight)
    return float(lrx.monitor(state)["accumulation/noise_scale"]), state


@pytest.mark.parametrize(("noise", "signal"), [(8.0, 1.0), (1.0, 4.0)])
def test_the_noise_scale_of_a_known_stream_is_found(noise, signal):
    tx = lrx.accumulate(lrx.sgd(0.1), 4, noise_scale=True)
    found, state = noise_scale_after(tx, stream(noise, signal, 1600))
    assert found == pytest.approx(noise / signal, rel=0.1)
    plain = lrx.accumulate(lrx.sgd(0.1), 4)
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(plain.init(jnp.zeros(200)))) + 4
    assert not any("noise" in name for name in lrx.monitor(plain.init(jnp.zeros(200))))


def test_the_noise_scale_of_weighted_gradients_is_in_weights():
    weights = np.tile([1.0, 7.0, 0.0, 3.0, 5.0], 400)
    gradients = stream(40.0, 1.0, len(weights), np.maximum(weights, 1))
    gradients[2::5] = np.nan  # of weight 0
    found, _ = noise_scale_after(lrx.accumulate(lrx.sgd(0.1), 5, noise_scale=True), gradients, weights)
    assert found == pytest.approx(40.0, rel=0.1)


def test_without_a_signal_the_noise_scale_is_infinite_and_single_gradients_say_nothing():
    tx = lrx.accumulate(lrx.sgd(0.1), 4, noise_scale=True)
    assert lrx.monitor(tx.init(jnp.zeros(200)))["accumulation/noise_scale"] == np.inf
    one, state = noise_scale_after(lrx.accumulate(lrx.sgd(0.1), 1, noise_scale=True), stream(1.0, 1.0, 8))
    assert one == np.inf
    assert state.noise.noise == state.noise.signal == 0
    spoiled = stream(8.0, 1.0, 800)
    spoiled[3] = np.inf
    assert noise_scale_after(tx, spoiled)[0] == pytest.approx(8.0, rel=0.2)


def test_a_frozen_group_adds_nothing_to_the_noise_scale():
    tx = lrx.group_rates(
        lrx.accumulate(lrx.sgd(0.1), 2, noise_scale=True),
        {"a": "a", "b": "b"},
        lambda label: 0.0 if label == "b" else 1.0,
    )
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    state = tx.init(params)
    for a, b in ((1.0, 50.0), (3.0, -50.0)):
        _, state = tx.update({"a": jnp.full(2, a), "b": jnp.full(2, b)}, state, params)
    assert lrx.monitor(state)["accumulation/noise_scale"] == pytest.approx(4 / (8 - 2), rel=1e-5)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "accumulate": Case(
        lrx.accumulate, {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9), "every": 1}, {"every": (1, 2, 3)}
    ),
    "accumulate and the noise scale": Case(
        lrx.accumulate, {"tx": lrx.sgd(0.1, momentum=0.9), "every": 1, "noise_scale": True}, {"every": (1, 2, 3)}
    ),
    "accumulate a growing batch": Case(
        lrx.accumulate, {"tx": lrx.adam(0.1), "every": lambda applied: jnp.where(applied < 2, 1, 2)}
    ),
}


REFUSED = [
    *refuse_links(lrx.accumulate),
    *refuse(
        lrx.accumulate, "every", (0, -2, 2.5, NAN), ValueError, "must be a whole number of gradients >= 1 and.*got {0}="
    ),
    (lrx.accumulate, {"noise_scale": 1}, TypeError, "^noise_scale must be True or False, got noise_scale=1"),
    (
        lrx.accumulate,
        {"every": 4.0 * lrx.reduce_on_plateau()},
        TypeError,
        "^every must be a Schedule, got the feedback",
    ),
]


DESCENDS = {
    "accumulate": lambda: lrx.accumulate(lrx.adam(0.1), 2),
}


REFERENCE = {
    "accumulate": "test_it_equals_the_large_batch",
}
