"""Argument checks say argument, rule and value, let tracers pass, and change nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx import _checks

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "value", [0, 0.0, 1, 2.5, 3e38, np.float32(1), np.int64(3), jnp.asarray(2.0), jnp.bfloat16(1.5)]
)
def test_non_negative_accepts_numbers_of_every_kind(value):
    assert _checks.non_negative("rate", value) is None


@pytest.mark.parametrize("value", [-1, -1e-30, NAN, INF, -INF, 3.5e38, np.float64(1e300), jnp.asarray(-1.0)])
def test_non_negative_refuses_what_is_not_a_finite_float32(value):
    with pytest.raises(ValueError, match=r"^rate must be a finite number >= 0, got rate=.*: lower it\.$"):
        _checks.non_negative("rate", value, "lower it")


@pytest.mark.parametrize("value", [True, np.True_, None, "1", b"1", 1j, object(), [[1], [1, 2]], {}])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^rate must be a (real )?number, got rate="):
        _checks.positive("rate", value)


@pytest.mark.parametrize("value", [[], [1.0], np.ones(2), jnp.ones((2, 2))])
def test_arrays_are_refused_with_the_way_to_sweep(value):
    with pytest.raises(ValueError, match=r"^rate must be a scalar, got rate of shape \(.*jax\.vmap"):
        _checks.positive("rate", value)


def test_traced_arrays_are_refused_by_their_shape():
    with pytest.raises(ValueError, match=r"rate must be a scalar, got rate of shape \(3,\)"):
        jax.eval_shape(lambda value: _checks.positive("rate", value), jnp.ones(3))


def test_tracers_pass_every_check():
    @jax.jit
    def check(value):
        _checks.non_negative("x", value)
        _checks.positive("x", value)
        _checks.in_interval("x", value, "(0, 1)")
        _checks.steps("x", value)
        _checks.increasing_steps("x", [value, 3, value, 5])
        assert not _checks.is_concrete(value)
        return value

    assert check(-7.0) == -7.0


def test_known_values_are_checked_inside_jit_too():
    known = jnp.asarray(-1.0)
    with pytest.raises(ValueError, match="x must be a finite number > 0, got x=-1"):
        jax.jit(lambda y: (_checks.positive("x", known), y))(1.0)


def test_positive_refuses_zero():
    _checks.positive("rate", 1e-30)
    with pytest.raises(ValueError, match=r"^rate must be a finite number > 0, got rate=0\.0\.$"):
        _checks.positive("rate", 0.0)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.5, 0.999], [1, -0.001, NAN, INF]),
        ("(0, 1]", [0.001, 1], [0, 1.001, -INF]),
        ("(0, 1)", [0.5], [0, 1]),
        ("[0, 1]", [0, 1], [-1, 2]),
        ("(1, inf)", [1.5, 1e30], [1, INF]),
    ],
)
def test_intervals_are_read_as_in_mathematics(interval, inside, outside):
    for value in inside:
        _checks.in_interval("x", value, interval)
    for value in outside:
        with pytest.raises(ValueError, match=r"^x must be in [\[(].*[\])], got x="):
            _checks.in_interval("x", value, interval)


def test_steps_are_whole_and_fit_into_int32():
    for value in (1, 1.0, 10_000, 2**31 - 1, np.uint32(7), jnp.asarray(3)):
        _checks.steps("steps", value)
    _checks.steps("steps", 0, at_least=0)
    for value in (0, -1, 1.5, 2**31, 2**40, NAN, INF):
        with pytest.raises(ValueError, match=r"^steps must be a whole number of steps >= 1 and < 2\^31, got steps="):
            _checks.steps("steps", value)


@pytest.mark.parametrize("values", [[2, 2], [3, 1], [1, 5, 4]])
def test_increasing_steps_refuses_what_does_not_increase(values):
    with pytest.raises(ValueError, match=r"^boundaries must increase strictly, got boundaries=\[.*\]: sort them"):
        _checks.increasing_steps("boundaries", values)


def test_increasing_steps_names_the_entry_that_is_no_step():
    _checks.increasing_steps("boundaries", [1, 5, 1000])
    _checks.increasing_steps("boundaries", [])
    with pytest.raises(ValueError, match=r"^boundaries\[1\] must be a whole number"):
        _checks.increasing_steps("boundaries", [1, 2.5])


def test_one_of_lists_the_words():
    _checks.one_of("mode", "min", ("min", "max"))
    with pytest.raises(ValueError, match=r"^mode must be one of 'min', 'max', got mode='mean'\.$"):
        _checks.one_of("mode", "mean", ("min", "max"))


@pytest.mark.parametrize("value", [1, 0, None, "True", np.True_])
def test_flags_are_python_booleans(value):
    _checks.flag("nesterov", True)
    with pytest.raises(TypeError, match=r"^nesterov must be True or False, got nesterov="):
        _checks.flag("nesterov", value)


NARROW = [np.float16, jnp.bfloat16]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (lambda x: lrx.cosine_decay(0.1, x), "decay_steps", "in which 1001 is another number"),
        (lambda x: lrx.warmup(0.1, x), "warmup_steps", "in which 1001 is another number"),
        (lambda x: lrx.warmup_linear_decay(0.1, x, 4), "warmup_steps", "in which 1001 is another number"),
        (lambda x: lrx.join([0.1, 0.2], [x]), r"boundaries\[0\]", "in which 1001 is another number"),
        (lambda x: lrx.exponential_decay(0.1, x), "decay_rate", "which rounds 0.999 to 1"),
        (lambda x: lrx.step_decay(0.1, 5, factor=x), "factor", "which rounds 0.999 to 1"),
        (lambda x: lrx.cosine_restarts(0.1, 5, restart_mult=x), "restart_mult", "which rounds 0.999 to 1"),
        (lambda x: lrx.cosine_restarts(0.1, 5, period_mult=x), "period_mult", "which rounds 0.999 to 1"),
        (lambda x: lrx.cyclical(0.1, 0.2, 3, mode="exp_range", decay_rate=x), "decay_rate", "which rounds 0.999 to 1"),
    ],
)
def test_durations_and_bases_of_powers_are_refused_in_types_that_cannot_hold_them(make, name, said, dtype) -> None:
    message = rf"{name} must not be narrower than float32, got {name} of type .*float16, {said}.*hyperparam_dtype"
    with pytest.raises(TypeError, match=message):
        make(jnp.asarray(1, dtype))
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(lambda x: make(x)(3), jax.ShapeDtypeStruct((), dtype))


def test_a_decay_that_optax_would_round_to_none_is_refused() -> None:
    params = jnp.ones(2, jnp.bfloat16)

    def make(decay_rate):
        return lrx.sgd(lrx.exponential_decay(0.1, decay_rate))

    rounded = optax.inject_hyperparams(make)(decay_rate=0.999)
    with pytest.raises(TypeError, match=r"hyperparam_dtype=jnp\.float32"):
        rounded.init(params)
    kept = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)(decay_rate=0.999)
    _, state = kept.update(params, kept.init(params))
    assert float(lrx.learning_rate(kept.update(params, state)[1])) == pytest.approx(0.1 * 0.999)
