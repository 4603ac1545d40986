"""The plateau rule: what it counts, when it reduces, and what it ignores."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from units import (
    NAN,
    Case,
    refuse,
    refuse_fractions,
    refuse_rates,
    refuse_steps,
    refuse_words,
)

import lrx


@functools.cache
def traced(mode):
    """Return one program for all arguments, since each of them may be traced."""

    def run(values, arguments):
        controller = lrx.reduce_on_plateau(mode=mode, **arguments)

        def body(state, value):
            _, state = controller.update((), state, value=value)
            return state, state.latest

        return jax.lax.scan(body, controller.init(None), values)[1]

    return jax.jit(run)


LENGTH = 40
DEFAULTS = {
    "factor": 0.5,
    "patience": 1,
    "rtol": 1e-4,
    "atol": 0.0,
    "cooldown": 0,
    "min_scale": 0.0,
    "accumulation_size": 1,
}


def scales(values, *, mode="min", **arguments):
    """Return the scale that each update used; streams are made equally long, so that they share a program."""
    padded = np.full(LENGTH, 0.0, np.float32)
    padded[: len(values)] = values
    numbers = {name: jnp.asarray(value) for name, value in {**DEFAULTS, **arguments}.items()}
    return traced(mode)(padded, numbers)[: len(values)].tolist()


def test_rate_halves_after_patience():
    # The first loss is the best; two that are tolerated, and the third is one too many.
    assert scales([1.0, 1.0, 1.0, 1.0, 1.0], patience=2) == [1, 1, 1, 0.5, 0.5]


def test_the_reduction_acts_on_the_update_that_brings_the_loss():
    tx = lrx.sgd(0.2 * lrx.reduce_on_plateau(factor=0.5, patience=0))
    state = tx.init(jnp.zeros(1))
    _, state = tx.update(jnp.ones(1), state, value=1.0)
    updates, state = tx.update(jnp.ones(1), state, value=1.0)
    np.testing.assert_allclose(updates, [-0.1])
    np.testing.assert_allclose(lrx.learning_rate(state), 0.1)


def test_improvement_resets_the_plateau():
    assert scales([1.0, 1.0, 0.5, 0.5, 0.5, 0.5], patience=1) == [1, 1, 1, 1, 0.5, 0.5]


def test_patience_zero_reduces_at_the_first_loss_without_improvement_only():
    assert scales([1.0, 0.9, 0.8, 0.8, 0.7, 0.7], patience=0) == [1, 1, 1, 0.5, 0.5, 0.25]


def test_constant_negative_loss_reduces():
    # (1 - rtol) v* would make the bar easier for losses below 0, and this would never end.
    assert scales([-1.0] * 5, patience=1) == [1, 1, 0.5, 0.5, 0.25]


def test_negative_losses_must_improve_as_much_as_positive_ones():
    assert scales([-1.0, -1.05, -1.09], patience=0, rtol=0.1) == [1, 0.5, 0.25]
    assert scales([-1.0, -1.15], patience=0, rtol=0.1) == [1, 1]
    assert scales([1.0, 0.95, 0.91], patience=0, rtol=0.1) == [1, 0.5, 0.25]
    assert scales([1.0, 0.85], patience=0, rtol=0.1) == [1, 1]


def test_absolute_improvement_is_in_the_losss_units():
    assert scales([1.0, 0.8], patience=0, rtol=0.0, atol=0.25) == [1, 0.5]
    assert scales([1.0, 0.7], patience=0, rtol=0.0, atol=0.25) == [1, 1]
    assert scales([0.0, -0.1], patience=0, rtol=0.5, atol=0.0) == [1, 1]


def test_an_improvement_smaller_than_the_tolerance_does_not_become_the_best():
    # A slow drift below the tolerance is compared with the best, not with the loss before: 0.85 passes 1.0 - 0.1.
    assert scales([1.0, 0.95, 0.92, 0.85], patience=2, rtol=0.1) == [1, 1, 1, 1]
    assert scales([1.0, 0.95, 0.92, 0.91], patience=2, rtol=0.1) == [1, 1, 1, 0.5]


def test_min_scale_is_a_floor_that_is_reached_and_never_lifts():
    assert scales([1.0] * 5, patience=0, min_scale=0.25) == [1, 0.5, 0.25, 0.25, 0.25]
    assert scales([1.0] * 4, patience=0, min_scale=0.375) == [1, 0.5, 0.375, 0.375]
    assert scales([1.0] * 4, patience=0, min_scale=1.0) == [1, 1, 1, 1]


def test_cooldown_counts_nothing_after_a_reduction():
    assert scales([1.0] * 9, patience=1, cooldown=2) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_an_improvement_during_cooldown_becomes_the_best():
    # 0.5 comes during the cooldown; 0.6 afterwards is no improvement on it.
    assert scales([1.0, 1.0, 0.5, 0.6, 0.6], patience=0, cooldown=2) == [1, 0.5, 0.5, 0.5, 0.25]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_ignored(bad):
    assert scales([bad, 1.0, bad, bad, bad, 1.0, bad, 1.0], patience=1) == [1, 1, 1, 1, 1, 1, 1, 0.5]
    # Nor does it enter an average.
    assert scales([1.0, bad, 1.0, 1.0, 1.0], patience=0, accumulation_size=2) == [1, 1, 1, 1, 0.5]


def test_averages_of_several_losses_are_compared():
    # Averages 1.0, 0.75, 0.75 and 0.5; losses within them go up and down.
    values = [1.5, 0.5, 0.5, 1.0, 1.25, 0.25, 0.75, 0.25]
    assert scales(values, patience=0, accumulation_size=2) == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5]


def test_narrow_losses_are_averaged_in_float32():
    # In bfloat16 the sum of 512 losses of 1.255 stops growing, and their mean would be about 1.
    controller = lrx.reduce_on_plateau(accumulation_size=512)
    value = jnp.asarray(1.255, jnp.bfloat16)
    params = jnp.zeros(1, jnp.bfloat16)

    def body(_, state):
        return controller.update(params, state, params, value=value)[1]

    state = jax.lax.fori_loop(0, 512, body, controller.init(params))
    (memory,) = state.memories
    assert memory.memory.progress.best_value.dtype == jnp.float32
    np.testing.assert_allclose(memory.memory.progress.best_value, float(value), rtol=1e-5)
    assert float(value) == 1.2578125  # the loss as the model gives it


def test_a_plateau_of_any_length_is_counted_without_overflow():
    longest = 2**31 - 1
    controller = lrx.reduce_on_plateau(patience=longest)
    _, state = controller.update((), controller.init(None), value=1.0)
    (memory,) = state.memories
    at_the_end = memory.memory._replace(plateau_count=jnp.asarray(longest, jnp.int32))
    _, state = controller.update((), state._replace(memories=(memory._replace(memory=at_the_end),)), value=1.0)
    assert state.memories[0].memory.plateau_count == longest
    assert state.latest == 1.0


def test_mode_max_waits_for_the_accuracy_to_rise():
    assert scales([0.5, 0.6, 0.7, 0.7, 0.7], patience=1, mode="max") == [1, 1, 1, 1, 0.5]
    assert scales([0.5, 0.4, 0.3], patience=1, mode="max") == [1, 1, 0.5]
    assert scales([-0.5, -0.4, -0.3], patience=0, mode="max") == [1, 1, 1]


def test_observations_are_consumed_once():
    controller = lrx.reduce_on_plateau(factor=0.5, patience=0, feedback="observed")
    state, seen = controller.init(None), []
    for observation in (1.0, None, None, 1.0, None, 0.5):
        if observation is not None:
            state = lrx.observe(state, value=observation)
        _, state = controller.update((), state)
        seen.append(float(state.latest))
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5]


def test_alone_in_a_chain_it_multiplies_and_applies_no_sign():
    controller = lrx.reduce_on_plateau(factor=0.5, patience=0)
    state = controller.init(jnp.ones(2))
    for expected in (4.0, 2.0, 1.0):
        updates, state = controller.update(jnp.full(2, 4.0), state, value=1.0)
        np.testing.assert_array_equal(updates, [expected] * 2)


def transcription(values, *, factor, patience, rtol, atol, cooldown, min_scale, accumulation_size, mode):
    """Apply the rule of the docstring, in float32 NumPy and with ordinary branches."""
    f32 = np.float32
    sign = 1 if mode == "min" else -1
    scale, best, bad, cooling, losses, used = f32(1), None, 0, 0, [], []
    for value in values:
        if np.isfinite(f32(value)):
            losses.append(f32(value))
        if len(losses) == accumulation_size:
            mean = functools.reduce(lambda a, b: f32(a + b), losses, f32(0)) / f32(len(losses))
            losses = []
            if best is None or sign * mean < sign * best - f32(f32(rtol) * abs(best) + f32(atol)):
                best, bad = mean, 0
            else:
                bad += 1
            if cooling:
                cooling -= 1
                bad = 0
            if bad > patience:
                scale = min(max(f32(scale * f32(factor)), f32(min_scale)), scale)
                bad, cooling = 0, cooldown
        used.append(scale)
    return used


# Quarters, so that no comparison hangs on a rounding.
losses = st.integers(-8, 8).map(lambda n: n / 4) | st.sampled_from([float("nan"), float("inf")])


@given(
    st.lists(losses, min_size=LENGTH, max_size=LENGTH),
    st.fixed_dictionaries(
        {
            "factor": st.sampled_from([0.1, 0.5, 0.9]),
            "patience": st.integers(0, 4),
            "rtol": st.sampled_from([0.0, 1e-4, 0.125]),
            "atol": st.sampled_from([0.0, 0.125]),
            "cooldown": st.integers(0, 3),
            "min_scale": st.sampled_from([0.0, 0.3, 1.0]),
            "accumulation_size": st.sampled_from([1, 2, 4]),
        }
    ),
    st.sampled_from(["min", "max"]),
)
def test_plateau_follows_its_rule_on_any_stream(values, arguments, mode):
    expected = transcription(values, mode=mode, **arguments)
    # Equal to the bit, but for what is too small to be a normal float32, which XLA rounds to 0.
    np.testing.assert_allclose(scales(values, mode=mode, **arguments), expected, rtol=0, atol=1e-37)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "reduce_on_plateau": Case(
        lrx.reduce_on_plateau,
        {"factor": 0.5, "patience": 1, "accumulation_size": 1},
        {
            "factor": (0.1, 0.3, 0.9),
            "patience": (0, 1, 3),
            "rtol": (0.0, 0.1, 0.9),
            "atol": (0.0, 0.1, 0.6),
            "cooldown": (0, 1, 3),
            "min_scale": (0.0, 0.4, 1.0),
            "accumulation_size": (1, 2, 3),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
    ),
    "reduce_on_plateau, by noise": Case(
        lrx.reduce_on_plateau, {"factor": 0.5, "patience": 0}, {"rtol": (0.0, 0.1, 0.9)}, needs_value=True
    ),
    "reduce_on_plateau, observed": Case(
        lrx.reduce_on_plateau,
        {"factor": 0.5, "patience": 0, "feedback": "observed"},
        {"factor": (0.1, 0.3, 0.9)},
    ),
}


REFUSED = [
    *refuse_fractions(lrx.reduce_on_plateau, "factor", "(0, 1)", (0.0, -0.5, 1.0)),
    *refuse_steps(lrx.reduce_on_plateau, "patience", at_least=0),
    *refuse_fractions(lrx.reduce_on_plateau, "rtol", "[0, 1)", (-0.1, 1.0)),
    *refuse_rates(lrx.reduce_on_plateau, "atol"),
    *refuse_steps(lrx.reduce_on_plateau, "cooldown", at_least=0),
    *refuse_fractions(lrx.reduce_on_plateau, "min_scale", "[0, 1]", (-0.1, 2.0)),
    *refuse(
        lrx.reduce_on_plateau,
        "accumulation_size",
        (0, -5, 2.5, NAN),
        ValueError,
        "must be a whole number of losses >= 1",
    ),
    *refuse(lrx.reduce_on_plateau, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"),
    *refuse_words(lrx.reduce_on_plateau, "mode"),
    *refuse_words(lrx.reduce_on_plateau, "feedback"),
]


DESCENDS = {
    "reduce_on_plateau": lambda: lrx.sgd(0.03 * lrx.reduce_on_plateau(patience=50)),
}


REFERENCE = {
    "reduce_on_plateau": "test_plateau_follows_its_rule_on_any_stream",
}
