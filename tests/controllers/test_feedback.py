"""What the controllers do with a stream of losses: each method's own promise, and every kind of fault."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
import lrx.workloads.datasets

NAN, INF = float("nan"), float("inf")
CONTROLLERS = {
    "reduce_on_plateau": lambda: lrx.reduce_on_plateau(min_scale=1e-3),
    "greedy": lrx.greedy,
    "pid": lrx.pid,
    "relative_adaptation": lrx.relative_adaptation,
    "early_stopping": lambda: lrx.early_stopping(patience=2**30),
}


@functools.cache
def follower(name: str) -> Any:
    controller = CONTROLLERS[name]()

    def run(values: jax.Array) -> tuple[Any, jax.Array]:
        def body(state: Any, value: jax.Array) -> tuple[Any, jax.Array]:
            _, state = controller.update((), state, value=value)
            return state, state.latest

        return jax.lax.scan(body, controller.init(None), values)

    return jax.jit(run)


def factors(name: str, values: Any) -> np.ndarray:
    return np.asarray(follower(name)(jnp.asarray(values, jnp.float32))[1])


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("stream", ["nan", "inf", "minus inf", "constant", "zero", "step", "huge"])
def test_no_stream_of_losses_breaks_a_controller(name: str, stream: str) -> None:
    values = np.linspace(2.0, 1.0, 200)
    values[50:60] = {"nan": NAN, "inf": INF, "minus inf": -INF}.get(stream, values[50])
    values = {"constant": np.ones(200), "zero": np.zeros(200), "huge": values * 1e38}.get(stream, values)
    if stream == "step":
        values[100:] *= 100
    state, seen = follower(name)(jnp.asarray(values, jnp.float32))
    assert np.all(np.isfinite(seen) & (np.asarray(seen) >= 0))
    report = lrx.monitor(state)
    assert any(key.startswith(f"{name}/") for key in report)
    assert all(np.isfinite(value) for value in report.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_million_steps_of_noise_leave_every_statistic_in_place(name: str) -> None:
    values = 1.0 + 0.1 * np.random.default_rng(0).standard_normal(1_000_000)
    state, seen = follower(name)(jnp.asarray(values, jnp.float32))
    assert np.all(np.isfinite(seen) & (np.asarray(seen) >= 0))
    for node in jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "weighted_sum")):
        if hasattr(node, "weighted_sum"):
            assert 0.99 < float(node.weight) <= 1.0001
            assert -0.2 < float(node.weighted_sum) < 1.5


def test_greedy_raises_the_rate_while_the_loss_improves_and_lowers_it_while_it_stalls() -> None:
    controller = lrx.greedy(factor=0.5, patience=1, smoothing=0.0, max_factor=4.0, min_factor=0.25)
    state, scales = controller.init(None), []
    for value in (8.0, 7.0, 6.0, 5.0, 4.0, 3.0, *[3.0] * 12):
        _, state = controller.update((), state, value=value)
        scales.append(float(state.latest))
    assert scales[:6] == [1, 2, 2, 4, 4, 4]
    assert scales[6:] == [4, 2, 2, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]


def test_pid_without_gains_is_the_identity() -> None:
    controller = lrx.pid(kp=0.0, ki=0.0, kd=0.0)
    state = controller.init(None)
    for value in (1.0, 0.5, 3.0, NAN, 2.0):
        updates, state = controller.update(jnp.ones(2), state, value=value)
        np.testing.assert_array_equal(updates, np.ones(2))


def test_pid_settles_again_when_the_curvature_jumps_tenfold() -> None:
    tx = lrx.sgd(
        0.1 * lrx.pid(kp=0.05, ki=0.1, kd=0.0, set_point=0.5, smoothing=0.0, min_factor=1e-3, max_factor=100.0)
    )
    theta, state, rates = jnp.ones(2) * 1e6, tx.init(jnp.ones(2)), []
    update = jax.jit(tx.update)
    for step in range(240):
        curvature = 1.0 if step < 120 else 10.0
        if step == 120:  # far from underflow again
            theta = theta / jnp.abs(theta) * 1e6
        updates, state = update(curvature * theta, state, value=0.5 * curvature * jnp.sum(theta**2))
        theta = theta + updates
        rates.append(float(lrx.learning_rate(state)))
    before, after = rates[100:120], rates[220:]
    assert max(before) < 1.05 * min(before)
    assert max(after) < 1.05 * min(after)
    np.testing.assert_allclose(np.median(after), np.median(before) / 10, rtol=0.05)


def test_pid_does_not_wind_up_at_a_bound() -> None:
    controller = lrx.pid(kp=1.0, ki=0.1, kd=0.0, set_point=0.5, max_factor=10.0)
    state = controller.init(None)
    for _ in range(200):
        _, state = controller.update((), state, value=1.0)  # an error of 0.5 for ever
    report = lrx.monitor(state)
    np.testing.assert_allclose(report["pid/scale"], 10.0, rtol=0.05)
    # The integral stops where it and the proportional part reach the bound, up to one step of it.
    assert abs(float(report["pid/integral"]) - (np.log(10.0) - 0.5)) <= 0.05 + 1e-6


def test_pid_follows_an_error_of_the_users_own() -> None:
    controller = lrx.pid(kp=1.0, ki=0.0, kd=0.0, error=lambda loss: 1.0 - loss)
    _, state = controller.update((), controller.init(None), value=0.5)
    np.testing.assert_allclose(state.latest, np.exp(0.5), rtol=1e-6)


def test_early_stopping_sets_the_rate_to_zero_and_says_so() -> None:
    tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, mode="max"))
    state, seen = tx.init(jnp.ones(2)), []
    for accuracy in (0.5, 0.6, 0.6, 0.55, 0.9):
        updates, state = tx.update(jnp.ones(2), state, value=accuracy)
        seen.append((bool(lrx.stopped(state)), float(lrx.learning_rate(state)) > 0))
    assert seen == [(False, True)] * 3 + [(True, False)] * 2
    assert not np.any(updates)
    report = lrx.monitor(state)
    assert report["early_stopping/best_value"] == np.float32(0.6)  # what comes after the end is no improvement


def test_warmup_until_starts_the_clock_of_its_schedule_at_the_trigger() -> None:
    rate = lrx.warmup_until(lrx.linear_decay(0.4, 4), warmup_value=0.01, threshold=0.8, metric="error")
    tx = lrx.sgd(rate)
    state, rates = tx.init(jnp.ones(2)), []
    for error in (0.9, NAN, 0.8, 0.79, 0.95, 0.5):
        _, state = tx.update(jnp.ones(2), state, error=error)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01, 0.4, 0.3, 0.2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"warmup_until needs the error: pass it as tx.update\(.*error=error\)"):
        tx.update(jnp.ones(2), state)


def test_warmup_until_counts_on_between_observations() -> None:
    rate = lrx.warmup_until(lrx.linear_decay(0.4, 4), warmup_value=0.01, threshold=0.8, feedback="observed")
    tx = lrx.sgd(rate)
    state, rates = tx.init(jnp.ones(2)), []
    for value in (None, 0.7, None, None):
        state = state if value is None else lrx.observe(state, value=value)
        _, state = tx.update(jnp.ones(2), state)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.01, 0.4, 0.3, 0.2], rtol=1e-6)


def test_relative_adaptation_searches_creeps_cuts_and_rests() -> None:
    controller = lrx.relative_adaptation(smoothing=0.0)
    state, scales = controller.init(None), []
    for value in [1.0] * 23 + [0.5] * 5 + [2.0] * 4:
        _, state = controller.update((), state, value=value)
        scales.append(float(state.latest))
    searched = [1.0] * 20 + [1.2, 1.2**2, 1.2**3]
    crept = [1.2 ** (3 + 0.005 * step) for step in range(1, 6)]
    np.testing.assert_allclose(scales, searched + crept + [0.3 * crept[-1]] * 4, rtol=1e-5)


def test_relative_adaptation_forgets_one_loss_far_out() -> None:
    controller = lrx.relative_adaptation()
    state = controller.init(None)
    for value in [1.0] * 20 + [1e6] + [1.0] * 10:
        _, state = controller.update((), state, value=value)
    mean = state.memories[0].memory.mean
    assert float(mean.weighted_sum / mean.weight) < 1.1


def test_relative_adaptation_needs_no_rate_to_start_from() -> None:
    """Starting rates of 1e-6 to 1 end within two points of accuracy, on the digits with plain gradient descent."""
    digits = lrx.workloads.datasets.load("digits")
    x, test_x = (jnp.asarray(images.reshape(len(images), -1), jnp.float32) / 255 for images in digits[1:4:2])
    y, test_y = jnp.asarray(digits.train_labels), jnp.asarray(digits.test_labels)

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["w"] + params["b"][None]) @ params["v"]

    def loss_of(params: Any, chosen: jax.Array) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(logits(params, x[chosen]))[jnp.arange(64), y[chosen]])

    def accuracy(rate: jax.Array) -> jax.Array:
        tx = lrx.sgd(rate * lrx.relative_adaptation())
        first, second = jax.random.split(jax.random.key(0))
        w, v = jax.random.normal(first, (64, 64)) / 6, jax.random.normal(second, (64, 10)) / 8
        params = {"w": w, "b": jnp.zeros(64), "v": v}

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            chosen = jax.random.randint(key, (64,), 0, len(x))
            value, grads = jax.value_and_grad(loss_of)(params, chosen)
            updates, state = tx.update(grads, state, params, value=value)
            return (lrx.apply_updates(params, updates, state), state), None

        keys = jax.random.split(jax.random.key(1), 1500)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return jnp.mean(logits(params, test_x).argmax(-1) == test_y)

    reached = jax.jit(jax.vmap(accuracy))(10.0 ** jnp.arange(-6.0, 1.0))
    assert float(jnp.max(reached) - jnp.min(reached)) <= 0.02, reached
    assert float(jnp.min(reached)) > 0.94, reached
