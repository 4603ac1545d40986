"""Adam against algorithm 1 of the paper in plain NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, gradient_stream, vector_params
from units import (
    DECAYS,
    EPS,
    RATES,
    Case,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
    refuse_rates,
)

import lrx

STEPS = 40


def paper(gradients, alpha_at, b1=0.9, b2=0.999, eps=1e-8):
    theta, m, v, path = np.ones(gradients.shape[1]), 0.0, 0.0, []
    for t, gradient in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        theta = theta - alpha_at(t - 1) * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        path.append(theta)
    return np.asarray(path)


def run(tx, gradients):
    params = jnp.ones(gradients.shape[1])
    state, update, path = tx.init(params), jax.jit(tx.update), []
    for gradient in gradients:
        updates, state = update(jnp.asarray(gradient, jnp.float32), state)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.asarray(path)


def stream(scale=1.0):
    return scale * np.random.default_rng(7).normal(size=(STEPS, 4))


@pytest.mark.parametrize(
    "arguments", [{}, {"b1": 0.5, "b2": 0.9}, {"b1": 0.0, "b2": 0.99}, {"b2": 0.0}, {"eps": 0.1}, {"eps": 0.0}]
)
def test_adam_follows_algorithm_1(arguments):
    path = run(lrx.adam(0.01, **arguments), stream())
    np.testing.assert_allclose(path, paper(stream(), lambda t: 0.01, **arguments), rtol=1e-5, atol=1e-6)


def test_adam_follows_algorithm_1_under_a_schedule():
    schedule = lrx.warmup(lrx.linear_decay(0.05, 30), 10)
    expected = paper(stream(), lambda t: 0.05 * t / 10 if t < 10 else 0.05 * (1 - (t - 10) / 30))
    np.testing.assert_allclose(run(lrx.adam(schedule), stream()), expected, rtol=1e-5, atol=1e-6)


def test_the_paper_default_rate_is_one_thousandth():
    np.testing.assert_array_equal(run(lrx.adam(), stream()), run(lrx.adam(1e-3), stream()))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_steps_do_not_depend_on_the_size_of_the_gradients(scale):
    path = run(lrx.adam(0.01, eps=0.0), stream(scale))
    np.testing.assert_allclose(path, run(lrx.adam(0.01, eps=0.0), stream()), rtol=1e-4, atol=1e-5)


def test_adam_equals_optax():
    ours, theirs = lrx.adam(0.01), optax.adam(0.01)
    params = vector_params()
    our_state, their_state = ours.init(params), theirs.init(params)
    our_update, their_update = jax.jit(ours.update), jax.jit(theirs.update)
    for gradients in gradient_stream(params, STEPS):
        our_updates, our_state = our_update(gradients, our_state)
        their_updates, their_state = their_update(gradients, their_state)
        # optax computes 1 - b2^t in float32, which cancels at first: hence the tolerance.
        assert_trees_close(our_updates, their_updates, rtol=1e-4, atol=1e-7)


def test_the_first_bias_corrections_do_not_cancel():
    # 1 - 0.999 is wrong by 5e-5 relative in float32, which would show in the first steps.
    gradient = jnp.asarray([0.3])
    tx = lrx.scale_by_adam(eps=0.0)
    direction, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(direction, [1.0], rtol=5e-7)


def test_a_traced_decay_is_as_exact():
    gradient = jnp.asarray([0.3])

    @jax.jit
    def first(b2):
        tx = lrx.scale_by_adam(b2=b2, eps=0.0)
        return tx.update(gradient, tx.init(gradient))[0]

    np.testing.assert_allclose(first(0.999), [1.0], rtol=2e-6)


def test_eps_zero_leaves_coordinates_without_gradients_where_they_are():
    tx = lrx.adam(0.1, eps=0.0)
    updates, _ = tx.update(jnp.asarray([0.0, 2.0]), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, [0.0, -0.1], rtol=1e-6)


def test_what_is_left_of_the_mean_over_a_vanished_root_is_divided_by_eps():
    # b2 = 0: after a gradient of 0 the root is 0 but the mean is not, and the paper divides it by eps.
    tx = lrx.scale_by_adam(b1=0.5, b2=0.0, eps=0.25)
    state = tx.init(jnp.zeros(1))
    _, state = tx.update(jnp.ones(1), state)
    direction, _ = tx.update(jnp.zeros(1), state)
    np.testing.assert_allclose(direction, [(0.5 * 0.5) / (1 - 0.25) / 0.25], rtol=1e-6)


def test_the_second_moment_of_narrow_parameters_moves():
    # 0.999 v + 0.001 g^2 is v again in bfloat16 from the start of convergence on.
    params = jnp.zeros(1, jnp.bfloat16)
    tx = lrx.scale_by_adam()
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(300):
        _, state = update(jnp.ones(1, jnp.bfloat16), state)
    assert state.second_moment.dtype == jnp.float32
    np.testing.assert_allclose(state.second_moment, [1 - 0.999**300], rtol=1e-4)


def test_adam_shows_its_rate_and_its_count():
    tx = lrx.adam(lrx.linear_decay(0.1, 10))
    state = tx.init(jnp.zeros(1))
    for _ in range(4):
        _, state = tx.update(jnp.ones(1), state)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.07, rtol=1e-6)
    assert state[0].count == 4


def test_decays_may_follow_the_step_and_the_correction_is_their_product():
    b1_at, b2_at = lambda t: 0.95 - 0.1 * min(t / 20, 1), lambda t: 0.9 + 0.099 * min(t / 30, 1)
    theta, m, v, expected = np.ones(4), 0.0, 0.0, []
    kept1 = kept2 = 1.0
    for t, gradient in enumerate(stream()):
        b1, b2 = b1_at(t), b2_at(t)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        kept1, kept2 = kept1 * b1, kept2 * b2
        theta = theta - 0.01 * (m / (1 - kept1)) / (np.sqrt(v / (1 - kept2)) + 1e-8)
        expected.append(theta)
    b1, b2 = lrx.interpolate({0: 0.95, 20: 0.85}), lrx.interpolate({0: 0.9, 30: 0.999})
    np.testing.assert_allclose(run(lrx.adam(0.01, b1=b1, b2=b2), stream()), expected, rtol=1e-5, atol=1e-6)


def test_a_scheduled_decay_that_stays_is_the_constant_one():
    constant, scheduled = lrx.adam(0.01), lrx.adam(0.01, b1=lrx.constant(0.9), b2=lrx.constant(0.999))
    np.testing.assert_allclose(run(scheduled, stream()), run(constant, stream()), rtol=1e-5, atol=1e-6)


def test_eps_root_stands_within_the_root_after_the_correction():
    gradient, m, v, expected = np.array([1e-4, 0.3, 0.0]), 0.0, 0.0, []
    ours, theirs = lrx.scale_by_adam(eps_root=1e-6), optax.scale_by_adam(eps_root=1e-6)
    state, other = ours.init(jnp.zeros(3)), theirs.init(jnp.zeros(3))
    for t in range(1, 6):
        m, v = 0.9 * m + 0.1 * gradient * t, 0.999 * v + 0.001 * (gradient * t) ** 2
        expected = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t) + 1e-6) + 1e-8)
        direction, state = ours.update(jnp.asarray(gradient * t, jnp.float32), state)
        reference, other = theirs.update(jnp.asarray(gradient * t, jnp.float32), other)
        np.testing.assert_allclose(direction, expected, rtol=1e-5)
        np.testing.assert_allclose(direction, reference, rtol=1e-4)


def test_a_derivative_by_the_rate_is_that_of_optax_with_a_small_eps_root():
    inputs = jnp.asarray([0.0, 1.0, 2.0])

    def last_loss(rate, make):
        tx = make(rate)
        theta = jnp.zeros(3)
        state = tx.init(theta)
        loss = lambda theta: (jnp.dot(inputs, theta) - 3.0) ** 2  # noqa: E731
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(theta), state, theta)
            theta = theta + updates
        return loss(theta)

    ours = jax.grad(last_loss)(0.01, lrx.adam)
    reference = jax.grad(last_loss)(0.01, lambda rate: optax.adam(rate, eps_root=1e-8))
    assert bool(jnp.isfinite(ours))
    np.testing.assert_allclose(ours, reference, rtol=1e-4)


@pytest.mark.parametrize(
    "make", [lrx.adam, lrx.adamw, lrx.hypergradient_adam, lambda *a, **k: lrx.sgd(*a, momentum=0.9, **k)]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_first_moment_is_kept_in_the_type_asked_for_and_computed_wide(make, dtype):
    params = {"wide": jnp.ones(3), "narrow": jnp.ones(3, jnp.bfloat16), "plane": jnp.ones(3, jnp.complex64)}
    tx = make(0.1, moment_dtype=dtype)
    state = tx.init(params)
    for gradients in gradient_stream({"wide": params["wide"], "narrow": params["narrow"]}, 3):
        gradients = {**gradients, "plane": jnp.ones(3, jnp.complex64)}
        updates, state = jax.jit(tx.update)(gradients, state, params)
    moments = [leaf for path, leaf in jax.tree.leaves_with_path(state) if "'wide'" in jax.tree_util.keystr(path)]
    assert jnp.dtype(dtype) in {leaf.dtype for leaf in moments}
    planes = {leaf.dtype for path, leaf in jax.tree.leaves_with_path(state) if "'plane'" in jax.tree_util.keystr(path)}
    assert planes <= {jnp.dtype("complex64"), jnp.dtype("float32")}
    plain = make(0.1)
    assert jax.tree.structure(plain.init(params)) == jax.tree.structure(state)
    assert eval(repr(tx), vars(lrx)) == tx
    assert {name: leaf.dtype for name, leaf in updates.items()} == {name: leaf.dtype for name, leaf in params.items()}


@pytest.mark.parametrize("make", [lrx.momo_adam, lrx.d_adaptation, lrx.prodigy])
def test_a_traced_b2_of_1_never_makes_updates_of_0(make):
    options = {} if make is lrx.momo_adam else {"bias_correction": True}

    def first(b2):
        tx, params = make(b2=b2, **options), jnp.ones(3)
        return tx.update(jnp.ones(3), tx.init(params), params, value=1.0)[0]

    assert bool(jnp.all(jnp.isnan(jax.jit(first)(1.0))))
    assert bool(jnp.all(jax.jit(first)(0.999) < 0))


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "adam": Case(
        lrx.adam,
        {"learning_rate": 0.1},
        {"learning_rate": RATES, "b1": DECAYS, "b2": DECAYS, "eps": EPS, "eps_root": EPS},
    ),
    "scale_by_adam": Case(lrx.scale_by_adam, {}, {"b1": DECAYS, "b2": DECAYS, "eps": EPS, "eps_root": EPS}),
    "adam with a narrow moment": Case(
        lrx.adam, {"learning_rate": 0.1, "moment_dtype": jnp.bfloat16, "eps": 0.0}, {"eps_root": EPS}
    ),
    "adam with scheduled decays": Case(
        lrx.adam,
        {"learning_rate": 0.1, "b1": lrx.linear_decay(0.9, 4), "b2": lrx.interpolate({0: 0.9, 3: 0.99})},
        {"eps": EPS},
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.adam),
    *refuse_fractions(lrx.adam, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.adam, "b2", "[0, 1)", (-0.1, 1.0)),
    *refuse_rates(lrx.adam, "eps"),
    *refuse_fractions(lrx.scale_by_adam, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.scale_by_adam, "b2", "[0, 1)", (-0.1, 1.0)),
    *refuse_rates(lrx.scale_by_adam, "eps"),
    *refuse_rates(lrx.adam, "eps_root"),
    *refuse_rates(lrx.scale_by_adam, "eps_root"),
    *refuse_moment_dtypes(lrx.adam),
    *refuse_moment_dtypes(lrx.scale_by_adam),
]


DESCENDS = {
    "adam": lambda: lrx.adam(0.1),
    "scale_by_adam": lambda: optax.chain(lrx.scale_by_adam(), lrx.constant(0.1)),
}


REFERENCE = {
    "adam": "test_adam_follows_algorithm_1",
    "scale_by_adam": "test_adam_follows_algorithm_1",
}
