"""Where a range test is over: at the step after which the loss is too high, and not at an outlier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.bowl import bowl, laddered, noisy

import lrx

BAD = 1e-3  # the first rate that `step_counted` does harm with


@pytest.mark.parametrize(("tx", "limit"), [(lrx.sgd, 0.2), (lambda rate: lrx.sgd(rate, momentum=0.9), 0.38)])
def test_it_diverges_where_theory_says(tx: Any, limit: float) -> None:
    found = laddered(tx=tx, num_steps=400)
    assert found.diverged_at is not None
    assert limit / 2 < found.diverged_at < 3 * limit


def test_nothing_is_computed_after_divergence() -> None:
    calls = []

    def counted(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return bowl(params, batch, key)

    found = laddered(loss_fn=counted)
    jax.effects_barrier()
    made = int(np.isfinite(found.losses).sum())
    assert made < 90
    assert len(calls) == 2 * made  # each loss beside that of the initial parameters
    assert np.isnan(found.losses[made:]).all()
    assert np.isnan(found.smoothed[made:]).all()
    known = found.losses[:made]
    high = known > 3
    first = int(np.flatnonzero(~high)[-1]) + 1
    assert made - first >= 2, "the example is one where two losses are too high"
    assert found.diverged_at == found.rates[first - 1]


def test_a_transformation_that_recovers_does_not_hide_where_it_diverges() -> None:
    steep = lambda params, batch, key: jnp.exp(bowl(params, batch, key))  # noqa: E731 - not finite after a step too far
    alone, guarded = (
        laddered(tx=tx, loss_fn=steep, num_steps=60)
        for tx in (lrx.sgd, lambda rate: lrx.rollback_on_divergence(lrx.sgd(rate), explode=1e30))
    )
    assert alone.diverged_at is not None
    assert guarded.diverged_at == pytest.approx(alone.diverged_at)
    np.testing.assert_allclose(guarded.losses, alone.losses, rtol=1e-5)


def step_counted(rate: Any) -> optax.GradientTransformation:
    """Count the steps down in params[0], and put the rate into params[1] once it is above BAD."""

    def update(updates: Any, state: Any, params: Any) -> Any:
        del updates
        return jnp.array([-1.0, jnp.where((rate >= BAD) & (params[1] == 0), rate, 0.0)]), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize("blown_up", [100.0, np.inf])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("validated", [False, True])
def test_it_diverged_at_the_rate_of_the_step_after_which_the_loss_is_too_high(
    blown_up: float, last: bool, validated: bool
) -> None:
    found = laddered(
        loss_fn=lambda params, batch, key: jnp.where(params[1] > 0, blown_up, 1.0 + 0.005 * params[0]),
        init_fn=lambda key: jnp.zeros(2),
        batches=np.zeros((50, 1), np.float32),
        tx=step_counted,
        min_rate=1e-6,
        # A last rate whose loss is one of three at the end tells nothing: it may be an outlier.
        max_rate=1.2e-3 if last and validated else 1.4e-3 if last else 1.0,
        num_steps=50,
        validation_batch=np.zeros(1, np.float32) if validated else None,
    )
    assert found.diverged_at == found.rates[found.rates >= BAD][0]
    assert found.suggestions["divergence"] == found.diverged_at / 10


def low_or_high(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
    """The batch has the loss of a run that was harmed, and that of one before its first step."""
    return jnp.where(params[1] > 0, batch[0], batch[1] + 0.2 * params[0])


def nothing(key: jax.Array) -> jax.Array:
    return jnp.zeros(2)


@pytest.mark.parametrize(("offset", "validated"), [(-10.0, False), (-3.0, True), (0.0, False), (5.0, True)])
@pytest.mark.parametrize("high", [12.0, 19.0, 19.4, 19.7, 40.0])
def test_losses_below_zero_diverge_where_they_do(offset: float, validated: bool, high: float) -> None:
    batch = np.array([high, offset], np.float32)
    found = laddered(
        loss_fn=low_or_high,
        init_fn=nothing,
        batches=np.tile(batch, (48, 1)),
        tx=step_counted,
        min_rate=1e-6,
        max_rate=2e-3,
        num_steps=48,
        validation_batch=batch if validated else None,
    )
    assert found.diverged_at in (None, found.rates[found.rates >= BAD][0])


def test_a_seed_whose_first_loss_is_not_finite_leaves_the_others_be() -> None:
    def loss_fn(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
        return bowl(params[:3], batch, key) + jnp.where(params[3] > 0, jnp.nan, 0.0)

    def init_fn(key: jax.Array) -> jax.Array:
        bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(jax.random.split(jax.random.key(1))[0]))
        return jnp.append(jnp.ones(3), jnp.where(bad, 1.0, 0.0))

    found = laddered(loss_fn=loss_fn, init_fn=init_fn, seeds=3)
    assert np.isfinite(found.losses_by_seed[:, 0]).tolist() == [True, False, True]
    assert found.suggestions["minimum"] == pytest.approx(laddered().suggestions["minimum"], rel=0.5)
    alone = laddered().diverged_at
    assert alone is not None
    assert found.diverged_at == pytest.approx(alone, rel=0.5)


@pytest.mark.parametrize("places", [[3, 30], [0, 30]])
def test_a_spike_does_not_end_it(places: list[int]) -> None:
    batches = noisy(100)
    batches[:, :3] *= 0.3  # or the noise of minibatches is a tenth of the fall, from which the valley is counted
    quiet = laddered(batches=batches)
    batches[places, 3] = 1e4, -1e4
    spiky = laddered(batches=batches)
    assert spiky.diverged_at == quiet.diverged_at
    for rule, rate in quiet.suggestions.items():
        assert spiky.suggestions[rule] == pytest.approx(rate, rel=0.3), rule


def test_a_loss_that_is_never_finite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the loss is not finite at the first rate, 1e-07"):
        laddered(batches=noisy(offset=np.nan))


def test_a_negative_loss_is_followed_all_the_same() -> None:
    shifted = laddered(batches=noisy(offset=-100.0))
    assert shifted.diverged_at is not None
    assert 0.2 < shifted.diverged_at < 3.0
    assert shifted.suggestions["steepest"] is not None
