"""RMSProp against plain NumPy: theta - alpha g / sqrt(v + eps), v the running mean of squares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from units import (
    DECAYS,
    EPS,
    RATES,
    Case,
    refuse_flags,
    refuse_fractions,
    refuse_learning_rates,
    refuse_rates,
)

import lrx

STEPS = 30


def stream():
    return np.random.default_rng(13).normal(size=(STEPS, 4))


def paper(alpha_at, decay_at=lambda t: 0.99, eps=1e-8, eps_root=True):
    theta, mean, path = np.ones(4), np.zeros(4), []
    for t, gradient in enumerate(stream()):
        mean = decay_at(t) * mean + (1 - decay_at(t)) * gradient**2
        theta = theta - alpha_at(t) * gradient / (np.sqrt(mean + eps) if eps_root else np.sqrt(mean) + eps)
        path.append(theta)
    return np.asarray(path)


def run(tx):
    params, path = jnp.ones(4), []
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in stream():
        updates, state = update(jnp.asarray(gradient, jnp.float32), state)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.asarray(path), state


@pytest.mark.parametrize("arguments", [{}, {"eps": 0.3}, {"eps": 0.3, "eps_root": False}])
def test_rmsprop_follows_the_rule(arguments):
    expected = paper(lambda t: 0.01, **arguments)
    np.testing.assert_allclose(run(lrx.rmsprop(0.01, **arguments))[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_rmsprop_follows_the_rule_for_any_decay_and_a_schedule(decay):
    expected = paper(lambda t: 0.1 * max(1 - t / 20, 0), decay_at=lambda t: decay)
    np.testing.assert_allclose(
        run(lrx.rmsprop(lrx.linear_decay(0.1, 20), decay=decay))[0], expected, rtol=1e-5, atol=1e-6
    )


def test_the_decay_may_follow_the_step_and_is_shown():
    decay = lrx.interpolate({0: 0.5, 20: 0.9})
    expected = paper(lambda t: 0.01, decay_at=lambda t: 0.5 + 0.4 * min(t / 20, 1))
    path, state = run(lrx.rmsprop(0.01, decay=decay))
    np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lrx.monitor(state)["rmsprop/decay"], 0.9, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_the_first_step_is_longer_by_the_root_of_what_the_mean_forgets(decay):
    tx = lrx.rmsprop(0.01, decay=decay, eps=0.0)
    updates, _ = tx.update(jnp.asarray([3.0, -1e-3]), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, np.asarray([-0.01, 0.01]) / np.sqrt(1 - decay), rtol=1e-5)


def test_it_is_adam_without_first_moment_and_without_bias_correction():
    tx = lrx.scale_by_rmsprop(decay=0.9, eps=1e-3, eps_root=False)
    state, mean = tx.init(jnp.zeros(4)), np.zeros(4)
    adam = lrx.scale_by_adam(b1=0.0, b2=0.9, eps=0.0)
    adam_state = adam.init(jnp.zeros(4))
    for t, gradient in enumerate(stream(), 1):
        direction, state = tx.update(jnp.asarray(gradient, jnp.float32), state)
        corrected, adam_state = adam.update(jnp.asarray(gradient, jnp.float32), adam_state)
        mean = 0.9 * mean + 0.1 * gradient**2
        root = np.sqrt(mean)
        # Adam's direction is g sqrt(1 - 0.9^t) / root.
        np.testing.assert_allclose(
            direction, np.asarray(corrected) / np.sqrt(1 - 0.9**t) * root / (root + 1e-3), rtol=1e-4
        )


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "rmsprop": Case(lrx.rmsprop, {"learning_rate": 0.1}, {"learning_rate": RATES, "decay": DECAYS, "eps": EPS}),
    "scale_by_rmsprop": Case(lrx.scale_by_rmsprop, {"eps_root": False}, {"decay": DECAYS, "eps": EPS}),
}


REFUSED = [
    *refuse_learning_rates(lrx.rmsprop),
    *refuse_rates(lrx.rmsprop, "eps"),
    *refuse_flags(lrx.rmsprop, "eps_root"),
    *refuse_rates(lrx.scale_by_rmsprop, "eps"),
    *refuse_flags(lrx.scale_by_rmsprop, "eps_root"),
    *refuse_fractions(lrx.rmsprop, "decay", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.scale_by_rmsprop, "decay", "[0, 1)", (-0.1, 1.0)),
]


DESCENDS = {
    "rmsprop": lambda: lrx.rmsprop(lrx.cosine_decay(0.03, 600)),
    "scale_by_rmsprop": lambda: optax.chain(lrx.scale_by_rmsprop(), lrx.cosine_decay(0.03, 600)),
}


REFERENCE = {
    "rmsprop": "test_rmsprop_follows_the_rule",
    "scale_by_rmsprop": "test_rmsprop_follows_the_rule",
}
