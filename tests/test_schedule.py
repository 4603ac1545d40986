"""A schedule is a function of the step, drawn, called on any integers, and made of any function."""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import SCHEDULES, Case, all_schedules
from compilations import counting
from rate_examples import GRADS, PARAMS, cosine, halving, plateau, run

import lrx
from lrx.rates import Schedule
from lrx.states import RateState

# --- a schedule's two faces ------------------------------------------------------------------------------------------


def test_schedule_is_callable_on_a_step_and_on_arrays_of_steps() -> None:
    schedule = lrx.warmup(lrx.cosine_decay(0.1, 6), 3)
    curve = schedule(jnp.arange(12))
    assert curve.shape == (12,)
    assert curve.dtype == jnp.float32
    np.testing.assert_allclose(curve, [schedule(t) for t in range(12)], rtol=5e-7)
    np.testing.assert_allclose(curve.reshape(3, 4), schedule(np.arange(12).reshape(3, 4)), rtol=5e-7)
    assert schedule(jnp.zeros((0,), jnp.int32)).shape == (0,)
    assert lrx.constant(0.1)(jnp.arange(3)).shape == (3,)
    updates, rates = run(schedule, [0.0] * 12)
    np.testing.assert_allclose(rates, curve, rtol=1e-6)
    np.testing.assert_allclose([-u["b"] / 2.0 for u in updates], curve, rtol=1e-6)


def test_a_long_curve_is_one_compiled_call() -> None:
    traces = []
    inner = lrx.warmup(lrx.cosine_decay(0.1, 80_000), 1000)
    schedule = lrx.Schedule(lambda step: traces.append(step) or inner(step))
    counts = jnp.arange(100_000)
    curve = schedule(counts)
    before = len(traces)
    schedule(counts + 1)
    assert len(traces) == before
    np.testing.assert_allclose(curve[::20_000], [schedule(step) for step in range(0, 100_000, 20_000)], rtol=1e-6)
    peaks = jax.vmap(lambda peak: lrx.cosine_decay(peak, 80_000)(counts)[0])(jnp.asarray([0.1, 0.2]))
    np.testing.assert_allclose(peaks, [0.1, 0.2], rtol=1e-6)


def test_schedule_serves_optax_s_stateful_schedule() -> None:
    schedule = cosine()
    assert isinstance(schedule, optax.schedules.StatefulSchedule)
    assert isinstance(schedule, optax.GradientTransformationExtraArgs)
    assert not isinstance(cosine() * plateau(), optax.schedules.StatefulSchedule)
    assert not isinstance(plateau(), optax.schedules.StatefulSchedule)
    state = schedule.init()
    for count in range(5):
        assert isinstance(state, RateState)
        np.testing.assert_allclose(schedule(state, value=1.0), schedule(count), rtol=1e-6)
        state = schedule.update(state, value=1.0)
    assert int(state.count) == 5


def test_schedule_knows_its_family_and_arguments() -> None:
    schedule = lrx.step_decay(0.1, 5, factor=0.5)
    assert schedule.family == "step_decay"
    assert schedule.arguments == {"init_value": 0.1, "step_size": 5, "factor": 0.5}


@pytest.mark.parametrize(
    "count",
    [
        np.uint32(7), np.int64(7), np.uint64(7), np.int8(7), jnp.uint8(7), jnp.int8(7), jnp.uint32(7),
        jnp.arange(10, dtype=jnp.uint8), np.arange(10), np.array(7, np.int16),
    ],
    ids=lambda c: f"{type(c).__name__}-{c.dtype}-{c.ndim}",
)  # fmt: skip
def test_every_integer_type_counts(count: Any) -> None:
    expected = cosine()(jnp.asarray(np.asarray(count).astype(np.int32)))
    np.testing.assert_array_equal(cosine()(count), expected)
    # Compiled and uncompiled trigonometry differ in the last bit.
    np.testing.assert_allclose(jax.jit(lambda t: cosine()(t))(jnp.asarray(count)), expected, rtol=5e-7)


