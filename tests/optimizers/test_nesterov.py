"""Nesterov's method against plain NumPy in its look-ahead form, whose gradients are taken at y."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from units import (
    DECAYS,
    RATES,
    Case,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
)

import lrx

STEPS = 30
CURVATURE = np.asarray([[3.0, 0.5], [0.5, 1.0]])
SCHEDULE = lrx.step_decay(0.1, 10, factor=0.5)


def gradient_at(point):
    return CURVATURE @ point


def paper(schedule, momentum=0.9):
    """Return the trajectories of theta and y: y = theta + beta (theta - theta_before), theta = y - alpha g(y)."""
    theta = before = np.asarray([1.0, -2.0])
    velocity, thetas, points = np.zeros(2), [], []
    for t in range(STEPS):
        point = theta + momentum * (theta - before)
        velocity = momentum * velocity + schedule(t) * gradient_at(point)
        theta, before = theta - velocity, theta
        thetas.append(theta)
        points.append(point)
    return np.asarray(thetas), np.asarray(points)


def run(tx):
    y = jnp.asarray([1.0, -2.0])
    state, update, thetas, points = tx.init(y), jax.jit(tx.update), [], []
    for _ in range(STEPS):
        points.append(np.asarray(y))
        updates, state = update(jnp.asarray(CURVATURE, jnp.float32) @ y, state, y)
        y = optax.apply_updates(y, updates)
        thetas.append(np.asarray(lrx.eval_params(state, y)))
    return np.asarray(thetas), np.asarray(points)


@pytest.mark.parametrize("rate", ["constant", "scheduled"])
def test_nesterov_follows_the_look_ahead_rule(rate):
    schedule = (lambda t: 0.1) if rate == "constant" else (lambda t: 0.1 * 0.5 ** (t // 10))
    thetas, points = paper(schedule)
    our_thetas, our_points = run(lrx.nesterov(0.1 if rate == "constant" else SCHEDULE, momentum=0.9))
    np.testing.assert_allclose(our_points, points, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(our_thetas, thetas, rtol=1e-4, atol=1e-5)


def test_velocity_is_the_difference_of_the_iterates():
    # v_t = theta_{t-1} - theta_t, also when the rate changes: what makes the two forms above the same.
    thetas, points = paper(lambda t: 0.1 * 0.5 ** (t // 10))
    steps = thetas[1:-1] - thetas[:-2]
    np.testing.assert_allclose(points[2:], thetas[1:-1] + 0.9 * steps, rtol=1e-12)


def test_with_a_constant_rate_it_is_sgd_with_the_nesterov_flag():
    _, ours = run(lrx.nesterov(0.1, momentum=0.9))
    y = jnp.asarray([1.0, -2.0])
    tx = optax.sgd(0.1, momentum=0.9, nesterov=True)
    state = tx.init(y)
    for expected in ours:
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
        updates, state = tx.update(jnp.asarray(CURVATURE, jnp.float32) @ y, state)
        y = optax.apply_updates(y, updates)


def test_with_a_changing_rate_it_differs_from_the_flag():
    _, ours = run(lrx.nesterov(SCHEDULE, momentum=0.9))
    _, flagged = run(lrx.sgd(SCHEDULE, momentum=0.9, nesterov=True))
    np.testing.assert_allclose(ours[:10], flagged[:10], rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours[12:], flagged[12:], rtol=1e-2)


def test_eval_params_before_the_first_step_and_for_other_methods_are_the_parameters():
    params = {"w": jnp.asarray([1.0, 2.0])}
    np.testing.assert_array_equal(lrx.eval_params(lrx.nesterov(0.1).init(params), params)["w"], [1.0, 2.0])
    assert lrx.eval_params(lrx.adam(0.1).init(params), params) is params


def test_eval_params_keep_structure_and_types():
    params = {"w": jnp.ones(2, jnp.bfloat16), "b": None, "s": jnp.asarray(1.0)}
    tx = lrx.nesterov(0.1)
    _, state = tx.update(params, tx.init(params), params)
    moved = lrx.eval_params(state, params)
    assert jax.tree.map(jnp.result_type, moved) == jax.tree.map(jnp.result_type, params)
    np.testing.assert_allclose(moved["s"], 1.0 + 0.9 * 0.1, rtol=1e-6)


def test_eval_params_leave_alone_what_is_masked_out():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(1), "d": jnp.ones(1)}}
    tx = optax.chain(optax.masked(lrx.nesterov(0.5, momentum=0.5), {"a": True, "b": False}))
    _, state = tx.update(params, tx.init(params), params)
    moved = lrx.eval_params(state, params)
    np.testing.assert_array_equal(moved["a"], [1.25, 1.25])
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, moved["b"])) == {"c": 1.0, "d": 1.0}


def test_eval_params_reads_an_nnx_optimizer():
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.ones(2))

    model = Model()
    optimizer = nnx.Optimizer(model, lrx.nesterov(0.1), wrt=nnx.Param)
    gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    optimizer.update(model, gradients)
    theta = lrx.eval_params(optimizer, nnx.state(model, nnx.Param))
    np.testing.assert_allclose(theta["w"][...], [0.9, 0.9], rtol=1e-6)


def test_eval_params_refuses_two_methods_with_points_of_their_own():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = optax.partition({"x": lrx.nesterov(0.1), "y": lrx.nesterov(0.2)}, {"a": "x", "b": "y"})
    with pytest.raises(ValueError, match="state must hold one method with an evaluation point, got 2"):
        lrx.eval_params(tx.init(params), params)


def test_a_momentum_that_follows_the_step_looks_ahead_with_that_of_the_next_step():
    # Sutskever's momentum rises; y_{t+1} is where beta_{t+1} leads to.
    momentum = lrx.interpolate({0: 0.5, 20: 0.95})
    theta = before = np.asarray([1.0, -2.0])
    velocity, thetas, points = np.zeros(2), [], []
    for t in range(STEPS):
        beta = 0.5 + 0.45 * min(t / 20, 1)
        point = theta + beta * (theta - before)
        velocity = beta * velocity + 0.1 * gradient_at(point)
        theta, before = theta - velocity, theta
        thetas.append(theta)
        points.append(point)
    our_thetas, our_points = run(lrx.nesterov(0.1, momentum=momentum))
    np.testing.assert_allclose(our_points, points, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(our_thetas, thetas, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "nesterov": Case(
        lrx.nesterov,
        {"learning_rate": 0.1, "momentum": 0.9},
        {"learning_rate": RATES, "momentum": DECAYS},
        rolls_on=True,
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.nesterov),
    *refuse_fractions(lrx.nesterov, "momentum", "[0, 1)", (-0.1, 1.0)),
    *refuse_moment_dtypes(lrx.nesterov),
]


DESCENDS = {
    "nesterov": lambda: lrx.nesterov(0.01),
}


REFERENCE = {
    "nesterov": "test_nesterov_follows_the_look_ahead_rule",
}
