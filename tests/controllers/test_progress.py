"""When losses count as improving: means by noise, the decisions of PyTorch, and the size of means early and late in a
run."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import first_tier_has

import lrx

SEEDS = 8


@functools.cache
def _follower(name: str, by_itself: bool, **arguments: Any) -> Any:
    controller = getattr(lrx, name)(**({"accumulation_size": 1} if by_itself else {}), **arguments)

    def run(values: jax.Array) -> jax.Array:
        def body(state: Any, value: jax.Array) -> Any:
            _, state = controller.update((), state, value=value)
            return state, (state.latest, lrx.monitor(state)[f"{name}/accumulation_size"])

        return jax.lax.scan(body, controller.init(None), values)[1]

    return jax.jit(jax.vmap(run))


def factors(values: Any, name: str = "reduce_on_plateau", *, by_itself: bool = False, **arguments: Any) -> np.ndarray:
    """Return the factor of each update, for each row of losses; each loss comes with its update."""
    return np.asarray(_follower(name, by_itself, **arguments)(jnp.asarray(values, jnp.float32))[0])


def noisy(curve: np.ndarray, deviation: float) -> np.ndarray:
    """Return a curve with relative noise, for several seeds."""
    return curve * (1 + deviation * np.random.default_rng(0).standard_normal((SEEDS, len(curve))))


STEPS = np.arange(3000.0)
HEALTHY = {
    "exponential": (0.02 + 2.3 * np.exp(-STEPS / 1000), 0.2),
    "power law": (11.0 * (STEPS + 10) ** -0.1, 0.03),
    "slow, with much noise": (2.3 * np.exp(-STEPS / 6000), 0.3),
    "to zero, noise and all": (2.3 * (STEPS + 10) ** -0.9, 1.0),
    "negative": (-5.0 - STEPS / 1000, 0.02),
    "a small part of a large loss": (100.0 + 2.0 * np.exp(-STEPS / 1000), 0.005),
}


@pytest.mark.parametrize("name", ["reduce_on_plateau", "early_stopping"])
@pytest.mark.parametrize("kind", first_tier_has(["exponential", "negative"], HEALTHY))
def test_a_healthy_run_of_noisy_minibatches_is_left_alone(kind: str, name: str) -> None:
    values = noisy(*HEALTHY[kind])
    assert np.all(factors(values, name) == 1)
    # Compared one by one, the losses of the same run look like one plateau after another.
    assert np.all(factors(values, name, by_itself=True)[:, -1] < 1e-20)


@pytest.mark.parametrize("begins", first_tier_has([400], [0, 400]))
@pytest.mark.parametrize("deviation", [0.01, 0.3])
def test_a_plateau_under_noise_is_found(begins: int, deviation: float) -> None:
    seen = factors(noisy(1 + np.maximum(1 - STEPS / max(begins, 1), 0), deviation))
    first = np.argmax(seen < 1, axis=1)
    assert np.all(seen[:, -1] < 1)
    assert np.all(first >= begins + 1100)
    assert np.median(first) <= begins + 1600


def test_losses_without_noise_are_compared_one_by_one() -> None:
    rises = np.concatenate(
        [2.0 * 0.9 ** np.arange(30), np.full(30, 0.09), np.linspace(0.09, 0.3, 30), np.full(20, 0.3)]
    )
    curves = np.stack([rises, rises - 3.0, np.full(110, 1.0), np.zeros(110), np.linspace(1.0, 9.0, 110)])
    # What rounding does to the mean over a batch is not noise.
    curves[3] = 1 + 1e-7 * np.random.default_rng(0).standard_normal(110)
    for name in ("reduce_on_plateau", "early_stopping"):
        np.testing.assert_array_equal(factors(curves, name), factors(curves, name, by_itself=True))
    assert np.all(factors(curves)[:, -1] < 1)


def pytorch(values: np.ndarray, *, factor: float, patience: int, threshold: float = 1e-4) -> list[float]:
    """Apply `torch.optim.lr_scheduler.ReduceLROnPlateau`, as it is written there, to positive losses."""
    scale, best, bad, scales = 1.0, np.inf, 0, []
    for value in values:
        if value < best * (1 - threshold):
            best, bad = value, 0
        else:
            bad += 1
        if bad > patience:
            scale, bad = scale * factor, 0
        scales.append(scale)
    return scales


@pytest.mark.parametrize("updates", [2, 7])
def test_fed_once_an_epoch_the_decisions_are_those_of_pytorch(updates: int) -> None:
    controller = lrx.reduce_on_plateau(factor=0.5, patience=4, feedback="observed")

    def run(values: jax.Array) -> jax.Array:
        def epoch(state: Any, value: jax.Array) -> Any:
            state = lrx.observe(state, value=value)
            for _ in range(updates):
                _, state = controller.update((), state)
            return state, state.latest

        return jax.lax.scan(epoch, controller.init(None), values)[1]

    run = jax.jit(jax.vmap(run))
    epochs = np.arange(150)
    for deviation in (0.0, 0.001, 0.02, 0.2):  # the noise of validation losses is left to the patience, as there
        curve = np.float32(noisy(0.3 + 2 * np.exp(-epochs / 10.0), deviation))
        expected = [pytorch(values, factor=0.5, patience=4) for values in curve]
        np.testing.assert_allclose(run(jnp.asarray(curve)), expected, rtol=1e-6)
        assert np.all(np.asarray(expected)[:, -1] < 1)


def test_steps_of_an_epoch_to_a_mean_make_patience_count_epochs() -> None:
    values = noisy(np.repeat(0.3 + 2 * np.exp(-np.arange(60) / 10.0), 20), 0.1)
    means = values.reshape(SEEDS, 60, 20).mean(axis=2)
    seen = _follower("reduce_on_plateau", False, accumulation_size=20, factor=0.5, patience=4)(
        jnp.asarray(values, jnp.float32)
    )[0]
    expected = [pytorch(row, factor=0.5, patience=4) for row in means]
    np.testing.assert_allclose(seen[:, 19::20], expected, rtol=1e-6)


def test_a_best_that_was_luck_is_replaced_by_the_mean_of_more() -> None:
    controller = lrx.reduce_on_plateau()
    rng = np.random.default_rng(0)
    values = jnp.asarray(2.3 * (1 + 0.1 * rng.standard_normal(600)), jnp.float32).at[2].set(1.6)

    def body(state: Any, value: jax.Array) -> Any:
        _, state = controller.update((), state, value=value)
        return state, lrx.monitor(state)["reduce_on_plateau/best_value"]

    best = jax.lax.scan(body, controller.init(None), values)[1]
    assert float(best[2]) == np.float32(1.6)
    assert 2.2 < float(best[-1]) < 2.35


def test_a_run_that_diverges_does_not_take_its_bad_end_for_the_best() -> None:
    fall = noisy(np.maximum(2.0 * 0.95 ** np.arange(90.0), 0.2), 0.1)
    values = np.concatenate([fall, np.full((SEEDS, 400), 50.0)], axis=1)
    controller = lrx.early_stopping()

    def run(values: jax.Array) -> jax.Array:
        state = jax.lax.scan(
            lambda state, value: (controller.update((), state, value=value)[1], None), controller.init(None), values
        )[0]
        return lrx.monitor(state)["early_stopping/best_value"]

    assert np.all(jax.vmap(run)(jnp.asarray(values, jnp.float32)) < 0.5)


def test_an_older_run_is_given_a_fiftieth_of_its_length_for_a_mean() -> None:
    values = noisy(np.ones(20_001), 0.1)[:1]
    sizes = np.asarray(_follower("reduce_on_plateau", False)(jnp.asarray(values, jnp.float32))[1])[0]
    assert sizes[[3, 9]].tolist() == [2, 5]
    assert sizes[[300, 10_000, 20_000]].tolist() == [100, 200, 400]


def transcription(values: np.ndarray, *, factor: float, patience: int, rtol: float) -> list[float]:
    """Apply the rule of the docstrings, in float64 and with ordinary branches."""

    def change(before: float, after: float) -> float:
        return (after - before) / max(abs(before), abs(after))

    scale, best, size, bad, losses, scales, needed, bar, variance = 1.0, np.inf, 0, 0, [], [], 1, np.inf, 0.0
    changes, products = [], []
    for count, value in enumerate(values, 1):
        losses.append(value)
        if len(losses) >= needed:
            mean = np.mean(losses)
            more = size > 0 and len(losses) // 2 >= size
            if mean < bar or (more and change(best, mean) ** 2 * size <= 9 * variance):
                best, size, bad = mean, len(losses), 0
            else:
                bad += 1
            if bad > patience:
                scale, bad = scale * factor, 0
            losses = []
        if count > 1:
            changes.append(change(values[count - 2], value))
        if count > 2:
            products.append(max(-changes[-1] * changes[-2], 0.0))
            weights = 0.98 ** np.arange(len(products))[::-1]
            variance = np.sum(weights * products) / np.sum(weights) / 1.219
        most = max(min(max(count // 2, 1), 100), count // 50)
        wanted = np.ceil(variance / rtol**2)
        needed = int(min(max(wanted, 1), most))
        bar = best - abs(best) * max(rtol, np.sqrt(variance / needed) if wanted > needed else 0.0)
        scales.append(scale)
    return scales


@pytest.mark.parametrize("rtol", [0.1, 0.01])
def test_means_by_noise_follow_their_rule(rtol: float) -> None:
    curve = np.concatenate([2 * 0.98 ** np.arange(100.0), np.full(900, 0.26)])
    values = np.float32(np.concatenate([noisy(curve, deviation) for deviation in (0.02, 0.3)]))
    seen = factors(values, factor=0.5, patience=2, rtol=rtol)
    expected = [transcription(np.float64(row), factor=0.5, patience=2, rtol=rtol) for row in values]
    np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-37)
    assert np.all(seen[:, -1] < 1)


@pytest.mark.parametrize("kind", first_tier_has(["exponential", "negative"], HEALTHY))
def test_greedy_and_pid_do_not_take_the_noise_of_a_healthy_run_for_a_stall(kind: str) -> None:
    values = jnp.asarray(noisy(*HEALTHY[kind]), jnp.float32)
    for controller, least in ((lrx.greedy(), 0.6), (lrx.pid(), 0.1)):

        def run(values: jax.Array, controller: Any = controller) -> jax.Array:
            def body(state: Any, value: jax.Array) -> Any:
                _, state = controller.update((), state, value=value)
                return state, state.latest

            return jax.lax.scan(body, controller.init(None), values)[1]

        last = jax.jit(jax.vmap(run))(values)[:, -1]
        assert bool(jnp.all(last > least)), last


def test_a_loss_that_swings_is_no_noise_and_greedy_takes_its_rate_back() -> None:
    def valley(x: jax.Array) -> jax.Array:
        return jnp.sum((1 - x[::2]) ** 2) + 5 * jnp.sum((x[1::2] - x[::2] ** 2) ** 2)

    tx, start = lrx.sgd(0.01 * lrx.greedy()), jnp.zeros(4)

    def step(carry: Any, _: None) -> Any:
        x, state = carry
        loss, gradient = jax.value_and_grad(valley)(x)
        updates, state = tx.update(gradient, state, x, value=loss)
        return (x + updates, state), (loss, lrx.learning_rate(state))

    losses, rates = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=600)[1])()
    assert float(jnp.max(losses[300:])) > 1  # the rate was raised to where the valley's walls throw the iterate out
    assert float(rates[-1]) < 0.5 * float(jnp.max(rates))
    assert float(losses[-1]) < 1e-3


def test_noise_is_hardly_ever_taken_for_a_swing() -> None:
    values = noisy(np.ones(20_000), 0.1)
    sizes = np.asarray(_follower("greedy", False)(jnp.asarray(values, jnp.float32))[1])
    assert np.mean(sizes[:, 300:] < 20) < 0.002
