"""Law 7: safe. Zeros, infinities and donated buffers do no harm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, CONTROLLED_COMPOSITIONS, CONTROLLERS, OPTIMIZERS, all_optimizers, all_states
from laws.programs import INF, NAN, eager_run, has_nan, is_finite, observed, program, sweep_values
from problems import (
    STREAM,
    assert_trees_close,
    assert_trees_equal,
    gradient_stream,
    mixed_params,
    value_stream,
    vector_params,
)

import lrx


@all_states
def test_zero_gradients_move_nothing(case):
    p = program(case)
    params = mixed_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    rows = p.run(params, p.tx.init(params), [zeros] * STREAM, value_stream())
    for updates, state, _ in rows:
        assert case.decays or not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
        assert not has_nan((updates, state))


@all_states
def test_no_finite_gradient_makes_nan(case):
    p = program(case)
    params = mixed_params()
    for size in (3e38, 1e30, 1e-30, 1e-44):
        for signs in ([1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1]):
            stream = [jax.tree.map(lambda leaf, g=sign * size: jnp.full_like(leaf, g), params) for sign in signs]
            rows = p.run(params, p.tx.init(params), stream, value_stream())
            assert not has_nan([row[:2] for row in rows]), size


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS.values() if "learning_rate" in case.arguments])
def test_a_rate_of_zero_moves_nothing_and_harms_nothing(case):
    params = vector_params()
    stream = gradient_stream(params, 8)
    tx = case(learning_rate=lrx.join([lrx.warmup(lrx.linear_decay(0.1, 2), 2), 0.0, 0.1], [4, 6]))
    state = tx.init(params)
    for step, gradients in enumerate(stream):
        updates, state = tx.update(gradients, state, params, value=1.0)
        assert is_finite((updates, state))
        moved = any(np.any(leaf) for leaf in jax.tree.leaves(updates))
        # With the rate inside the velocity, what is in it rolls on.
        if step == 0 or (step in (4, 5) and not case.rolls_on):
            assert not moved, step
        if step in (1, 2, 6, 7):
            assert moved, step
    assert is_finite(optax.apply_updates(params, updates))


@all_optimizers
def test_a_non_finite_gradient_stays_in_its_own_coordinate(case):
    params = vector_params()
    stream = gradient_stream(params, 2)
    clean, _ = eager_run(case(), params, stream, [1.0] * 2)
    for bad in (NAN, INF, -INF):
        poisoned = [{**stream[0], "a": stream[0]["a"].at[1].set(bad)}, *stream[1:]]
        rows, _ = eager_run(case(), params, poisoned, [1.0] * 2)
        assert case.recovers or not is_finite(rows[0]), bad
        for row, expected in zip(rows, clean, strict=True):
            if case.coupled:  # the statistic goes without this coordinate, and all others go on
                assert is_finite((row["b"], row["a"][::2])), bad
                continue
            assert_trees_equal(row["b"], expected["b"])
            assert_trees_equal(row["a"][::2], expected["a"][::2])


FOLLOWING_LOSSES = {
    label: case
    for label, case in {**CONTROLLERS, **CONTROLLED_COMPOSITIONS}.items()
    if case.make not in (lrx.cumulative_path, lrx.warmup_until)
}


@pytest.mark.parametrize("case", FOLLOWING_LOSSES.values(), ids=FOLLOWING_LOSSES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_non_finite_value_changes_nothing_but_the_count(case, bad):
    params, tx = vector_params(), case()
    gradients = gradient_stream(params, 1)[0]

    def memories(values):
        state = tx.init(params)
        for value in values:
            _, state = tx.update(gradients, observed(state, value), params, value=value)
        nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, lrx.states.ControllerState))
        return [(node.factor, node.memory) for node in nodes if isinstance(node, lrx.states.ControllerState)]

    assert memories([1.0])
    assert_trees_equal(memories([1.0, bad, 1.0, bad, 1.0]), memories([1.0, 1.0, 1.0]))


def _buffers(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if leaf.size]


# Of all others, test_buffers.py shows that nothing is shared, which is what a donation needs.
@pytest.mark.slow
@pytest.mark.parametrize("label", ["adamw", "prodigy", "accumulate", "reduce_on_plateau", "rollback_on_divergence"])
def test_parameters_and_state_can_both_be_donated(label):
    case = CASES[label]
    # Hyperparameters as arrays, the user's own, which must outlive the donation as well.
    # Strongly typed, since a conversion would make the copy that is asked for.
    numbers = {name: sweep_values(case, name)[1] for name in case.sweep}
    params = vector_params()
    tx = case(**numbers)
    state = tx.init(params)
    stream, values = gradient_stream(params, 3), value_stream(3)
    buffers = _buffers((params, state, numbers))
    assert len(set(buffers)) == len(buffers)
    # An update outside jit leaves a state that can be donated too.
    _, eager = tx.update(stream[0], observed(tx.init(params), 1.0), params, value=1.0)
    assert len(set(_buffers((params, eager, numbers)))) == len(_buffers((params, eager, numbers)))

    def step(params, state, gradients, value):
        # Every leaf of the state is used, or JAX would drop it and donate nothing.
        probe = sum(jnp.sum(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(state))
        updates, state = tx.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state, probe

    donating = jax.jit(step, donate_argnums=(0, 1))
    plain_params, plain_state = jax.tree.map(jnp.array, (params, state))
    for gradients, value in zip(stream, values, strict=True):
        plain_params, plain_state, _ = step(plain_params, plain_state, gradients, value)
        given = (params, state)
        params, state, _ = donating(params, state, gradients, value)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert_trees_close((params, state), (plain_params, plain_state))
    assert not any(number.is_deleted() for number in numbers.values())
