"""The heavy ball against plain NumPy: v = beta v + alpha g, theta - v."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, gradient_stream, vector_params
from units import (
    DECAYS,
    RATES,
    Case,
    refuse_flags,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
)

import lrx

STEPS = 25
SCHEDULE = lrx.warmup(lrx.step_decay(0.2, 6, factor=0.3), 4)


def alpha_at(t):
    return 0.2 * t / 4 if t < 4 else 0.2 * 0.3 ** ((t - 4) // 6)


def stream():
    return np.random.default_rng(5).normal(size=(STEPS, 3))


def descend(tx):
    params, path = jnp.ones(3), []
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in stream():
        updates, state = update(jnp.asarray(gradient, jnp.float32), state)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.asarray(path), state


def test_heavy_ball_follows_polyaks_rule_with_the_rate_inside():
    theta, velocity, expected = np.ones(3), np.zeros(3), []
    for t, gradient in enumerate(stream()):
        velocity = 0.9 * velocity + alpha_at(t) * gradient
        theta = theta - velocity
        expected.append(theta)
    path, state = descend(lrx.heavy_ball(SCHEDULE, momentum=0.9))
    np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.velocity, velocity, rtol=1e-5, atol=1e-6)
    assert state.momentum == np.float32(0.9)


def test_momentum_correction_follows_goyals_rule():
    # v = beta (alpha_t / alpha_{t-1}) v + alpha_t g, equation 10, here without a rate of 0.
    theta, velocity, before, expected = np.ones(3), np.zeros(3), 1.0, []
    for t, gradient in enumerate(stream()):
        alpha = 0.2 * 0.3 ** (t // 6)
        velocity = 0.9 * (alpha / before) * velocity + alpha * gradient
        theta, before = theta - velocity, alpha
        expected.append(theta)
    tx = lrx.heavy_ball(lrx.step_decay(0.2, 6, factor=0.3), momentum=0.9, momentum_correction=True)
    np.testing.assert_allclose(descend(tx)[0], expected, rtol=1e-5, atol=1e-5)


def test_with_momentum_correction_it_is_sgd_for_every_schedule():
    corrected, _ = descend(lrx.heavy_ball(SCHEDULE, momentum_correction=True))
    np.testing.assert_allclose(corrected, descend(lrx.sgd(SCHEDULE, momentum=0.9))[0], rtol=1e-6, atol=1e-7)
    assert not np.allclose(corrected, descend(lrx.heavy_ball(SCHEDULE))[0], rtol=1e-2)


def test_with_a_constant_rate_it_is_sgd():
    np.testing.assert_allclose(
        descend(lrx.heavy_ball(0.1))[0], descend(lrx.sgd(0.1, momentum=0.9))[0], rtol=1e-5, atol=1e-6
    )


def test_a_drop_of_the_rate_leaves_the_velocity_its_size():
    # Gradients of 1, rates 1 and 0.1: the second step is 0.9 + 0.1 with the rate inside, 0.1 (0.9 + 1) outside.
    tx = lrx.heavy_ball(lrx.step_decay(1.0, 1, factor=0.1), momentum=0.9)
    state = tx.init(jnp.zeros(1))
    _, state = tx.update(jnp.ones(1), state)
    inside, _ = tx.update(jnp.ones(1), state)
    np.testing.assert_allclose(inside, [-(0.9 * 1.0 + 0.1)], rtol=1e-6)
    tx = lrx.heavy_ball(lrx.step_decay(1.0, 1, factor=0.1), momentum=0.9, momentum_correction=True)
    state = tx.init(jnp.zeros(1))
    _, state = tx.update(jnp.ones(1), state)
    outside, _ = tx.update(jnp.ones(1), state)
    np.testing.assert_allclose(outside, [-0.1 * 1.9], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, SCHEDULE])
def test_heavy_ball_equals_optax_with_the_trace_behind_the_rate(rate):
    ours = lrx.heavy_ball(rate, momentum=0.9)
    theirs = optax.chain(optax.scale_by_learning_rate(rate), optax.trace(0.9))
    params = vector_params()
    our_state, their_state = ours.init(params), theirs.init(params)
    for gradients in gradient_stream(params, STEPS):
        our_updates, our_state = ours.update(gradients, our_state, params)
        their_updates, their_state = theirs.update(gradients, their_state, params)
        assert_trees_close(our_updates, their_updates, rtol=1e-5, atol=1e-6)


def test_a_controller_scales_new_gradients_only():
    tx = lrx.heavy_ball(1.0 * lrx.reduce_on_plateau(factor=0.5, patience=0), momentum=0.9)
    state, velocity = tx.init(jnp.zeros(1)), 0.0
    for alpha in (1.0, 0.5, 0.25, 0.125):
        updates, state = tx.update(jnp.ones(1), state, value=1.0)
        velocity = 0.9 * velocity + alpha
        np.testing.assert_allclose(updates, [-velocity], rtol=1e-6)
        assert lrx.learning_rate(state) == alpha


def test_the_momentum_may_follow_the_step():
    momentum = lrx.interpolate({0: 0.5, 10: 0.9})
    theta, velocity, expected = np.ones(3), np.zeros(3), []
    for t, gradient in enumerate(stream()):
        velocity = (0.5 + 0.4 * min(t / 10, 1)) * velocity + alpha_at(t) * gradient
        theta = theta - velocity
        expected.append(theta)
    path, state = descend(lrx.heavy_ball(SCHEDULE, momentum=momentum))
    np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lrx.monitor(state)["heavy_ball/momentum"], 0.9, rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "heavy_ball": Case(
        lrx.heavy_ball,
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": RATES, "momentum": DECAYS},
        rolls_on=True,
    ),
    "heavy_ball with correction": Case(
        lrx.heavy_ball, {"learning_rate": 0.1, "momentum_correction": True}, {"momentum": DECAYS}
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.heavy_ball),
    *refuse_fractions(lrx.heavy_ball, "momentum", "[0, 1)", (-0.1, 1.0)),
    *refuse_flags(lrx.heavy_ball, "momentum_correction"),
    *refuse_moment_dtypes(lrx.heavy_ball),
]


DESCENDS = {
    "heavy_ball": lambda: lrx.heavy_ball(0.01),
}


REFERENCE = {
    "heavy_ball": "test_heavy_ball_follows_polyaks_rule_with_the_rate_inside",
}
