"""Law 6: resumable bit by bit, from any step, and by constant and scheduled rates alike."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIMIZERS, STATES, all_schedules, all_states, parametrized
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


@pytest.mark.slow
def test_every_state_comes_back_from_a_checkpoint_bit_by_bit(tmp_path):
    # What follows from equal states is equal, as their bytes show above. One checkpoint, since writing takes the time.
    orbax = pytest.importorskip("orbax.checkpoint")
    params = mixed_params()
    stops = []
    for case in STATES.values():
        tx = case()
        _, state = tx.update(gradient_stream(params, 1)[0], observed(tx.init(params), 0.7), params, value=0.9)
        stops.append(observed(state, 0.8))  # with an observation that no update has taken
    with orbax.StandardCheckpointer() as saver:
        saver.save(tmp_path / "run", stops)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "run", jax.tree.map(jnp.zeros_like, stops))
    assert_trees_equal(restored, stops)
    assert signature_of(restored) == signature_of(stops)


@parametrized({label: case for label, case in OPTIMIZERS.items() if "learning_rate" in case.arguments}, variants=False)
def test_checkpoints_of_constant_and_scheduled_rates_swap(case):
    params = mixed_params()
    gradients = gradient_stream(params, 1)[0]
    rates = [0.1, lrx.constant(0.1), lrx.warmup(lrx.cosine_decay(0.1, 5), 2), lrx.cyclical(0.1, 0.2, 3) * 2.0]
    states = [case(learning_rate=rate).init(params) for rate in rates]
    assert len({str(signature_of(state)) for state in states}) == 1
    # Every rate goes on from the state of another one.
    for rate, state in zip(rates, states[1:] + states[:1], strict=True):
        _, after = case(learning_rate=rate).update(gradients, state, params, value=1.0)
        assert signature_of(after) == signature_of(state)


@all_schedules
def test_a_schedule_is_rebuilt_by_its_repr_and_by_pickle(case):
    schedule = case()
    again = eval(repr(schedule), {name: getattr(lrx, name) for name in lrx.__all__})
    for rebuilt in (again, pickle.loads(pickle.dumps(schedule))):
        assert repr(rebuilt) == repr(schedule)
        np.testing.assert_array_equal(rebuilt(COUNTS), schedule(COUNTS))
