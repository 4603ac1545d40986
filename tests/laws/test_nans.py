"""No intermediate value is NaN: `jax_debug_nans` checks every operation of an update that is not compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from cases import CASES, all_states
from laws.programs import eager_run
from problems import gradient_stream, vector_params

import lrx

WARMED_UP = {label: case for label, case in CASES.items() if "learning_rate" in case.arguments}


@pytest.fixture(autouse=True)
def debug_nans():
    with jax.debug_nans(True):
        yield


def _streams(params):
    """Return gradients that are zero, zero in one coordinate, and without any zero."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    first, second = gradient_stream(params, 2)
    return [zeros, {**first, "a": first["a"].at[0].set(0.0)}, second]


@all_states
def test_no_operation_of_an_update_makes_nan(case):
    params = vector_params()
    eager_run(case(), params, _streams(params), [1.0, 0.5, 0.7], moving=True)


@pytest.mark.parametrize("case", WARMED_UP.values(), ids=WARMED_UP)
def test_no_operation_makes_nan_under_a_rate_that_starts_at_0(case):
    params = vector_params()
    tx = case(learning_rate=lrx.warmup(0.1, 2))
    eager_run(tx, params, gradient_stream(params, 3), [1.0, 0.5, 0.7], moving=True)


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if "eps" in case.sweep])
def test_no_operation_makes_nan_without_an_eps(label):
    params, case = vector_params(), CASES[label]
    try:
        tx = case(eps=0.0)
    except ValueError as error:
        assert "eps must be a finite number > 0" in str(error)  # noqa: PT017
        return
    eager_run(tx, params, _streams(params), [1.0, 0.5, 0.7], moving=True)


FOLLOWING = {label: case for label, case in CASES.items() if case.needs_value or "feedback" in case.arguments}


@pytest.mark.parametrize("case", FOLLOWING.values(), ids=FOLLOWING)
def test_losses_and_gradients_that_stand_still_at_0_make_no_nan(case):
    params = vector_params()
    zeros = jax.tree.map(jnp.zeros_like, params)
    eager_run(case(), params, [*gradient_stream(params, 1), zeros, zeros], [0.0, 0.0, 0.0])
    eager_run(case(), params, [zeros, zeros], [0.0, 0.0])
