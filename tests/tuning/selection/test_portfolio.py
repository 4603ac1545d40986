"""The methods of the portfolio, and what is refused in one of a user's."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.line import NOISY_LINE, SLOPE
from tuning.selection.methods import late_decay

import lrx
from lrx.extra_args import tolerant_update
from lrx.tuning import PORTFOLIO, Method
from lrx.tuning.selection.portfolio import stable_decay
from lrx.tuning.selection.rates import trial_rates


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"max_rate": 1e-6}, "max_rate must be above 1e-06, where range tests begin, got max_rate=1e-06"),
        ({"reusable_fraction": 2.0}, r"reusable_fraction must be in \[0, 1\]"),
        ({"reusable_fraction": -0.5}, r"reusable_fraction must be in \[0, 1\]"),
        ({"trials": 0}, "trials must be a whole number of rates >= 1"),
        ({"scale": -1.0}, "scale must be a finite number > 0"),
        ({"default": 0.0}, "default must be a finite number > 0"),
        ({"max_rate": math.inf}, "max_rate must be a finite number > 0"),
    ],
)
def test_a_field_of_a_method_that_is_out_of_range_is_refused(field: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Method(late_decay, **field)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make": 0.1}, "make must be a function of a rate and a number of steps, got make=0.1"),
        (
            {"make": late_decay, "range_test_of": "sgd"},
            "range_test_of must be a function of a rate, or None, got range_test_of='sgd'",
        ),
    ],
)
def test_a_field_of_a_method_that_is_no_function_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Method(**arguments)


@pytest.mark.parametrize("name", [name for name, method in PORTFOLIO.items() if method.reusable_fraction == 1])
def test_a_method_that_is_reusable_as_a_whole_does_not_depend_on_the_length(name: str) -> None:
    method = PORTFOLIO[name]

    @jax.jit
    def slopes(num_steps: jax.Array) -> jax.Array:
        tx = tolerant_update(method.make(method.default, num_steps))

        def step(carry: Any, noise: jax.Array) -> Any:
            slope, state = carry
            loss, gradient = jax.value_and_grad(lambda slope: jnp.sum((slope - SLOPE) ** 2) + noise * jnp.sum(slope))(
                slope
            )
            updates, state = tx(gradient, state, slope, value=loss)
            return (optax.apply_updates(slope, updates), state), slope

        slope = jnp.ones(3)
        start = slope, method.make(method.default, num_steps).init(slope)
        return jax.lax.scan(step, start, 0.1 * jax.random.normal(jax.random.key(0), (30,)))[1]

    short, long = slopes(jnp.int32(40)), slopes(jnp.int32(400))
    assert np.ptp(short) > 0
    np.testing.assert_array_equal(short, long)


def test_warmup_stable_decay_is_stable_up_to_what_is_reusable() -> None:
    steps = np.arange(1000)
    rates = np.asarray(stable_decay(0.1, 1000)(steps))
    assert np.all(rates[50:701] == np.float32(0.1))
    assert rates[0] == 0
    assert rates[701] < np.float32(0.1)
    assert stable_decay(0.1, 1000)(1000) == 0
    assert {PORTFOLIO[name].reusable_fraction for name in PORTFOLIO if "stable" in name} == {0.7}


def test_rates_to_try_go_from_the_range_test_and_the_default() -> None:
    test = lrx.range_test(NOISY_LINE, lrx.sgd, max_rate=100.0)
    middle = math.sqrt(test.suggestions["minimum"] * 0.05)
    np.testing.assert_allclose(trial_rates(test, 3, 0.05), middle * np.array([1.5, math.sqrt(27), 18]))
    np.testing.assert_allclose(trial_rates(test, 1, 0.05), [middle * math.sqrt(27)])
    found = test.suggestions["minimum"]
    np.testing.assert_allclose(trial_rates(test, 2, 1e9 * found), 10 * found * np.array([1.5, 18]))
    np.testing.assert_allclose(trial_rates(test, 2, 1e-9 * found), 0.1 * found * np.array([1.5, 18]))


@pytest.mark.parametrize("name", ["muon, linear decay", "lion, linear decay", "adamw, averaged"])
def test_a_method_that_is_given_one_vector_does_the_same_with_arrays(name: str) -> None:
    method = PORTFOLIO[name]
    tx = method.make(0.1, 20)
    arrays = {"w": jnp.arange(6.0).reshape(2, 3) - 2.0, "b": jnp.array([1.0, -3.0])}
    vector, unravel = jax.flatten_util.ravel_pytree(arrays)
    apart, _ = tx.update(arrays, tx.init(arrays), arrays)
    together, _ = tx.update(vector, tx.init(vector), vector)
    gap = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.abs(x - y).max(), apart, unravel(together)))
    assert (max(map(float, gap)) < 1e-6) == method.flat
