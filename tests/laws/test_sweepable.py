"""Law 2: every hyperparameter may be traced: it is swept by `vmap`, and changed without recompiling.

Bad values are refused: `test_refused.py`.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import all_schedule_sweeps, all_schedules, all_state_sweeps, all_states
from laws.programs import INT32_MAX, eager_run, observed, sweep_values
from problems import assert_trees_close, gradient_stream, signature_of, value_stream, vector_params
from units import Case

import lrx


def factors_shown(state: Any) -> list[jax.Array]:
    """Return every rate and factor that the state shows."""
    found = [node for node in jax.tree.leaves(state, is_leaf=_shows) if _shows(node)]
    return [node.learning_rate if isinstance(node, lrx.states.RateState) else node.latest for node in found]


def _shows(node: Any) -> bool:
    return isinstance(node, lrx.states.RateState | lrx.states.FactorState)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def usual_numbers(case: Case) -> dict[str, Any]:
    """Return a number for each hyperparameter: the case's, the factory's default, or one of its sweep."""
    parameters = inspect.signature(case.make).parameters
    usual = {name: case.arguments.get(name, parameters[name].default) for name in case.sweep}
    return {name: value if is_number(value) else case.sweep[name][1] for name, value in usual.items()}


def arrays(case: Case, numbers: dict[str, Any]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value, sweep_values(case, name).dtype) for name, value in numbers.items()}


def rows_of(case: Case) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """Return the rows of a sweep, each of which changes one of the usual numbers, and the places of each name."""
    usual, rows = usual_numbers(case), []
    for name, values in case.sweep.items():
        rows += [row for row in ({**usual, name: value} for value in values) if row not in rows]
    return rows, {name: [rows.index({**usual, name: value}) for value in case.sweep[name]] for name in case.sweep}


def stacked(case: Case, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(arrays(case, row) for row in rows))


def evaluated(function: Any, *arguments: Any) -> Any:
    """Return what a function gives for traced arguments, one operation at a time: compiling takes ten times as long."""
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.extend.core.jaxpr_as_fun(program)(*jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


# A power of a traced base is right to 5e-6 only; Adam divides what is left after cancellation in its moments.
CLOSE = {"rtol": 2e-5, "atol": 1e-6}


class Sweep:
    """One program of a case for all values of all hyperparameters."""

    def __init__(self, case: Case):
        self.case, self.params, self.values = case, vector_params(), list(case.values)
        self.stream = gradient_stream(self.params, len(self.values))
        if case.coupled:  # estimates of a distance grow while gradients point one way
            self.stream = [jax.tree.map(lambda leaf: leaf + 1, gradients) for gradients in self.stream]
        self.rows, self.places = rows_of(case)
        self.updates, self.points, self.shown = self.run() if self.rows else ((), (), ())

    def run(self) -> Any:
        stream = jax.tree.map(lambda *leaves: np.stack(leaves), *self.stream)

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, None, None))
        def run(numbers: Any, stream: Any, values: Any) -> Any:
            tx = self.case(**numbers)

            def step(carry: Any, seen: Any) -> Any:
                (params, state), (gradients, value) = carry, seen
                updates, state = tx.update(gradients, observed(state, value), params, value=value)
                return (optax.apply_updates(params, updates), state), (updates, factors_shown(state))

            (params, state), (updates, shown) = jax.lax.scan(
                step, (self.params, tx.init(self.params)), (stream, values)
            )
            return updates, lrx.eval_params(state, params), shown

        return jax.tree.map(np.asarray, run(stacked(self.case, self.rows), stream, np.float32(self.values)))


@functools.cache
def sweep(case: Case) -> Sweep:
    """Return the sweep of a case, compiled and run once in a process."""
    return Sweep(case)


@all_state_sweeps
def test_hyperparameters_are_swept_by_vmap_in_one_scanned_program(case):
    swept, steps = sweep(case), 3
    for index, row in enumerate(swept.rows):
        concrete, _ = eager_run(case(**row), swept.params, swept.stream[:steps], swept.values[:steps], moving=True)
        expected = jax.tree.map(lambda *leaves: np.stack(leaves), *concrete)
        found = jax.tree.map(lambda leaf, index=index: leaf[index, :steps], swept.updates)
        assert_trees_close(found, expected, **CLOSE)
    assert all(np.all((factor >= 0) & np.isfinite(factor)) for factor in swept.shown)


@all_state_sweeps
def test_each_hyperparameter_changes_what_comes_out(case):
    # A hyperparameter that does nothing would pass every sweep: two of its values must differ in some update,
    # or in where to evaluate.
    swept = sweep(case)
    outcomes = jax.tree.leaves((swept.updates, swept.points))
    for name, places in swept.places.items():
        of_name = [leaf[places] for leaf in outcomes]
        assert any(np.any(leaf != leaf[:1]) for leaf in of_name), name


@pytest.mark.slow
@all_states
def test_each_hyperparameter_may_be_traced_alone(case):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)
    state = observed(eager_run(case(), params, stream[:2], values[:2])[1], values[2])
    for name in case.sweep:

        def run(number, name=name):
            tx = case(**{name: number})
            return tx.init(params), tx.update(stream[2], state, params, value=values[2])

        assert_trees_close(evaluated(run, sweep_values(case, name)[1]), run(case.sweep[name][1]), **CLOSE)


@pytest.mark.slow
@all_states
def test_hyperparameters_are_changed_without_recompiling(case):
    # By their types alone, as a compiled function decides: what the numbers do is in the sweep.
    swept, traces = sweep(case), 0

    @jax.jit
    def step(numbers, params, state, gradients):
        nonlocal traces
        traces += 1
        return case(**numbers).update(gradients, observed(state, 1.0), params, value=1.0)

    for row in swept.rows:
        numbers = arrays(case, row)
        state = case(**numbers).init(swept.params)
        assert_trees_close(state, case(**row).init(swept.params), **CLOSE)
        updates, after = step.eval_shape(numbers, swept.params, state, swept.stream[0])
        assert signature_of(after) == signature_of(state)
        assert signature_of(updates) == signature_of(swept.stream[0])
    assert traces == min(len(case.sweep), 1)


# ----------------------------------------------------------------- schedules: their curves, since their update is one

NEAR, FAR = 8, (1000, 2**30, INT32_MAX)
COUNTS = np.asarray([*range(NEAR), *FAR], np.int32)
EXTREME = (0, 1, 2, 2**30, INT32_MAX)  # durations


@functools.cache
def curves(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the curves of the rows, and those of extreme durations, by one program."""
    rows, _ = rows_of(case)
    durations = [name for name in case.sweep if sweep_values(case, name).dtype == jnp.int32]
    rows += [{**usual_numbers(case), name: length} for name in durations for length in EXTREME]
    found = np.asarray(jax.jit(jax.vmap(lambda numbers: case(**numbers)(COUNTS)))(stacked(case, rows)))
    return np.split(found, [len(rows_of(case)[0])])


@all_schedule_sweeps
def test_hyperparameters_of_schedules_are_swept_by_vmap(case):
    for row, curve in zip(rows_of(case)[0], curves(case)[0], strict=True):
        np.testing.assert_allclose(curve[:NEAR], case(**row)(COUNTS[:NEAR]), **CLOSE)


@all_schedule_sweeps
def test_each_hyperparameter_of_a_schedule_changes_its_curve(case):
    for name, places in rows_of(case)[1].items():
        of_name = curves(case)[0][places]
        assert np.any(of_name != of_name[:1]), name


@all_schedule_sweeps
def test_rates_are_finite_and_not_negative_for_any_traced_duration(case):
    assert np.all([np.all(np.isfinite(rates) & (rates >= 0)) for rates in curves(case)])


@pytest.mark.slow
@all_schedules
def test_each_hyperparameter_of_a_schedule_may_be_traced_alone(case):
    for name in case.sweep:
        found = evaluated(lambda number, name=name: case(**{name: number})(COUNTS), sweep_values(case, name)[1])
        np.testing.assert_allclose(found[:NEAR], case(**{name: case.sweep[name][1]})(COUNTS[:NEAR]), **CLOSE)
        assert np.all(np.isfinite(found) & (found >= 0)), name
