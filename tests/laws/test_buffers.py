"""No two leaves of a state share a buffer, nor with the parameters or what the caller gave: all can be donated."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, all_states
from laws.programs import observed, sweep_values
from problems import gradient_stream, vector_params
from tiers import first_tier_has

import lrx


def buffers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array) and leaf.size]


def names(tree):
    return [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if isinstance(leaf, jax.Array) and leaf.size
    ]


def shared(tree):
    """Return the places of leaves that share a buffer with an earlier one."""
    seen, found = {}, []
    for name, buffer in zip(names(tree), buffers(tree), strict=True):
        if buffer in seen:
            found.append((seen[buffer], name))
        seen.setdefault(buffer, name)
    return found


TREES = {
    "wide": vector_params,
    "narrow": lambda: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), vector_params()),
    "planes": lambda: jax.tree.map(lambda leaf: leaf.astype(jnp.complex64), vector_params()),
}


@all_states
@pytest.mark.parametrize("kind", first_tier_has(["wide"], TREES))
def test_nothing_is_shared_at_the_start_and_after_an_update_that_is_not_compiled(case, kind):
    params = TREES[kind]()
    gradients = gradient_stream(params, 1)[0]
    value = jnp.asarray(1.0)
    # Hyperparameters as arrays, the user's own, strongly typed, since a conversion would make a copy.
    numbers = {name: sweep_values(case, name)[1] for name in case.sweep} if kind == "wide" else {}
    tx = case(**numbers)
    state = tx.init(params)
    assert not shared((params, gradients, value, numbers, state))
    given = observed(tx.init(params), value)
    assert not shared((params, gradients, value, numbers, given))
    updates, after = tx.update(gradients, given, params, value=value)
    assert not shared((params, gradients, value, numbers, after))
    # The updates may be the gradients, where a link has nothing to do; but nothing that is kept.
    assert not shared((updates, after))
    moved = lrx.apply_updates(params, updates, after)
    assert not shared((moved, after))


def test_what_is_read_and_set_by_hand_shares_nothing_with_the_state():
    scale, value = jnp.float32(0.5), jnp.float32(0.7)
    for label in ("adam", "sgd", "heavy_ball", "prodigy", "schedule_free_sgd", "group_rates", "accumulate"):
        state = CASES[label]().init(vector_params())
        if label not in ("prodigy",):
            assert not shared((scale, lrx.scale_learning_rate(state, scale))), label
        read = lrx.eval_params(state, vector_params())
        assert not shared((read, state)), label
    state = lrx.sgd(0.1 * lrx.reduce_on_plateau(feedback="observed")).init(vector_params())
    assert not shared((value, lrx.observe(state, value=value)))
    np.testing.assert_array_equal(value, np.float32(0.7))


@all_states
def test_what_is_read_and_what_is_edited_by_hand_share_nothing_with_the_state_or_the_caller(case):
    params, tx = vector_params(), case()
    state = tx.init(params)
    read = [lrx.monitor(state), lrx.stopped(state)]
    for reader in (lrx.update_count, lrx.learning_rates):
        with contextlib.suppress(ValueError):  # an unsigned link has no rate, and some count nothing
            read.append(reader(state))
    for part in read:
        assert not set(buffers(part)) & set(buffers(state))
    number = jnp.asarray(0.5, jnp.float32)
    step = jnp.asarray(3, jnp.int32)
    for edit in (
        lambda: lrx.restart_schedule(state, step),
        lambda: lrx.scale_learning_rate(state, number),
        lambda: lrx.set_learning_rate(state, number),
    ):
        with contextlib.suppress(ValueError):  # which says that there is no step, or no rate to be changed
            assert not shared((params, number, step, edit()))
