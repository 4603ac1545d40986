"""Master weights: what is rounded is only what is seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, assert_trees_equal, gradient_stream
from units import (
    Case,
    refuse_links,
)

import lrx
from lrx.training import Batches, Workload

NARROW = [jnp.bfloat16, jnp.float16]


def test_small_steps_of_narrow_parameters_add_up():
    def final(tx):
        params = jnp.ones(4, jnp.bfloat16)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jnp.ones(4, jnp.bfloat16), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=500)[0][0]

    np.testing.assert_array_equal(final(lrx.adam(1e-3)), jnp.ones(4, jnp.bfloat16))  # rounded away
    np.testing.assert_array_equal(final(lrx.master_weights(lrx.adam(1e-3))), jnp.full(4, 0.5, jnp.bfloat16))


def tree(dtype):
    random = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    return {"kernel": draw(4, 3).astype(dtype), "bias": draw(3).astype(dtype), "scale": draw(3), "gone": None}


@pytest.mark.parametrize("dtype", NARROW)
def test_the_copies_go_the_way_of_wide_parameters(dtype):
    # The same gradients, whatever the parameters round to.
    params = tree(dtype)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    tx, plain = lrx.master_weights(lrx.adamw(0.3, weight_decay=0.1)), lrx.adamw(0.3, weight_decay=0.1)
    state, other = tx.init(params), plain.init(wide)
    update, update_plain = jax.jit(tx.update), jax.jit(plain.update)
    for gradients in gradient_stream(params, 20):
        updates, state = update(gradients, state, params)
        steps, other = update_plain(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), gradients), other, wide)
        wide, params = optax.apply_updates(wide, steps), lrx.apply_updates(params, updates, state)
        assert_trees_close(state.master, wide, rtol=1e-5, atol=1e-6)  # two programs add in two orders
        assert_trees_equal(params, jax.tree.map(lambda copy, leaf: copy.astype(leaf.dtype), state.master, params))
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype), jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", NARROW)
def test_wide_updates_lead_exactly_to_the_rounded_copies(dtype):
    # Steps of 3 lead parameters of size 1 to zero and to the other side, where a narrow update is rounded.
    params = tree(dtype)
    tx = lrx.master_weights(lrx.sgd(3.0))
    state = tx.init(params)
    for gradients in gradient_stream(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), 50):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        assert_trees_equal(params, jax.tree.map(lambda copy, leaf: copy.astype(leaf.dtype), state.master, params))


def test_narrow_updates_lead_to_the_rounded_copies_exactly_or_to_the_next_number_and_nothing_adds_up():
    params = tree(jnp.bfloat16)
    for rate, exact in ((1e-3, True), (3.0, False)):
        here, tx = params, lrx.master_weights(lrx.sgd(rate))
        state = tx.init(params)
        largest = []
        for gradients in gradient_stream(params, 200):
            updates, state = tx.update(gradients, state, here)
            before, here = here, optax.apply_updates(here, updates)
            wanted = state.master["kernel"].astype(jnp.bfloat16).astype(jnp.float32)
            error = jnp.abs(here["kernel"].astype(jnp.float32) - wanted)
            size = jnp.maximum(jnp.abs(before["kernel"].astype(jnp.float32)), jnp.abs(wanted))
            largest.append(float(jnp.max(error / size)))
        assert max(largest) <= (0.0 if exact else 2.0**-7)
        assert exact or max(largest[100:]) <= 1.5 * max(largest[:100])


def test_the_evaluation_point_is_that_of_the_copies():
    params = jnp.ones(3, jnp.bfloat16)
    tx, plain = lrx.master_weights(lrx.schedule_free_sgd(0.1)), lrx.schedule_free_sgd(0.1)
    state, other, wide = tx.init(params), plain.init(jnp.ones(3)), jnp.ones(3)
    for _ in range(3):
        updates, state = tx.update(jnp.ones(3, jnp.bfloat16), state, params)
        steps, other = plain.update(jnp.ones(3), other, wide)
        params, wide = lrx.apply_updates(params, updates, state), wide + steps
    np.testing.assert_array_equal(lrx.eval_params(state, params), lrx.eval_params(other, wide).astype(jnp.bfloat16))
    tx = lrx.master_weights(lrx.adam(0.1))
    assert lrx.eval_params(tx.init(params), params) is params


def test_a_line_search_sees_parameters_in_their_own_types():
    seen = []

    def loss_fn(theta):
        seen.append(theta.dtype)
        return jnp.sum(theta.astype(jnp.float32) ** 2)

    theta = jnp.ones(2, jnp.bfloat16)
    tx = lrx.master_weights(lrx.sgd(lrx.armijo()))
    loss, gradient = jax.value_and_grad(loss_fn)(theta)
    updates, _ = tx.update(gradient, tx.init(theta), theta, value=loss, value_fn=loss_fn)
    assert bool(jnp.all(updates < 0))
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}


def test_a_rollback_around_or_within_takes_back_parameters_and_copies():
    rate = lrx.interpolate({0: 0.1, 3: 0.1, 4: 1e6})
    for make in (
        lambda: lrx.rollback_on_divergence(lrx.master_weights(lrx.sgd(rate))),
        lambda: lrx.master_weights(lrx.rollback_on_divergence(lrx.sgd(rate))),
    ):
        tx, theta = make(), jnp.ones(2, jnp.bfloat16)
        state = tx.init(theta)
        for _ in range(8):
            loss, gradient = jax.value_and_grad(lambda x: 0.5 * jnp.sum(x.astype(jnp.float32) ** 2))(theta)
            updates, state = tx.update(gradient, state, theta, value=loss)
            theta = lrx.apply_updates(theta, updates, state)
            (master,) = [
                node.master
                for node in jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "master"))
                if hasattr(node, "master") and node is not getattr(state, "snapshot", None)
            ][-1:]
            np.testing.assert_array_equal(theta, master.astype(jnp.bfloat16))
        assert bool(jnp.all(jnp.isfinite(theta.astype(jnp.float32))))


def test_training_with_narrow_parameters_goes_the_way_of_wide_ones():
    def workload(dtype):
        x = jnp.linspace(-1.0, 1.0, 32)
        return Workload.from_functions(
            lambda params, batch, key: jnp.mean((params["slope"].astype(jnp.float32) * batch - 3.0 * batch) ** 2),
            lambda key: {"slope": jnp.ones([], dtype)},
            Batches(x, batch_size=8),
            name="line",
        )

    wide = lrx.train(workload(jnp.float32), lrx.sgd(2e-3), steps=400)
    narrow = lrx.train(workload(jnp.bfloat16), lrx.master_weights(lrx.sgd(2e-3)), steps=400)
    lost = lrx.train(workload(jnp.bfloat16), lrx.sgd(2e-3), steps=400)
    assert float(narrow.params["slope"]) == pytest.approx(float(wide.params["slope"]), rel=1e-2)
    assert abs(float(lost.params["slope"]) - float(wide.params["slope"])) > 0.1


def test_applied_parameters_and_evaluation_points_are_not_buffers_of_a_state_that_is_donated():
    tx = lrx.master_weights(lrx.schedule_free_sgd(0.1))
    params, update = {"w": jnp.ones(3)}, jax.jit(tx.update, donate_argnums=1)
    state, kept = tx.init(params), []
    for _ in range(2):
        updates, state = update({"w": jnp.ones(3)}, state, params)
        params = lrx.apply_updates(params, updates, state)
        kept.append(lrx.eval_params(state, params))
    assert np.all(np.isfinite([point["w"] for point in kept]))


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "master_weights": Case(lrx.master_weights, {"tx": lrx.adam(0.1)}, needs_params=True),
}


REFUSED = [
    *refuse_links(lrx.master_weights),
]


DESCENDS = {
    "master_weights": lambda: lrx.master_weights(lrx.adam(0.1)),
}


REFERENCE = {
    "master_weights": "test_the_copies_go_the_way_of_wide_parameters",
}
