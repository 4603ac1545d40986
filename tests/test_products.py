"""Rates multiply: numbers, schedules and controllers from both sides, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rate_examples import COUNTS, GRADS, PARAMS, cosine, leaves_equal, plateau, run

import lrx
from lrx.feedback import controller
from lrx.rates import Controller, Rate, Schedule
from lrx.states import FactorState
from lrx.transformations import factory

# --- products --------------------------------------------------------------------------------------------------------


NUMBERS = {
    "int": 2,
    "float": 0.5,
    "np.float32": np.float32(0.3),
    "np.float64": np.float64(0.3),
    "np.int64": np.int64(3),
    "np 0-d": np.array(0.7),
    "jax 0-d": jnp.asarray(0.7),
    "bfloat16": jnp.bfloat16(0.5),
    "zero": 0.0,
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_multiply_from_both_sides(number: Any) -> None:
    for product in (cosine() * number, number * cosine()):
        assert isinstance(product, Schedule)
        np.testing.assert_allclose(product(COUNTS), float(number) * np.asarray(cosine()(COUNTS)), rtol=1e-6)
    for product in (
        plateau() * number,
        number * plateau(),
        cosine() * plateau() * number,
        number * (cosine() * plateau()),
    ):
        assert isinstance(product, Rate)
        assert not isinstance(product, Schedule)
    _, rates = run(lrx.sgd(number * plateau()), [1.0, 1.0])
    np.testing.assert_allclose(rates, [float(number), float(number) / 2], rtol=1e-6)


@pytest.mark.parametrize("number", [number for number in NUMBERS.values() if float(number)], ids=str)
def test_numbers_divide_from_the_right(number: Any) -> None:
    quotient = cosine() / number
    assert isinstance(quotient, Schedule)
    np.testing.assert_allclose(quotient(COUNTS), np.asarray(cosine()(COUNTS)) / float(number), rtol=1e-6, atol=1e-12)
    assert quotient.peak == pytest.approx(0.1 / float(number))
    assert type(plateau() / number) is type(plateau() * 0.5) is Rate
    assert type((cosine() * plateau()) / number) is Rate
    _, rates = run(lrx.sgd(cosine() * plateau() / number), [1.0])
    np.testing.assert_allclose(rates, [0.1 / float(number)], rtol=1e-6)
    swept = jax.vmap(lambda k: (cosine() / k)(jnp.arange(3)))(jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(swept, np.outer([2.0, 0.5], cosine()(jnp.arange(3))), rtol=1e-6)


@pytest.mark.parametrize("number", [0, 0.0, -2, float("nan"), float("inf"), 1e-39, np.float32(0)])
def test_no_rate_is_divided_by_what_makes_none(number: Any) -> None:
    for factor in (cosine(), plateau(), cosine() * plateau()):
        with pytest.raises(ValueError, match="divisor must be a finite number >= 1e-38, got divisor="):
            factor / number


def test_tracers_multiply_from_both_sides_under_vmap_and_jit() -> None:
    numbers = jnp.array([0.5, 2.0])
    curves = jax.vmap(lambda k: (k * cosine() * k)(jnp.arange(5)))(numbers)
    np.testing.assert_allclose(curves, np.outer(numbers**2, cosine()(jnp.arange(5))), rtol=1e-6)
    states = jax.vmap(lambda k: lrx.sgd(k * (cosine() * plateau()) * k).init(PARAMS))(numbers)
    np.testing.assert_allclose(lrx.learning_rate(states), 0.1 * numbers**2, rtol=1e-6)
    jax.vmap(lambda k: (repr(k * cosine() * plateau()), k)[1])(numbers)


def test_products_have_the_kind_that_their_factors_make() -> None:
    kinds = {
        cosine() * cosine(): Schedule,
        cosine() * plateau(): Rate,
        plateau() * cosine(): Rate,
        plateau() * plateau(): Controller,
        plateau() * cosine().multiplier(): Controller,
        cosine() * cosine().multiplier(): Rate,
        (cosine() * plateau()) * (cosine() * plateau()): Rate,
    }
    for product, kind in kinds.items():
        assert type(product) is kind, product


def test_schedule_times_schedule_multiplies_values() -> None:
    ramp = lrx.warmup(1.0, 10)
    np.testing.assert_allclose((cosine() * ramp)(COUNTS), cosine()(COUNTS) * ramp(COUNTS), rtol=1e-7)
    _, rates = run(lrx.sgd(cosine() * ramp), [0.0] * 15)
    np.testing.assert_allclose(rates, (cosine() * ramp)(np.arange(15)), rtol=1e-6)


def test_a_peak_is_known_unless_two_shapes_meet() -> None:
    shape, controller = lrx.linear_decay(0.4, 10), lrx.reduce_on_plateau()
    assert (0.5 * shape).peak == 0.2
    assert (shape * controller).peak == 0.4
    assert (lrx.constant(0.5) * shape * controller * 0.1).peak == pytest.approx(0.02)
    assert lrx.warmup(shape, 5).peak == 0.4
    assert lrx.join([0.1, shape], [5]).peak == 0.4
    assert (shape * shape).peak is None
    assert (shape * controller * lrx.warmup(1.0, 5).multiplier()).peak is None
    assert lrx.warmup(shape * shape, 5).peak is None
    assert lrx.Schedule(lambda count: 1.0 / (1 + count)).peak is None


@pytest.mark.parametrize("number", [-0.5, -1, float("nan"), float("inf"), np.float32(-2), jnp.asarray(-0.5), np.nan])
def test_negative_and_non_finite_factors_are_refused(number: Any) -> None:
    for factor in (cosine(), plateau(), cosine() * plateau()):
        with pytest.raises(ValueError, match="factor must be a finite number >= 0, got factor="):
            factor * number
        if not np.all(np.asarray(number) == -1):
            with pytest.raises(ValueError, match="factor must be a finite number >= 0, got factor="):
                number * factor
    with pytest.raises(TypeError, match="a rate is never negative"):
        -cosine()


@pytest.mark.parametrize("other", [True, np.True_, None, "2", [1.0], (1.0, 2.0), 1j, optax.sgd(0.1), abs, {}])
def test_what_is_no_factor_is_refused_on_both_sides(other: Any) -> None:
    for factor in (cosine(), plateau(), cosine() * plateau()):
        with pytest.raises(TypeError, match="factor must be a number, a Schedule, a Rate or a Controller, got factor="):
            factor * other
        with pytest.raises(TypeError, match="factor must be a number, a Schedule, a Rate or a Controller, got factor="):
            other * factor


def test_a_factor_is_a_scalar() -> None:
    for several in (np.array([0.1, 0.2]), jnp.array([0.1, 0.2]), np.array([0.1])):
        with pytest.raises(ValueError, match=r"factor must be a scalar, got factor of shape .*jax.vmap"):
            cosine() * several
        with pytest.raises(ValueError, match=r"factor must be a scalar, got factor of shape .*jax.vmap"):
            several * cosine()
        with pytest.raises(ValueError, match=r"learning_rate must be a scalar, got learning_rate of shape"):
            lrx.sgd(several)


OPERATORS = [
    operator.add, operator.sub, operator.truediv, operator.floordiv, operator.mod, operator.pow, operator.matmul,
    operator.lt, operator.le, operator.gt, operator.ge,
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATORS, ids=lambda o: o.__name__)
def test_the_arithmetic_of_the_tuple_underneath_raises(operation: Callable[[Any, Any], Any]) -> None:
    others = (cosine(), plateau(), 0.5, np.float32(0.5), np.array([0.5]), jnp.float32(0.5), (1, 2), optax.sgd(0.1))
    for factor in (cosine(), plateau(), cosine() * plateau()):
        for other in others:
            for pair in ((factor, other), (other, factor)):
                if operation is operator.truediv and pair[0] is factor and np.ndim(other) == 0 and not callable(other):
                    continue  # a quotient by a number
                with pytest.raises(
                    (TypeError, ValueError), match=r"combined by `\*` only, .*got .*join|must be a scalar"
                ):
                    operation(*pair)


# --- controllers -----------------------------------------------------------------------------------------------------


def test_a_controller_starts_at_one_and_multiplies_without_a_sign() -> None:
    link = plateau()
    state = link.init(PARAMS)
    assert isinstance(state, FactorState)
    assert float(state.factor()) == 1.0
    for expected in (1.0, 0.5, 0.25):
        updates, state = link.update(GRADS, state, PARAMS, value=1.0)
        assert float(state.factor()) == expected
        leaves_equal(updates, jax.tree.map(lambda g, e=expected: e * g, GRADS))
    tx = optax.chain(optax.sgd(0.1), plateau())
    state = tx.init(PARAMS)
    for expected in (-0.2, -0.1, -0.05):
        updates, state = tx.update(GRADS, state, PARAMS, value=1.0)
        np.testing.assert_allclose(updates["b"], expected, rtol=1e-6)


def test_products_with_controllers_multiply_factor_by_factor() -> None:
    slow, fast = plateau(), plateau(factor=0.1)
    for product in (
        cosine() * slow * fast,
        slow * fast * cosine(),
        slow * (cosine() * fast),
        fast * slow * 1 * cosine(),
    ):
        _, rates = run(lrx.sgd(product), [1.0, 1.0, 1.0])
        np.testing.assert_allclose(rates, cosine()(np.arange(3)) * np.array([1.0, 0.05, 0.0025]), rtol=1e-6)
    _, rates = run(lrx.sgd(lrx.constant(1.0) * slow), [1.0, 1.0])
    np.testing.assert_allclose(rates, [1.0, 0.5])


def test_multiplier_is_the_unsigned_link() -> None:
    link = (cosine() * 2).multiplier()
    assert isinstance(link, Controller)
    updates, state = link.update(GRADS, link.init(PARAMS))
    leaves_equal(updates, jax.tree.map(lambda g: 0.2 * g, GRADS), rtol=1e-6)
    tx = optax.chain(link, lrx.sgd(0.5))
    updates, state = tx.update(GRADS, tx.init(PARAMS))
    np.testing.assert_allclose(updates["b"], -0.2 * 0.5 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.1, rtol=1e-6)


def test_a_missing_value_says_what_to_pass() -> None:
    tx = lrx.adam(0.1 * plateau())
    for extra in ({}, {"value": None}, {"loss": 1.0}):
        with pytest.raises(ValueError, match=r"reduce_on_plateau needs the loss: pass it as .*value=loss.*observe"):
            tx.update(GRADS, tx.init(PARAMS), PARAMS, **extra)


@pytest.mark.parametrize(
    ("value", "error"),
    [(jnp.ones(3), ValueError), (np.ones(1), ValueError), ("1", TypeError), (1j, TypeError), (True, TypeError)],
)
def test_a_value_that_is_no_loss_is_refused(value: Any, error: type[Exception]) -> None:
    tx = lrx.sgd(0.1 * plateau())
    state = tx.init(PARAMS)
    with pytest.raises(error, match=r"value must be a (scalar|real number), got value"):
        tx.update(GRADS, state, PARAMS, value=value)
    with pytest.raises(error, match=r"value must be a (scalar|real number), got value"):
        lrx.observe(state, value=value)


def test_a_new_controller_is_two_functions() -> None:
    @factory
    def stop_above(limit: float) -> Controller:
        def update(stopped: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
            stopped = stopped | (value > limit)
            return 1.0 - stopped.astype(jnp.float32), stopped

        return controller(init=lambda params: jnp.zeros([], bool), update=update)

    updates, rates = run(lrx.adam(0.1 * stop_above(5.0)), [1.0, 9.0, 1.0])
    np.testing.assert_allclose(rates, [0.1, 0.0, 0.0], rtol=1e-6)
    leaves_equal(updates[2], jax.tree.map(jnp.zeros_like, GRADS))
    assert repr(stop_above(5.0)) == "stop_above(5.0)"
