"""Law 2: every hyperparameter may be traced: it is swept by `vmap`, and changed without recompiling.

Bad values are refused: `test_refused.py`.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import all_cases, all_schedules, all_sweeps
from laws.programs import INT32_MAX, eager_run, observed, sweep_values
from problems import assert_trees_close, gradient_stream, value_stream, vector_params
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


class Sweep:
    """One program of a case for all values of all hyperparameters: each row changes one of the usual numbers."""

    def __init__(self, case: Case):
        self.case, self.params, self.values = case, vector_params(), list(case.values)
        self.stream = gradient_stream(self.params, len(self.values))
        if case.coupled:  # estimates of a distance grow while gradients point one way
            self.stream = [jax.tree.map(lambda leaf: leaf + 1, gradients) for gradients in self.stream]
        usual = usual_numbers(case)
        self.rows = [{**usual, name: value} for name, values in case.sweep.items() for value in values]
        self.updates, self.points, self.shown = self.run() if self.rows else ((), (), ())

    def run(self) -> Any:
        numbers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(arrays(self.case, row) for row in self.rows))
        stream = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.stream)

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

        return jax.tree.map(np.asarray, run(numbers, stream, jnp.asarray(self.values, jnp.float32)))


@functools.cache
def sweep(case: Case) -> Sweep:
    """Return the sweep of a case, compiled and run once in a process."""
    return Sweep(case)


@all_sweeps
def test_hyperparameters_are_swept_by_vmap_in_one_scanned_program(case):
    swept, steps = sweep(case), 3
    for index, row in enumerate(swept.rows):
        concrete, _ = eager_run(case(**row), swept.params, swept.stream[:steps], swept.values[:steps], moving=True)
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *concrete)
        found = jax.tree.map(lambda leaf, index=index: leaf[index, :steps], swept.updates)
        # A power of a traced base is right to 5e-6 only; Adam divides what is left after cancellation in its moments.
        assert_trees_close(found, expected, rtol=2e-5, atol=1e-6)
    assert all(np.all((factor >= 0) & np.isfinite(factor)) for factor in swept.shown)


@all_sweeps
def test_each_hyperparameter_changes_what_comes_out(case):
    # A hyperparameter that does nothing would pass every sweep: two of its values must differ in some update,
    # or in where to evaluate.
    swept = sweep(case)
    outcomes = jax.tree.leaves((swept.updates, swept.points))
    first = 0
    for name, values in case.sweep.items():
        of_name = [leaf[first : first + len(values)] for leaf in outcomes]
        assert any(np.any(leaf != leaf[:1]) for leaf in of_name), name
        first += len(values)


@pytest.mark.slow
@all_cases
def test_each_hyperparameter_alone_is_swept_by_vmap(case):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)

    def run(name, value):
        rows, state = eager_run(case(**{name: value}), params, stream, values)
        return rows, factors_shown(state)

    for name in case.sweep:
        found = jax.vmap(functools.partial(run, name))(sweep_values(case, name))
        concrete = [run(name, value) for value in case.sweep[name]]
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *concrete)
        assert_trees_close(found, expected, rtol=2e-5, atol=1e-6)
        assert all(bool(jnp.all((factor >= 0) & jnp.isfinite(factor))) for factor in found[1])


@pytest.mark.slow
@all_cases
def test_hyperparameters_are_changed_without_recompiling(case):
    # The rows of the sweep, which equal the runs with concrete numbers, one by one.
    swept, steps, traces = sweep(case), 3, 0

    @jax.jit
    def step(numbers, params, state, gradients, value):
        nonlocal traces
        traces += 1
        return case(**numbers).update(gradients, observed(state, value), params, value=value)

    for index, row in enumerate(swept.rows):
        numbers, params, rows = arrays(case, row), swept.params, []
        state = case(**numbers).init(params)
        for gradients, value in zip(swept.stream[:steps], swept.values, strict=False):
            updates, state = step(numbers, params, state, gradients, np.float32(value))
            params = optax.apply_updates(params, updates)
            rows.append(updates)
        found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        expected = jax.tree.map(lambda leaf, index=index: leaf[index, :steps], swept.updates)
        assert_trees_close(found, expected, rtol=2e-5, atol=1e-6)
    assert traces == min(len(case.sweep), 1)


@all_schedules
def test_rates_are_finite_and_not_negative_for_any_traced_duration(case):
    durations = {
        name: jnp.asarray([0, 1, 2, 2**30, INT32_MAX], jnp.int32)
        for name in case.sweep
        if all(isinstance(value, int) for value in case.sweep[name])
    }
    counts = jnp.asarray([0, 1, 2, 3, 1000, 2**30, INT32_MAX], jnp.int32)
    for name, lengths in durations.items():
        rates = jax.vmap(lambda value, name=name: case(**{name: value})(counts))(lengths)
        assert bool(jnp.all(jnp.isfinite(rates) & (rates >= 0))), name
