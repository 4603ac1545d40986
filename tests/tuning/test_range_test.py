"""The range test: exact at its ends, the losses of a training run, and no rule fooled by noise or a flat curve."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.bowl import BATCHES, bowl, laddered, ones
from tuning.line import NOISY_LINE

import lrx
from lrx.training import Batches, Workload, train


@pytest.mark.parametrize("ladder", ["exponential", "linear"])
def test_the_ladder_hits_both_ends(ladder: str) -> None:
    rates = laddered(min_rate=1e-5, max_rate=3.0, num_steps=37, ladder=ladder).rates
    assert rates.shape == (37,)
    assert rates[0] == np.float32(1e-5)
    assert rates[-1] == np.float32(3.0)
    steps = np.diff(rates) if ladder == "linear" else np.diff(np.log(rates))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_the_doubling_ladder_doubles_until_it_diverges() -> None:
    found = laddered(min_rate=1e-3, max_rate=10.0, num_steps=140, ladder="doubling")
    assert set(np.round(found.rates[1:] / found.rates[:-1], 5)) == {1.0, 2.0}
    assert len(np.unique(found.rates)) == 14  # 1e-3 * 2^13 = 8.2
    assert found.diverged_at in (np.float32(0.256), np.float32(0.512))
    assert found.suggestions["divergence"] == found.diverged_at / 10


def test_the_callers_parameters_stay_as_they_are() -> None:
    params = {"w": jnp.arange(3.0)}
    before = np.asarray(params["w"]).copy()
    laddered(loss_fn=lambda p, b, k: bowl(p["w"], b, k), init_fn=lambda key: params, tx=lrx.adam)
    np.testing.assert_array_equal(params["w"], before)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_loss_that_stays_gives_no_suggestion(offset: float) -> None:
    constant = jnp.log(2.0) + offset
    found = laddered(loss_fn=lambda p, b, k: constant + 0.0 * jnp.sum(p))
    np.testing.assert_allclose(found.smoothed, constant, rtol=1e-6)  # biased at neither end
    assert found.diverged_at is None
    assert set(found.suggestions.values()) == {None}
    message = r"^no rate from 1e-07 to \S+ changed the loss: give more num_steps"
    with pytest.raises(ValueError, match=message):
        _ = found.suggestion


def noise_alone(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.sum(batch) + 0.0 * jnp.sum(params)


@pytest.mark.parametrize("seed", range(8))
def test_noise_alone_gives_no_suggestion(seed: int) -> None:
    batches = np.random.default_rng(seed).normal(2.0, 0.5, size=(400, 1)).astype(np.float32)
    found = laddered(loss_fn=noise_alone, batches=batches)
    assert set(found.suggestions.values()) == {None}
    with pytest.raises(ValueError, match="changed the loss"):
        _ = found.suggestion


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_flat_range_goes_on_upwards_until_something_is_learnt(noise: float) -> None:
    batches = noise * np.random.default_rng(0).normal(size=(300, 1)).astype(np.float32)
    arguments = {"batches": batches, "min_rate": 1e-6, "max_rate": 10.0}

    def small(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(batch) + 1e-6 * jnp.sum((params - 300.0) ** 2)

    short = laddered(loss_fn=small, extend=False, **arguments)
    assert short.rates[-1] == 10
    found = laddered(loss_fn=small, **arguments)
    np.testing.assert_array_equal(found.rates[:100], short.rates)
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e7) / 99, rtol=1e-3)
    assert found.rates[-1] <= 1.001e5
    np.testing.assert_array_equal(found.losses[:100], short.losses)
    assert np.nanmin(found.losses) < 0.5 * found.losses[0]
    assert found.suggestion > 10


def product(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
    """Least squares through a product of factors: flat where they are small, and steep where the product fits."""
    return jnp.mean((jnp.prod(params) * batch - 3.0 * batch) ** 2)


@pytest.mark.parametrize(("tx", "learns"), [(lrx.sgd, False), (lrx.adam, True)])
def test_a_long_flat_beginning_is_said_where_no_rate_gets_over_it(tx: Any, learns: bool) -> None:
    batches = 1 + 0.1 * np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    found = laddered(loss_fn=product, init_fn=lambda key: jnp.full(6, 0.1), batches=batches, tx=tx, min_rate=1e-6)
    if learns:
        assert found.suggestion > 1e-3
        return
    with pytest.raises(ValueError, match=r"made the loss fall before it diverged at 9"):
        _ = found.suggestion
    assert set(found.suggestions.values()) == {None}


@pytest.mark.parametrize("ladder", ["exponential", "linear", "doubling"])
def test_a_longer_ladder_goes_on_in_its_own_steps_and_only_so_far(ladder: str) -> None:
    arguments = {"min_rate": 1e-3, "max_rate": 1.0, "num_steps": 40}
    flat = laddered(loss_fn=lambda p, b, k: 1.0 + 0.0 * jnp.sum(p), ladder=ladder, **arguments).rates
    assert len(flat) <= 80
    assert flat[-1] <= 1.001e4
    assert flat[-1] > 1.9
    steps = np.log(flat) if ladder == "exponential" else flat if ladder == "linear" else np.log2(flat)
    differences = np.unique(np.round(np.diff(steps), 3))
    np.testing.assert_array_equal(differences, [0.0, 1.0] if ladder == "doubling" else differences[:1])


def test_a_loss_that_rises_at_every_rate_gives_no_suggestion() -> None:
    def misled(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
        there = jax.lax.stop_gradient(params)
        return bowl(2 * there - params, batch, key)  # the value at `params`, and its gradient with the other sign

    found = laddered(loss_fn=misled)
    assert set(found.suggestions.values()) == {None}
    assert len(found.rates) == 100
    with pytest.raises(ValueError, match="made the loss fall before it diverged at"):
        _ = found.suggestion
    short = laddered(loss_fn=misled, max_rate=1e-2, divergence_factor=1e6)
    assert len(short.rates) == 100
    with pytest.raises(ValueError, match="made the loss fall, and higher ones made it rise"):
        _ = short.suggestion


@pytest.mark.parametrize(
    "tx",
    [
        lambda rate: lrx.accumulate(lrx.sgd(rate), 4),
        lambda rate: optax.chain(optax.clip(1.0), lrx.accumulate(lrx.sgd(rate), 4)),
        lambda rate: optax.MultiSteps(optax.sgd(rate), 4).gradient_transformation(),
        lambda rate: optax.chain(optax.apply_every(4), lrx.sgd(rate)),
    ],
)
def test_an_optimizer_that_gathers_gradients_is_told_how_to_be_tested(tx: Any) -> None:
    with pytest.raises(ValueError, match=r"tx must not accumulate gradients.*and accumulate=4 for rounds of four"):
        laddered(tx=tx)


@pytest.mark.slow
def test_the_losses_are_those_of_a_training_run() -> None:
    found = lrx.range_test(NOISY_LINE, lrx.adam, max_rate=0.01, num_steps=40, seeds=[3])
    history = train(NOISY_LINE, lrx.adam(lrx.tabulated(found.rates)), steps=40, seed=3)
    np.testing.assert_allclose(found.losses, history.loss, rtol=1e-4)


@pytest.mark.parametrize(
    "tx", [lambda r: optax.adam(r), lambda r: lrx.schedule_free_sgd(r), lambda r: lrx.heavy_ball(r)]
)
def test_any_chain_can_be_tested(tx: Any) -> None:
    found = laddered(tx=tx, num_steps=200)
    assert found.suggestions["steepest"] is not None


@pytest.mark.slow
def test_seeds_run_side_by_side() -> None:
    found = lrx.range_test(NOISY_LINE, lrx.sgd, num_steps=30, seeds=3, extend=False)
    assert found.losses_by_seed.shape == (3, 30)
    for seed in range(3):
        alone = lrx.range_test(NOISY_LINE, lrx.sgd, num_steps=30, seeds=[seed], extend=False)
        known = np.isfinite(alone.losses)
        np.testing.assert_allclose(found.losses_by_seed[seed][known], alone.losses[known], rtol=1e-3)
    middle = np.median(found.losses_by_seed[:, :10], axis=0)
    np.testing.assert_allclose(found.losses[:10], middle, rtol=1e-6)


def test_accumulation_makes_one_step_of_several_batches() -> None:
    batches = np.arange(12, dtype=np.float32).reshape(12, 1)
    found = laddered(
        loss_fn=lambda p, b, k: jnp.sum(p * b),
        batches=batches,
        accumulate=2,
        num_steps=6,
        max_rate=1e-1,
        divergence_factor=1e3,
    )
    pairs = batches.reshape(6, 2).mean(axis=1)
    position, expected = 1.0, []
    for rate, mean in zip(found.rates, pairs, strict=True):
        expected.append(3 * position * mean)
        position -= rate * mean
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)


def test_the_validation_loss_is_looked_at_in_place_of_the_training_loss() -> None:
    found = laddered(validation_batch=jnp.array([0.0, 0.0, 0.0, 7.0]), num_steps=50)
    assert found.losses[0] == pytest.approx(7 + 7.5, rel=1e-4)
    assert np.nanmin(found.losses) > 7


def test_batch_statistics_are_carried_along() -> None:
    def loss_fn(params: jax.Array, seen: jax.Array, batch: jax.Array, key: jax.Array) -> Any:
        return bowl(params, batch, key) + 0 * seen, seen + 1

    batches = Batches.stack(BATCHES)
    workload = Workload.from_functions(loss_fn, lambda key: (ones(key), jnp.zeros([])), batches, has_state=True)
    found = lrx.range_test(workload, lrx.sgd)
    np.testing.assert_allclose(found.losses, laddered().losses, rtol=1e-6)


def test_the_picture_shows_losses_and_suggestions() -> None:
    found = laddered(seeds=3)
    axes = found.plot().axes[0]
    assert axes.get_xscale() == "log"
    (band,) = axes.collections  # from the lowest to the highest loss of a seed
    corners = {tuple(corner) for corner in np.float32(band.get_paths()[0].vertices)}
    first = found.losses_by_seed[:, 0]
    assert {(found.rates[0], first.min()), (found.rates[0], first.max())} <= corners
    assert not dataclasses.replace(found, losses_by_seed=found.losses_by_seed[:1]).plot().axes[0].collections
    labels = [text.get_label() for text in axes.get_lines()]
    assert sum(":" in str(label) for label in labels) == 6  # five rules, and where it diverged
    assert found.plot(title="bowl: sgd").axes[0].get_title("left") == "bowl: sgd"
    assert len(repr(found)) < 200
    assert "diverged at" in repr(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, "num_steps must be a whole number of steps >= 6"),
        ({"min_rate": 0.0}, "min_rate must be a finite number > 0, got min_rate=0.0: the ladder"),
        ({"min_rate": 2.0, "max_rate": 1.0}, "max_rate must be above min_rate, got max_rate=1.0, min_rate=2.0"),
        ({"ladder": "log"}, "ladder must be one of 'exponential', 'linear', 'doubling', got ladder='log'"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got smoothing=1.0"),
        ({"divergence_factor": 1.0}, "divergence_factor must be a finite number > 1"),
        ({"accumulate": 0}, "accumulate must be a whole number of minibatches >= 1"),
        ({"seeds": 0}, "seeds must be a whole number of runs >= 1"),
        ({"seeds": [1.5]}, "seeds must be a number of runs, or a list of whole numbers >= 0, got seeds="),
    ],
)
def test_bad_numbers_are_refused_before_anything_runs(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        laddered(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tx": lrx.sgd(0.1)}, "tx must be a function of a rate, got tx="),
        ({"tx": lambda rate: rate}, "tx must be a gradient transformation"),
        ({"progress": 1}, "progress must be True, False, None or a title, got progress=1"),
    ],
)
def test_what_is_of_another_kind_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        laddered(**arguments)
