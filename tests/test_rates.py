"""The algebra of rates, sentence by sentence: an update is a direction times a rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rate_examples import GRADS, PARAMS, cosine, halving, leaves_equal, plateau, run

import lrx
from lrx.arguments import as_rate, as_schedule
from lrx.rates import Rate, Schedule

# --- one idea --------------------------------------------------------------------------------------------------------


def test_update_is_direction_times_rate_with_the_sign_of_descent() -> None:
    direction_of, closed = optax.scale_by_adam(), optax.chain(optax.scale_by_adam(), cosine())
    state, closed_state = direction_of.init(PARAMS), closed.init(PARAMS)
    for count in range(4):
        direction, state = direction_of.update(GRADS, state)
        updates, closed_state = closed.update(GRADS, closed_state)
        expected = jax.tree.map(lambda d, count=count: -cosine()(count) * d, direction)
        leaves_equal(updates, expected, rtol=1e-6)


def test_the_sample_of_the_design_runs() -> None:
    params, grads, loss, val_loss = PARAMS, GRADS, 1.0, 0.9
    schedule = lrx.warmup(lrx.cosine_decay(3e-3, decay_steps=10_000), warmup_steps=500)
    rate = schedule * lrx.reduce_on_plateau(patience=5, feedback="observed")
    tx = lrx.adam(rate)
    tx = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(1e-4), rate)
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params, value=loss)
    shown = lrx.learning_rate(state)
    assert shown.shape == ()
    assert shown.dtype == jnp.float32
    np.testing.assert_allclose(shown, 3e-3 * 2 / 500, rtol=1e-6)
    state = lrx.scale_learning_rate(state, 0.5)
    state = lrx.observe(state, value=val_loss)
    _, state = tx.update(grads, state, params, value=loss)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.5 * 3e-3 * 3 / 500, rtol=1e-6)
    assert float(lrx.monitor(state)["reduce_on_plateau/best_value"]) == np.float32(val_loss)


def test_a_rate_is_two_pure_functions_and_a_transformation() -> None:
    rate = cosine() * plateau()
    assert isinstance(rate, Rate)
    assert isinstance(rate, optax.GradientTransformationExtraArgs)
    assert optax.with_extra_args_support(rate) is rate
    start = rate.init_rate(PARAMS)
    once = rate.next_rate(start, params=PARAMS, value=1.0)
    again = rate.next_rate(start, params=PARAMS, value=1.0)
    leaves_equal(once, again)
    leaves_equal(start, rate.init_rate(PARAMS))
    first, after = once
    assert first.shape == ()
    assert first.dtype == jnp.float32
    assert int(after.count) == 1
    assert float(after.learning_rate) == float(first)


def test_nothing_is_hidden_outside_the_state() -> None:
    tx = lrx.sgd(cosine() * plateau())
    first, second = tx.init(PARAMS), tx.init(PARAMS)
    for _ in range(3):
        _, first = tx.update(GRADS, first, PARAMS, value=1.0)
    leaves_equal(second, tx.init(PARAMS))
    _, second = tx.update(GRADS, second, PARAMS, value=1.0)
    assert float(lrx.learning_rate(second)) == pytest.approx(0.1)
    assert float(lrx.learning_rate(first)) == pytest.approx(0.1 * 0.25 * (1 + np.cos(np.pi * 2 / 20)) / 2)


@pytest.mark.parametrize(
    "make", [lrx.sgd, lrx.adam, lrx.heavy_ball, lrx.nesterov, lambda r: optax.chain(optax.scale_by_rms(), as_rate(r))]
)
def test_any_optimizer_takes_a_float_or_a_rate_and_keeps_one_state_tree(make: Callable[[Any], Any]) -> None:
    states = [make(rate).init(PARAMS) for rate in (0.1, np.float32(0.1), lrx.constant(0.1), cosine(), halving)]
    assert len({jax.tree.structure(state) for state in states}) == 1
    for state in states[:4]:
        assert float(lrx.learning_rate(state)) == np.float32(0.1)


def test_heavy_ball_and_nesterov_have_the_controlled_rate_inside_the_velocity() -> None:
    losses = [1.0] * 6
    alphas = [0.1 * 0.5**t for t in range(6)]  # patience 0: every repeated loss halves
    beta, gradient = 0.9, np.float64(2.0)
    velocity, ball, ahead = 0.0, [], []
    for alpha in alphas:
        before, velocity = velocity, beta * velocity + alpha * gradient
        ball.append(-velocity)
        ahead.append(beta * before - (1 + beta) * velocity)
    for make, expected in ((lrx.heavy_ball, ball), (lrx.nesterov, ahead)):
        updates, rates = run(make(0.1 * plateau()), losses)
        np.testing.assert_allclose(rates, alphas, rtol=1e-6)
        np.testing.assert_allclose([u["b"] for u in updates], expected, rtol=1e-5)


@pytest.mark.parametrize("make", [lrx.heavy_ball, lrx.nesterov])
def test_scaling_the_finished_update_of_a_velocity_method_misses_by_far(make: Callable[..., Any]) -> None:
    # When the rate drops by 1000 the velocity carries on; scaled afterwards the parameters stop dead, 299 times (with
    # Nesterov's correction) and 474 times too early.
    drop = plateau(factor=1e-3)
    inside, _ = run(make(0.1 * drop), [1.0, 1.0])
    afterwards, _ = run(optax.chain(make(0.1), drop), [1.0, 1.0])
    leaves_equal(inside[0], afterwards[0], rtol=1e-6)
    assert float(inside[1]["b"] / afterwards[1]["b"]) > 290
    assert "Nothing may scale the updates afterwards" in (make.__doc__ or "")


# --- what is taken for a learning rate -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, True, "0.1", 1j, [0.1], (0.1,), {}, optax.sgd(0.1), Schedule, object()])
def test_what_is_no_learning_rate_is_refused(bad: Any) -> None:
    for make in (lrx.sgd, lrx.adam, lrx.heavy_ball, lrx.nesterov):
        with pytest.raises(TypeError, match=r"learning_rate must be a number, a Rate or a function of the step, got"):
            make(bad)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), np.float32(-1), jnp.asarray(-0.1)])
def test_a_negative_learning_rate_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be a finite number >= 0, got learning_rate="):
        lrx.sgd(bad)
    with pytest.raises(ValueError, match=r"value must be a finite number >= 0, got value="):
        lrx.constant(bad)


@pytest.mark.parametrize("bad", [np.complex64(1), jnp.array(True), np.array("a")])
def test_numbers_of_the_wrong_kind_are_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"learning_rate must be a (real )?number, got learning_rate="):
        lrx.sgd(bad)


def test_a_controller_alone_is_no_learning_rate_and_the_error_says_what_is() -> None:
    with pytest.raises(TypeError, match=r"learning_rate must be a rate, got the factor .*write 1e-3 \* reduce_on"):
        lrx.adam(lrx.reduce_on_plateau())
    rate = cosine() * plateau()
    assert as_rate(rate) is rate
    with pytest.raises(TypeError, match=r"schedule must be a Schedule, got .*multiply afterwards"):
        as_schedule(rate, name="schedule")
    with pytest.raises(TypeError, match="must be a Schedule"):
        lrx.warmup(rate, 5)
    with pytest.raises(TypeError, match=r"schedules\[1\] must be a Schedule"):
        lrx.join([0.1, rate], [5])


@pytest.mark.parametrize("make", [optax.adamw, optax.sgd, optax.scale_by_learning_rate])
def test_a_rate_with_feedback_in_an_optax_optimizer_names_the_way_out(make: Callable[..., Any]) -> None:
    for factor in (cosine() * plateau(), plateau()):
        with pytest.raises(TypeError, match=r"learning_rate must be a number .* follows feedback.*optax.chain"):
            make(factor)
