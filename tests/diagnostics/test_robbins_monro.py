"""Which schedules satisfy the conditions of Robbins and Monro: exactly for the families, by a fit for functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES

import lrx
from lrx.diagnostics.tails import fitted_powers, tail_of
from lrx.rates import Schedule

inverse = lrx.inverse_time_decay
WAVE = lrx.cyclical(0.0, 0.1, 1)  # 0, 0.1, 0, 0.1, ...
# The schedule, whether the sum of rates diverges, whether that of squares converges.
DECIDED = {
    "constant": (lrx.constant(0.1), True, False),
    "number": (0.1, True, False),
    "zero": (0.0, False, True),
    "1 / t": (inverse(0.1, 1.0), True, True),
    "t^-0.75": (inverse(0.1, 1.0, power=0.75), True, True),
    "t^-0.5": (inverse(0.1, 1.0, power=0.5), True, False),
    "just above a half": (inverse(0.1, 1.0, power=0.501), True, True),
    "just above one": (inverse(0.1, 1.0, power=1.001), False, True),
    "inverse square root": (lrx.inverse_sqrt_decay(0.1, 100), True, False),
    "a decay of 0": (inverse(0.1, 0.0), True, False),
    "ends at 0": (lrx.cosine_decay(0.1, 1000), False, True),
    "ends above 0": (lrx.cosine_decay(0.1, 1000, end_value=0.01), True, False),
    "linear": (lrx.linear_decay(0.1, 10), False, True),
    "one cycle": (lrx.one_cycle(0.1, 100), True, False),
    "warm-up and decay": (lrx.warmup_cosine_decay(0.1, 10, 100), False, True),
    "table": (lrx.tabulated([0.1, 0.2, 0.0]), False, True),
    "exponential": (lrx.exponential_decay(0.1, 0.9), False, True),
    "exponential with a floor": (lrx.exponential_decay(0.1, 0.9, end_value=1e-4), True, False),
    "exponential that does not fall": (lrx.exponential_decay(0.1, 1.0), True, False),
    "steps": (lrx.step_decay(0.1, 10), False, True),
    "restarts": (lrx.cosine_restarts(0.1, 10), True, False),
    "restarts that shrink": (lrx.cosine_restarts(0.1, 10, restart_mult=0.5), False, True),
    "restarts as 1 / t": (lrx.cosine_restarts(0.1, 10, period_mult=3, restart_mult=1 / 3), True, True),
    "restarts as t^-2": (lrx.cosine_restarts(0.1, 10, period_mult=2, restart_mult=0.25), False, True),
    "restarts as t^-0.5": (lrx.cosine_restarts(0.1, 10, period_mult=4, restart_mult=0.5), True, False),
    "restarts with a floor": (lrx.cosine_restarts(0.1, 10, restart_mult=0.5, end_value=0.01), True, False),
    "cycles": (lrx.cyclical(0.0, 0.1, 5), True, False),
    "cycles that shrink": (lrx.cyclical(0.0, 0.1, 5, mode="triangular2"), False, True),
    "cycles that shrink to a bound": (lrx.cyclical(0.01, 0.1, 5, mode="exp_range", decay_rate=0.9), True, False),
    "warm-up": (lrx.warmup(inverse(0.1, 1.0), 100), True, True),
    "warm-up to a number": (lrx.warmup(0.1, 100), True, False),
    "join": (lrx.join([0.1, inverse(0.1, 1.0), inverse(0.1, 1.0, power=2)], [10, 20]), False, True),
    "join to a number": (lrx.join([inverse(0.1, 1.0), 0.1], [10]), True, False),
    "product of powers": (inverse(0.1, 1.0, power=0.25) * lrx.inverse_sqrt_decay(1.0, 10), True, True),
    "product with a number": (0.5 * inverse(0.1, 1.0) / 3, True, True),
    "product with a cycle": (inverse(0.1, 1.0) * lrx.cyclical(0.0, 1.0, 5), True, True),
    "product of cycles": (lrx.cyclical(0.0, 1.0, 5) * lrx.cyclical(0.0, 1.0, 2), True, False),
    "product with an end": (inverse(0.1, 1.0) * lrx.linear_decay(1.0, 10), False, True),
    "product with a geometric one": (lrx.constant(0.1) * lrx.step_decay(1.0, 10), False, True),
}


@pytest.mark.parametrize("name", DECIDED)
def test_families_are_decided_exactly(name):
    schedule, diverges, converges = DECIDED[name]
    found = lrx.robbins_monro(schedule)
    assert (found.sum_diverges, found.squares_converge, found.exact) == (diverges, converges, True)
    assert found.satisfied is (diverges and converges)
    assert found.reason


SEEN = [name for name in DECIDED if name not in ("just above a half", "just above one")]  # too close for a fit


@pytest.mark.slow
def test_the_numerical_test_agrees_with_what_is_known_exactly():
    for name in SEEN:
        schedule, diverges, converges = DECIDED[name]
        if isinstance(schedule, float):
            continue
        found = lrx.robbins_monro(Schedule(schedule.function))
        assert not found.exact
        assert found.sum_diverges in (diverges, None), name
        assert found.squares_converge in (converges, None), name
        assert None not in (found.sum_diverges, found.squares_converge) or "restarts as" in name, name


@pytest.mark.slow
def test_two_cycles_that_are_0_in_turn_are_tested_numerically():
    product = WAVE * lrx.warmup(WAVE, 1)
    assert float(jnp.max(product(jnp.arange(10, 100)))) == 0
    found = lrx.robbins_monro(product)
    assert (found.sum_diverges, found.exact) == (False, False)
    assert "it is 0 at steps from 2^30 on" in found.reason
    assert lrx.robbins_monro(WAVE * WAVE).sum_diverges


def test_every_family_of_the_library_is_known():
    families = {case.make for case in CASES.values() if case.make.__module__.startswith(("lrx.schedules", "lrx.rates"))}
    assert len(families) > 15
    for label, case in CASES.items():
        if case.make in families and isinstance(schedule := case(), Schedule):
            assert tail_of(schedule) is not None, f"lrx/diagnostics/tails.py has no rule for {label}"


def fast(step):
    return 0.1 / (1.0 + step) ** 2


def test_functions_are_tested_numerically():
    for function, expected in (
        (lambda step: 0.1 / (1.0 + step), (True, True)),
        (lambda step: 0.1 * (1.0 + step) ** -0.7, (True, True)),
        (fast, (False, True)),
        (optax.exponential_decay(0.1, 10, 0.9), (False, True)),
        (optax.cosine_decay_schedule(0.1, 100), (False, True)),
        (lambda step: 0.1 * (1.5 + jnp.sin(step / 7)), (True, False)),
        (lambda step: 0.1 / ((2.0 + step) * jnp.log(2.0 + step)), (None, True)),
    ):
        found = lrx.robbins_monro(function)
        assert (found.sum_diverges, found.squares_converge) == expected
        assert not found.exact
    assert lrx.robbins_monro(lambda step: 0.1 / ((2.0 + step) * jnp.log(2.0 + step))).satisfied is None
    np.testing.assert_allclose(fitted_powers(Schedule(fast)), (2, 4), rtol=1e-2)


def test_the_result_prints_and_draws_both_sums():
    found = lrx.robbins_monro(inverse(0.1, 1.0))
    assert repr(found) == (
        "RobbinsMonro(satisfied: the sum of the rates diverges, that of their squares converges, because "
        "inverse_time_decay falls as t^-1)"
    )
    left, right = found.plot(num_steps=1000).axes
    np.testing.assert_allclose(left.lines[0].get_ydata()[-1], 0.1 * sum(1 / n for n in range(1, 1001)), rtol=1e-5)
    np.testing.assert_allclose(right.lines[0].get_ydata()[-1], 0.01 * sum(1 / n**2 for n in range(1, 1001)), rtol=1e-5)
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["diverges", "converges"]
    with pytest.raises(ValueError, match=r"^num_steps must be a whole number of steps >= 2"):
        found.plot(num_steps=1)


def test_what_has_no_sum_is_refused():
    with pytest.raises(TypeError, match=r"^schedule must be a Schedule, got the feedback-driven"):
        lrx.robbins_monro(0.1 * lrx.reduce_on_plateau())
    with pytest.raises(ValueError, match=r"^schedule must have finite rates >= 0, got -0\.1"):
        lrx.robbins_monro(lambda step: -0.1 + 0.0 * step)
    with pytest.raises(TypeError, match=r"^schedule must have concrete arguments, got the traced"):
        jax.jit(lambda rate: lrx.robbins_monro(lrx.constant(rate)).satisfied)(0.1)
