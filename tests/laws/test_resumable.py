"""Law 6: resumable bit by bit, from any step, and by constant and scheduled rates alike."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CONTROLLERS, OPTIMIZERS, STATES, all_schedules, all_states
from laws.programs import observed, program
from laws.test_exact_in_time import COUNTS
from problems import STREAM, assert_trees_equal, gradient_stream, mixed_params, signature_of, value_stream

import lrx


@all_states
def test_a_run_stopped_at_any_step_continues_bit_by_bit_from_its_bytes(case):
    p = program(case)
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    state = observed(p.tx.init(params), 0.7)  # with an observation that the next update consumes
    rows = p.run(params, state, stream, values)
    stops = [(params, state), *(row[1:][::-1] for row in rows[:-1])]
    written = pickle.dumps([jax.tree.map(np.asarray, stop) for stop in stops])
    restored = [jax.tree.map(jnp.asarray, stop) for stop in pickle.loads(written)]
    for step in range(STREAM):
        resumed = p.run(*restored[step], stream[step:], values[step:])
        assert_trees_equal(resumed, rows[step:])
    assert p.traces == 1


def steps(tx, params, state, stream, values):
    rows = []
    for gradients, value in zip(stream, values, strict=True):
        updates, state = tx.update(gradients, state, params, value=value)
        params = optax.apply_updates(params, updates)
        rows.append((updates, state, params))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["optimizers", "controllers", "others"])
def test_a_run_stopped_at_any_step_continues_bit_by_bit_from_a_checkpoint(kind, tmp_path):
    # All cases in one checkpoint, since writing and reading one is what takes the time.
    orbax = pytest.importorskip("orbax.checkpoint")
    known = {**OPTIMIZERS, **CONTROLLERS}
    others = {label: case for label, case in STATES.items() if label not in known}
    chosen = {"optimizers": OPTIMIZERS, "controllers": CONTROLLERS, "others": others}[kind]
    params = mixed_params()
    stream, values = gradient_stream(params), value_stream()
    txs = {label: optax.with_extra_args_support(case()) for label, case in chosen.items()}
    rows, stops = {}, {}
    for label, tx in txs.items():
        state = observed(tx.init(params), 0.7)
        rows[label] = steps(tx, params, state, stream, values)
        stops[label] = {str(step): row[1:][::-1] for step, row in enumerate(rows[label][:-1], 1)}
        stops[label]["0"] = (params, state)
    with orbax.StandardCheckpointer() as saver:
        saver.save(tmp_path / "runs", stops)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "runs", jax.tree.map(jnp.zeros_like, stops))
    for label, tx in txs.items():
        for step in range(STREAM):
            stopped_params, state = restored[label][str(step)]
            assert signature_of(state) == signature_of(stops[label][str(step)][1]), label
            resumed = steps(tx, stopped_params, state, stream[step:], values[step:])
            assert_trees_equal(resumed, rows[label][step:])


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS.values() if "learning_rate" in case.arguments])
def test_checkpoints_of_constant_and_scheduled_rates_swap(case):
    params = mixed_params()
    gradients = gradient_stream(params, 1)[0]
    rates = [0.1, lrx.constant(0.1), lrx.warmup(lrx.cosine_decay(0.1, 5), 2), lrx.cyclical(0.1, 0.2, 3) * 2.0]
    states = [case(learning_rate=rate).init(params) for rate in rates]
    assert len({str(signature_of(state)) for state in states}) == 1
    for rate in rates:
        tx = case(learning_rate=rate)
        for state in states:
            _, after = tx.update(gradients, state, params, value=1.0)
            assert signature_of(after) == signature_of(state)


@all_schedules
def test_a_schedule_is_rebuilt_by_its_repr_and_by_pickle(case):
    schedule = case()
    again = eval(repr(schedule), {name: getattr(lrx, name) for name in lrx.__all__})
    for rebuilt in (again, pickle.loads(pickle.dumps(schedule))):
        assert repr(rebuilt) == repr(schedule)
        np.testing.assert_array_equal(rebuilt(COUNTS), schedule(COUNTS))