@pytest.mark.parametrize("count", [2**31 - 1, 2**31, 2**40, 2**70, np.uint32(2**32 - 1), np.uint64(2**63)])
def test_counts_stop_at_the_largest_int32(count: Any) -> None:
    assert float(Schedule(lambda t: t.astype(jnp.float32))(count)) == 2.0**31
    state = lrx.sgd(0.1).init(PARAMS)
    state = jax.tree.map(lambda x: jnp.full_like(x, 2**31 - 1) if x.dtype == jnp.int32 else x, state)
    _, state = lrx.sgd(0.1).update(GRADS, state)
    assert int(state[0].count) == 2**31 - 1


@pytest.mark.parametrize(
    "count",
    [
        1.0, np.float32(1), jnp.float32(1), True, np.True_, "a", None, 1j, jnp.array(True), [0, 1.0], [True], ["a"],
        [None], [[0], 1], [[0], [1.0]], {0: 1},
    ],
)  # fmt: skip
def test_a_count_that_is_no_integer_is_refused(count: Any) -> None:
    with pytest.raises(TypeError, match=r"count must be an integer or an array of integers, got count=.*: steps are"):
        cosine()(count)


@pytest.mark.parametrize("count", [-1, np.int64(-1), np.array(-7), jnp.int8(-1), -(2**70)])
def test_before_its_first_step_a_schedule_has_its_first_rate(count: Any) -> None:
    schedule = lrx.warmup(cosine(), 5, init_value=0.01)
    assert float(schedule(count)) == float(schedule(0)) == pytest.approx(0.01)
    if isinstance(count, jax.Array):
        assert float(jax.jit(schedule)(count)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "counts", [[3, 0, 2], (3, 0, 2), range(3), [], range(0), [[0, 1], [2, 3]], [np.int64(3), jnp.int32(0)], [2**70]]
)
def test_lists_and_ranges_are_steps(counts: Any) -> None:
    asked = np.clip(np.array(counts, object), 0, 2**31 - 1).astype(np.int32)
    rates = cosine()(counts)
    assert rates.dtype == jnp.float32
    np.testing.assert_array_equal(rates, cosine()(asked))


# --- a single step ---------------------------------------------------------------------------------------------------


@all_schedules
def test_a_single_step_is_answered_as_compiled_and_the_second_call_only_runs(case: Case) -> None:
    schedule = case()
    compiled = jax.jit(lambda count: schedule(count))
    for step in (0, 1, np.int32(2), np.uint8(3), 5, 10_000, 2**31 - 1, jnp.int32(4)):
        rate = schedule(step)
        assert isinstance(rate, jax.Array)
        assert (rate.shape, rate.dtype, rate.weak_type) == ((), jnp.float32, False)
        assert rate.tobytes() == compiled(jnp.int32(step)).tobytes()
    # `lrx bench schedules` measures its time: microseconds, since nothing is traced or compiled again.
    with counting() as counter:
        for step in range(3):
            schedule(step)
    assert counter.events == []


def test_equal_schedules_share_the_program_for_a_single_step() -> None:
    assert lrx.warmup(0.3, 7)._at is lrx.warmup(0.3, 7)._at
    assert lrx.warmup(0.3, 7)._at is not lrx.warmup(0.3, 8)._at
    own = Schedule(halving), Schedule(halving)
    assert own[0]._at is not own[1]._at
    assert float(own[0](1)) == float(own[1](1)) == 0.25


def test_a_single_step_of_a_schedule_that_is_traced_belongs_to_the_program() -> None:
    peaks = jnp.array([0.1, 0.2])
    with jax.checking_leaks():
        swept = jax.vmap(lambda peak: lrx.warmup(peak, 4)(2))(peaks)
        compiled = jax.jit(lambda peak: (0.5 * lrx.warmup(peak, 4))(np.int64(2)))(peaks[0])
    np.testing.assert_allclose(swept, peaks / 2, rtol=1e-6)
    np.testing.assert_allclose(compiled, 0.025, rtol=1e-6)
    assert lrx.warmup(0.1, 4).by_value
    assert not lrx.warmup(0.1, 4).is_traced


