"""SGD against plain NumPy: theta - alpha g, and theta - alpha u with u = beta u + g."""

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


def descend(tx, theta, gradients):
    """Return the parameters after each step."""
    params, state, path = jnp.asarray(theta, jnp.float32), tx.init(jnp.asarray(theta, jnp.float32)), []
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(jnp.asarray(gradient, jnp.float32), state)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.asarray(path)


def stream(steps=STEPS):
    return np.random.default_rng(3).normal(size=(steps, 4))


def test_the_seeds_worked_example():
    # Rate 0.01, gradients (0.5, 2.0) then (0.4, 1.8) from (0, 0).
    path = descend(lrx.sgd(0.01), [0.0, 0.0], [[0.5, 2.0], [0.4, 1.8]])
    np.testing.assert_allclose(path, [[-0.005, -0.02], [-0.009, -0.038]], rtol=1e-6)


def test_plain_sgd_follows_the_rule_under_a_schedule():
    schedule = lrx.warmup(lrx.cosine_decay(0.3, 15), 5)
    theta, expected = np.ones(4), []
    for t, gradient in enumerate(stream()):
        alpha = 0.3 * t / 5 if t < 5 else 0.3 * (1 + np.cos(np.pi * min(t - 5, 15) / 15)) / 2
        theta = theta - alpha * gradient
        expected.append(theta)
    np.testing.assert_allclose(descend(lrx.sgd(schedule), np.ones(4), stream()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_follows_the_rule_with_the_rate_outside(nesterov):
    theta, velocity, expected = np.ones(4), np.zeros(4), []
    for t, gradient in enumerate(stream()):
        velocity = 0.9 * velocity + gradient
        direction = gradient + 0.9 * velocity if nesterov else velocity
        theta = theta - 0.2 * 0.5 ** (t // 8) * direction
        expected.append(theta)
    tx = lrx.sgd(lrx.step_decay(0.2, 8, factor=0.5), momentum=0.9, nesterov=nesterov)
    np.testing.assert_allclose(descend(tx, np.ones(4), stream()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("momentum", "nesterov"), [(None, False), (0.9, False), (0.9, True)])
def test_sgd_equals_optax(momentum, nesterov):
    schedule = lrx.linear_decay(0.1, 20)
    ours, theirs = lrx.sgd(schedule, momentum=momentum, nesterov=nesterov), optax.sgd(schedule, momentum, nesterov)
    params = vector_params()
    our_state, their_state = ours.init(params), theirs.init(params)
    for gradients in gradient_stream(params, STEPS):
        our_updates, our_state = ours.update(gradients, our_state, params)
        their_updates, their_state = theirs.update(gradients, their_state, params)
        assert_trees_close(our_updates, their_updates, rtol=2e-6)


def test_momentum_of_zero_is_plain_sgd():
    np.testing.assert_array_equal(
        descend(lrx.sgd(0.1, momentum=0.0), np.ones(4), stream()), descend(lrx.sgd(0.1), np.ones(4), stream())
    )


def test_scale_by_momentum_gives_the_direction_without_sign_or_rate():
    tx = optax.chain(lrx.scale_by_momentum(0.5), lrx.constant(0.1))
    np.testing.assert_allclose(
        descend(tx, np.ones(4), stream()), descend(lrx.sgd(0.1, momentum=0.5), np.ones(4), stream())
    )
    direction, _ = lrx.scale_by_momentum(0.5).update(jnp.ones(2), lrx.scale_by_momentum(0.5).init(jnp.ones(2)))
    np.testing.assert_array_equal(direction, [1.0, 1.0])


def test_sgd_converges_on_a_quadratic():
    curvature = jnp.asarray([1.0, 10.0])
    theta, tx = jnp.asarray([1.0, 1.0]), lrx.sgd(0.1, momentum=0.5)
    state = tx.init(theta)
    for _ in range(100):
        updates, state = tx.update(curvature * theta, state)
        theta = theta + updates
    assert float(jnp.max(jnp.abs(theta))) < 1e-4


def test_the_momentum_may_follow_the_step_and_is_shown():
    momentum = lrx.one_cycle_momentum(STEPS, pct_start=0.4, anneal="linear")
    theta, velocity, expected = np.ones(4), np.zeros(4), []
    for t, gradient in enumerate(stream()):
        velocity = float(momentum(t)) * velocity + gradient
        theta = theta - 0.1 * velocity
        expected.append(theta)
    tx = lrx.sgd(0.1, momentum=momentum)
    np.testing.assert_allclose(descend(tx, np.ones(4), stream()), expected, rtol=1e-5, atol=1e-5)
    _, state = tx.update(jnp.ones(4), tx.init(jnp.ones(4)))
    np.testing.assert_allclose(lrx.monitor(state)["momentum/momentum"], 0.95, rtol=1e-6)


def test_constant_and_scheduled_momentum_have_one_state_tree():
    states = [lrx.sgd(0.1, momentum=beta).init(jnp.ones(4)) for beta in (0.9, lrx.linear_decay(0.9, 5))]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_a_momentum_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^momentum must be in \[0, 1\), got momentum=1.5"):
        lrx.sgd(0.1, momentum=lrx.linear_decay(1.5, 10))
    with pytest.raises(TypeError, match=r"^momentum must be a number or a Schedule, got .*, which follows feedback"):
        lrx.sgd(0.1, momentum=0.9 * lrx.reduce_on_plateau())


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "sgd": Case(lrx.sgd, {"learning_rate": 0.1}, {"learning_rate": RATES}),
    "sgd with momentum": Case(
        lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": RATES, "momentum": DECAYS}
    ),
    "sgd with nesterov": Case(lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, {"momentum": DECAYS}),
    "scale_by_momentum": Case(lrx.scale_by_momentum, {"momentum": 0.9}, {"momentum": DECAYS}),
    "sgd with a wide velocity": Case(
        lrx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "moment_dtype": "float32"}, {"momentum": DECAYS}
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.sgd),
    *refuse_fractions(lrx.sgd, "momentum", "[0, 1)", (-0.1, 1.0)),
    *refuse_flags(lrx.sgd, "nesterov"),
    (lrx.sgd, {"nesterov": True}, ValueError, "^nesterov needs momentum, got nesterov=True, momentum=None"),
    *refuse_fractions(lrx.scale_by_momentum, "momentum", "[0, 1)", (-0.1, 1.0)),
    *refuse_flags(lrx.scale_by_momentum, "nesterov"),
    *refuse_moment_dtypes(lrx.sgd),
    *refuse_moment_dtypes(lrx.scale_by_momentum),
]


DESCENDS = {
    "sgd": lambda: lrx.sgd(0.03),
    "sgd with momentum": lambda: lrx.sgd(0.01, momentum=0.9),
    "sgd with nesterov": lambda: lrx.sgd(0.01, momentum=0.9, nesterov=True),
    "scale_by_momentum": lambda: optax.chain(lrx.scale_by_momentum(0.9), lrx.constant(0.01)),
}


REFERENCE = {
    "sgd": "test_momentum_follows_the_rule_with_the_rate_outside",
    "scale_by_momentum": "test_scale_by_momentum_gives_the_direction_without_sign_or_rate",
}
