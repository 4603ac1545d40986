"""Law 5: exact in time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, all_schedules
from laws.programs import INT32_MAX
from units import reference

COUNTS = np.concatenate([np.arange(10_001), [2**24 - 1, 2**24 + 1, 10**9, INT32_MAX - 1, INT32_MAX]])
# Long durations of every sort, at which float32 time would be off by many steps.
LONG = (7_777, 16_777_259, 1_500_000_001)


def assert_exact(case: Case, rates: Any, schedule: Any, counts: np.ndarray = COUNTS) -> None:
    expected = reference(schedule, counts)
    assert rates.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(rates, np.float64), expected, rtol=case.tolerance, atol=1e-12 * expected[0])


@all_schedules
def test_rates_are_exact_at_every_step_for_known_arguments(case):
    schedule = case()
    assert_exact(case, schedule(COUNTS), schedule)
    for name, values in case.sweep.items():
        for value in values[1:]:
            schedule = case(**{name: value})
            assert_exact(case, schedule(COUNTS), schedule)


@all_schedules
def test_rates_are_exact_at_every_step_for_traced_arguments(case):
    traced = jax.jit(lambda arguments, counts: case(**arguments)(counts))
    for index in (1, 2):
        arguments = {name: case.sweep[name][index] for name in case.sweep}
        rates = traced({name: jnp.asarray(value) for name, value in arguments.items()}, COUNTS.astype(np.int32))
        rounded = {
            name: value if isinstance(value, int) else float(np.float32(value)) for name, value in arguments.items()
        }
        assert_exact(case, rates, case(**rounded))


@all_schedules
def test_rates_are_exact_over_long_durations(case):
    @jax.jit
    def traced(lengths, counts):
        # Only one duration is traced at a time: the other arguments are as given, and as exact as before.
        return {name: case(**{name: length})(counts) for name, length in lengths.items()}

    for length in LONG if case.durations else ():
        near = np.asarray([0, 1, length // 3, length // 2, length - 2, length - 1, length, length + 1])
        rates = traced({name: jnp.asarray(length) for name in case.durations}, near.astype(np.int32))
        for name in case.durations:
            assert_exact(case, rates[name], case(**{name: length}), near)


@all_schedules
def test_the_update_at_a_step_uses_the_schedule_there(case):
    schedule = case()
    state = schedule.init(None)
    # To the last bit where both are compiled; one operation at a time rounds elsewhere.
    update = jax.jit(schedule.update)
    np.testing.assert_allclose(state.learning_rate, schedule(0), rtol=5e-7)
    for count in (0, 1, 2, 5, 10_000, 2**24 + 1, INT32_MAX):
        updates, after = update(jnp.ones(2), state._replace(step=jnp.asarray(count, jnp.int32)))
        np.testing.assert_array_equal(np.asarray(updates), -np.full(2, schedule(count)))
        assert after.learning_rate == schedule(count)
    _, after = schedule.update(jnp.ones(2), state._replace(step=jnp.int32(5)))
    np.testing.assert_allclose(after.learning_rate, schedule(5), rtol=5e-7)


@all_schedules
def test_a_schedule_that_ends_holds_its_end_value(case):
    assert (case.end is None) == case.endless, "a case says where its schedule ends, or that it is endless"
    if case.endless:
        return
    rates = np.asarray(case()(COUNTS))
    np.testing.assert_array_equal(rates[case.end :], rates[case.end])
    assert rates[case.end - 1] != rates[case.end]


@all_schedules
def test_runs_of_one_step_are_finite(case):
    schedule = case(**dict.fromkeys(case.durations, 1))
    rates = schedule(np.asarray([0, 1, 2, 3, INT32_MAX]))
    assert bool(jnp.all(jnp.isfinite(rates) & (rates >= 0)))
    assert_exact(case, rates, schedule, np.asarray([0, 1, 2, 3, INT32_MAX]))
