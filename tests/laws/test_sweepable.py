"""Law 2: every hyperparameter may be traced, by `vmap` and by one program for all values.

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
from cases import Case, all_cases, all_schedules
from laws.programs import INT32_MAX, eager_run, observed, sweep_values
from problems import assert_trees_close, gradient_stream, value_stream, vector_params

import lrx


def factors_shown(state: Any) -> list[jax.Array]:
    """Return every rate and factor that the state shows."""
    found = [node for node in jax.tree.leaves(state, is_leaf=_shows) if _shows(node)]
    return [node.learning_rate if isinstance(node, lrx.states.RateState) else node.latest for node in found]


def _shows(node: Any) -> bool:
    return isinstance(node, lrx.states.RateState | lrx.states.FactorState)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Sweep:
    """One program of a case whose arguments are all hyperparameters at once."""

    def __init__(self, case: Case):
        self.traces = 0
        # As the case gives them, or the factory; what is no number there has one among the values of its sweep.
        parameters = inspect.signature(case.make).parameters
        usual = {name: case.arguments.get(name, parameters[name].default) for name in case.sweep}
        self.usual = {name: value if is_number(value) else case.sweep[name][1] for name, value in usual.items()}
        self.numbers = {name: jnp.asarray(value, sweep_values(case, name).dtype) for name, value in self.usual.items()}
        self.init = lambda numbers, params: case(**numbers).init(params)

        @jax.jit
        def step(numbers: Any, state: Any, gradients: Any, params: Any, value: Any) -> Any:
            self.traces += 1
            tx = case(**numbers)
            updates, state = tx.update(gradients, observed(state, value), params, value=value)
            return updates, state, optax.apply_updates(params, updates), factors_shown(state)

        self.step = step

    def run(self, changed: Any, stream: list[Any], values: Any, *, moving: bool = False) -> tuple[Any, Any, Any]:
        """Return all updates, the last state and the last parameters, with the hyperparameters that are changed."""
        numbers, params = {**self.numbers, **changed}, vector_params()
        state, rows = self.init(numbers, params), []
        for gradients, value in zip(stream, values, strict=True):
            updates, state, moved, shown = self.step(numbers, state, gradients, params, np.float32(value))
            params = moved if moving else params
            rows.append(updates)
            assert all(np.isfinite(factor) and np.asarray(factor) >= 0 for factor in shown)
        return rows, state, params


@functools.cache
def sweep(case: Case) -> Sweep:
    return Sweep(case)


def stacked(rows: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


@all_cases
def test_each_hyperparameter_is_swept_by_vmap(case):
    params = vector_params()
    stream, values = gradient_stream(params, 3), value_stream(3)

    def run(name, value):
        rows, state = eager_run(case(**{name: value}), params, stream, values)
        return rows, factors_shown(state)

    for name in case.sweep:
        found = jax.vmap(functools.partial(run, name))(sweep_values(case, name))
        concrete = stacked([run(name, value) for value in case.sweep[name]])
        # A power of a traced base is right to 5e-6 only; Adam divides what is left after cancellation in its moments.
        assert_trees_close(found, concrete, rtol=2e-5, atol=1e-6)
        assert all(bool(jnp.all((factor >= 0) & jnp.isfinite(factor))) for factor in found[1])


@all_cases
def test_all_hyperparameters_are_changed_without_recompiling(case):
    params, program = vector_params(), sweep(case)
    stream, values = gradient_stream(params, 3), value_stream(3)
    for name in case.sweep:
        for value, traced in zip(case.sweep[name], sweep_values(case, name), strict=True):
            rows, _, _ = program.run({name: traced}, stream, values)
            concrete, _ = eager_run(case(**{**program.usual, name: value}), params, stream, values)
            assert_trees_close(rows, concrete, rtol=2e-5, atol=1e-6)
    assert program.traces == min(len(case.sweep), 1)


@all_cases
def test_each_hyperparameter_changes_what_comes_out(case):
    # A hyperparameter that does nothing would pass every sweep: two of its values must differ in some update,
    # or in where to evaluate.
    params, program = vector_params(), sweep(case)
    stream, values = gradient_stream(params, len(case.values)), list(case.values)
    if case.coupled:  # estimates of a distance grow while gradients point one way
        stream = [jax.tree.map(lambda leaf: leaf + 1, gradients) for gradients in stream]
    for name in case.sweep:
        outcomes = []
        for value in sweep_values(case, name):
            rows, state, last = program.run({name: value}, stream, values, moving=True)
            outcomes.append(jax.tree.leaves((rows, lrx.eval_params(state, last))))
        first, *rest = outcomes
        assert any(not np.array_equal(a, b) for other in rest for a, b in zip(first, other, strict=True)), name


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