def test_threads_may_ask_for_steps_at_once() -> None:
    schedule = lrx.one_cycle(0.7, 40)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rates = list(pool.map(lambda step: float(schedule(step)), 5 * list(range(40))))
    np.testing.assert_allclose(rates, np.tile(schedule(range(40)), 5), rtol=1e-6)


# Of every way in which a rate is computed; the steps before a part begins are those of the test of negative counts.
@pytest.mark.parametrize(
    "label", ["warmup", "cosine_restarts", "exponential_decay", "step_decay", "tabulated", "one_cycle", "product"]
)
def test_a_schedule_is_a_part_of_optax_s_joined_schedules(label: str) -> None:
    case = SCHEDULES[label]
    joined = optax.join_schedules([optax.linear_schedule(0.0, 0.1, 10), case(), case()], [10, 20])
    traced = jax.jit(joined)
    for step in (0, 5, 10, 13, 25):
        expected = 0.01 * step if step < 10 else float(case()(step % 10))
        np.testing.assert_allclose(joined(step), expected, rtol=5e-6)
        np.testing.assert_allclose(traced(step), expected, rtol=5e-6)
    tx = optax.sgd(joined)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    np.testing.assert_array_equal(updates, 0.0)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_schedule_draws_itself_and_others_beside_it() -> None:
    schedule = lrx.warmup(cosine(), 5)
    figure = schedule.plot(25)
    (curve,) = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(25))
    np.testing.assert_allclose(curve.get_ydata(), schedule(range(25)))
    assert curve.get_label() == repr(schedule)
    assert (5 * schedule).plot(40, axes=figure.axes[0]) is figure
    low, high = figure.axes[0].get_ylim()
    assert low == 0
    assert high > 0.5
    assert len(figure.axes[0].lines) == len(figure.axes[0].get_legend().texts) == 2
    assert len(lrx.constant(0.1).plot(10**9).axes[0].lines[0].get_xdata()) == 20_000


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, 2**40])
def test_a_number_of_steps_that_cannot_be_drawn_is_refused(num_steps: Any) -> None:
    with pytest.raises(ValueError, match=r"num_steps must be a whole number of steps >= 1 .*, got num_steps="):
        cosine().plot(num_steps)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'plots need matplotlib: pip install "lrx\[papers\]"'):
        cosine().plot(5)


# --- schedules from functions ----------------------------------------------------------------------------------------


FUNCTIONS = {
    "float": lambda t: 0.25,
    "int": lambda t: 1,
    "table": lambda t: jnp.array([0.3, 0.2, 0.1])[jnp.minimum(t, 2)],
    "cond": lambda t: jax.lax.cond(t < 2, lambda: 0.1, lambda: 0.2),
    "optax cosine": optax.cosine_decay_schedule(0.1, 10),
    # Takes no arrays of counts: silently wrong on some, an error on others.
    "optax interpolation": optax.piecewise_interpolate_schedule("linear", 0.1, {5: 0.5}),
    "optax join": optax.join_schedules([optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.0, 5)], [3]),
    "named": halving,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_any_function_of_a_step_becomes_a_schedule(function: Callable[[Any], Any]) -> None:
    singly = [np.float32(function(jnp.int32(t))) for t in range(5)]
    schedule = Schedule(function)
    np.testing.assert_allclose(schedule(jnp.arange(5)), singly, rtol=1e-6)
    np.testing.assert_allclose(lrx.warmup(schedule, 2)(jnp.arange(2, 7)), singly, rtol=1e-6)
    state = lrx.sgd(function).init(PARAMS)
    np.testing.assert_allclose(lrx.learning_rate(state), singly[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda t: 0.1 if t < 5 else 0.2, "raises TracerBoolConversionError.*jnp.where"),
        (lrx.cosine_decay, "raises TypeError: call a factory"),
        (lambda: 0.1, "raises TypeError"),
        (0.1, r"got function=0\.1"),
        (lambda t: jnp.zeros(3), "one real number"),
        (lambda t: 1j, "one real number"),
        (lambda t: {"rate": 0.1}, "got function="),
        (lambda t: None, "got function="),
    ],
)
def test_a_function_that_is_no_schedule_is_refused_at_once(function: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"function must take a step, .*{said}"):
        Schedule(function)
