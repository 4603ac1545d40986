"""AdaGrad against plain NumPy: theta - alpha g / sqrt(G + eps), G the sum of squares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from units import (
    EPS,
    RATES,
    Case,
    refuse_flags,
    refuse_learning_rates,
    refuse_rates,
)

import lrx

STEPS = 30
SCHEDULE = lrx.warmup(lrx.linear_decay(0.5, 20), 5)


def stream(scale=1.0):
    return scale * np.random.default_rng(11).normal(size=(STEPS, 4))


def paper(gradients, alpha_at, eps=1e-8, eps_root=True, initial=0.0):
    theta, total, path = np.ones(4), np.full(4, initial), []
    for t, gradient in enumerate(gradients):
        total = total + gradient**2
        theta = theta - alpha_at(t) * gradient / (np.sqrt(total + eps) if eps_root else np.sqrt(total) + eps)
        path.append(theta)
    return np.asarray(path)


def run(tx, gradients):
    params, path = jnp.ones(4), []
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(jnp.asarray(gradient, jnp.float32), state)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.asarray(path)


@pytest.mark.parametrize(
    ("arguments", "of_paper"),
    [
        ({}, {}),
        ({"eps": 0.5}, {"eps": 0.5}),
        ({"eps": 0.5, "eps_root": False}, {"eps": 0.5, "eps_root": False}),
        ({"initial_accumulator": 0.1}, {"initial": 0.1}),
    ],
)
def test_adagrad_follows_the_rule(arguments, of_paper):
    expected = paper(stream(), lambda t: 0.1, **of_paper)
    np.testing.assert_allclose(run(lrx.adagrad(0.1, **arguments), stream()), expected, rtol=1e-5, atol=1e-6)


def test_adagrad_follows_the_rule_under_a_schedule():
    expected = paper(stream(), lambda t: 0.5 * t / 5 if t < 5 else 0.5 * (1 - (t - 5) / 20) if t < 25 else 0.0)
    np.testing.assert_allclose(run(lrx.adagrad(SCHEDULE), stream()), expected, rtol=1e-5, atol=1e-6)


def test_the_effective_rate_of_a_coordinate_never_grows():
    tx = lrx.scale_by_adagrad()
    state, before = tx.init(jnp.zeros(4)), np.full(4, np.inf)
    for gradient in stream():
        direction, state = tx.update(jnp.asarray(gradient, jnp.float32), state)
        effective = np.asarray(direction) / gradient
        assert np.all(effective <= before * (1 + 1e-6))
        before = effective


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_steps_do_not_depend_on_the_size_of_a_coordinates_gradients(scale):
    plain, scaled = run(lrx.adagrad(0.1, eps=0.0), stream()), run(lrx.adagrad(0.1, eps=0.0), stream(scale))
    np.testing.assert_allclose(plain, scaled, rtol=1e-5, atol=1e-6)


def test_the_sum_of_narrow_gradients_grows_on():
    # In bfloat16 256 + 1 is 256.
    tx = lrx.scale_by_adagrad()
    state = tx.init(jnp.zeros(1, jnp.bfloat16))
    for _ in range(300):
        _, state = tx.update(jnp.ones(1, jnp.bfloat16), state)
    np.testing.assert_allclose(state.sum_of_squares, [300.0])


def test_a_coordinate_without_gradients_stays_with_eps_zero():
    tx = lrx.adagrad(0.1, eps=0.0)
    updates, _ = tx.update(jnp.asarray([0.0, 2.0]), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, [0.0, -0.1], rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "adagrad": Case(
        lrx.adagrad,
        {"learning_rate": 0.1},
        {"learning_rate": RATES, "eps": EPS, "initial_accumulator": (0.0, 0.1, 1.0)},
    ),
    "scale_by_adagrad": Case(
        lrx.scale_by_adagrad, {"eps_root": False}, {"eps": EPS, "initial_accumulator": (0.0, 0.1, 1.0)}
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.adagrad),
    *refuse_rates(lrx.adagrad, "eps"),
    *refuse_flags(lrx.adagrad, "eps_root"),
    *refuse_rates(lrx.scale_by_adagrad, "eps"),
    *refuse_flags(lrx.scale_by_adagrad, "eps_root"),
    *refuse_rates(lrx.adagrad, "initial_accumulator"),
    *refuse_rates(lrx.scale_by_adagrad, "initial_accumulator"),
]


DESCENDS = {
    "adagrad": lambda: lrx.adagrad(0.3),
    "scale_by_adagrad": lambda: optax.chain(lrx.scale_by_adagrad(), lrx.constant(0.3)),
}


REFERENCE = {
    "adagrad": "test_adagrad_follows_the_rule",
    "scale_by_adagrad": "test_adagrad_follows_the_rule",
}
