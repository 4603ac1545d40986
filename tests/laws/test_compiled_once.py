"""Law 1: pure and compiled once."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import all_cases, all_schedules, all_states
from laws.programs import program
from problems import (
    assert_trees_equal,
    gradient_stream,
    mixed_params,
    signature_of,
    value_stream,
)

import lrx
from lrx.training.code import function_digest
from lrx.training.equality import UndecidedError, key_of


@all_states
def test_made_anew_in_a_chain_it_is_known_as_equal_without_a_trace(case):
    one, other = (optax.chain(optax.clip_by_global_norm(1.0), case()) for _ in range(2))
    try:
        assert key_of(one) == key_of(other)
    except UndecidedError:
        assert case.make is lrx.group_rates  # it notes what it has traced, and is compared by a trace


# Each in a chain, whose functions hold the transformation and not the call that made it.
WITHIN = {
    "alone": lambda tx: tx,
    "in a chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "in a masked chain": lambda tx: optax.masked(optax.chain(tx), True),
    "a held update": lambda tx: optax.GradientTransformation(tx.init, tx.update),
}


@pytest.mark.parametrize("within", WITHIN)
@all_cases
def test_another_number_makes_another_transformation(case, within):
    wrap = WITHIN[within]
    for name, values in case.sweep.items():
        one, other = (wrap(case(**{name: value})) for value in values[:2])
        with contextlib.suppress(UndecidedError):
            assert key_of(one) != key_of(other), name
        digests = [[function_digest(function) for function in (tx.init, tx.update)] for tx in (one, other)]
        assert digests[0] != digests[1], name


@all_states
def test_update_compiles_once_and_repeats_itself(case):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    state = p.tx.init(params)
    before = jax.tree.map(np.array, (params, state, stream))
    first = p.run(params, state, stream, values)
    second = p.run(params, p.tx.init(params), stream, values)
    assert_trees_equal(first, second)
    assert_trees_equal((params, state, stream), before)
    assert p.traces == 1


@all_schedules
def test_all_schedules_have_one_state_tree_and_one_update(case):
    # The theorem for which the laws of wrappers, types and buffers hold two schedules to account, and not all.
    schedule, constant = case(), lrx.constant(0.1)
    assert signature_of(schedule.init(None)) == signature_of(constant.init(None))
    assert type(schedule) is type(constant)
    assert [core.init.__code__ for core in schedule.cores] == [core.init.__code__ for core in constant.cores]
    assert [core.update.__code__ for core in schedule.cores] == [core.update.__code__ for core in constant.cores]
    assert schedule.init.__code__ is constant.init.__code__
    assert schedule.update.__code__ is constant.update.__code__


@all_states
def test_state_is_a_stable_carry(case):
    tx = case()
    for params in (mixed_params(), jnp.asarray(1.0)):
        gradients = gradient_stream(params, 1)[0]
        state = tx.init(params)

        def body(state, gradients=gradients, params=params):
            return tx.update(gradients, state, params, value=0.5)[1]

        assert signature_of(state) == signature_of(jax.eval_shape(tx.init, params))
        assert signature_of(state) == signature_of(jax.eval_shape(body, state))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(jax.tree.map(jax.typeof, state)))
    jax.eval_shape(lambda state: jax.lax.fori_loop(0, 2, lambda _, carry: body(carry), state), state)
