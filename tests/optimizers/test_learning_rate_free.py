"""The learning-rate-free methods beyond their rule: where a step is refused, scaled, or spoilt in one coordinate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx

NAN, INF = float("nan"), float("inf")


def test_polyak_starts_again_after_a_rate_of_zero() -> None:
    tx = lrx.polyak(max_rate=0.8, f_min=1.0, growth=1.5)
    state, rates = tx.init(jnp.ones(1)), []
    for value in (1.1, 0.9, 9.0, 9.0):
        _, state = tx.update(jnp.ones(1), state, value=value)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.2, 0.0, 0.8, 0.8], rtol=1e-5)


def test_polyak_lets_the_rate_grow_by_no_more_than_its_factor() -> None:
    tx = lrx.polyak(max_rate=0.8, growth=1.5)
    state, rates = tx.init(jnp.ones(1)), []
    for value in (0.1, 9.0, 9.0, 9.0, 9.0):
        _, state = tx.update(jnp.ones(1), state, value=value)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.2, 0.3, 0.45, 0.675, 0.8], rtol=1e-5)


def searched(value_fn: Callable[[jax.Array], Any], **arguments: Any) -> tuple[float, Any]:
    """The rate and the report of one search from 1 along a gradient of 1, where the loss is 1."""
    tx = lrx.armijo(backtrack=0.5, **arguments)
    one = jnp.ones([])
    updates, state = tx.update(one, tx.init(one), one, value=1.0, value_fn=value_fn)
    np.testing.assert_array_equal(updates, -lrx.learning_rate(state))
    return float(lrx.learning_rate(state)), lrx.monitor(state)


def test_armijo_makes_no_step_where_none_decreases_the_loss() -> None:
    rate, report = searched(lambda theta: theta * 0 + 2.0, max_evaluations=7)
    assert rate == 0.0
    assert report["armijo/evaluations"] == 7
    assert not report["armijo/accepted"]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_armijo_refuses_a_loss_that_is_not_finite(bad: float) -> None:
    rate, report = searched(lambda theta: jnp.where(theta < 0.7, bad, theta - 0.1))
    assert rate == 0.25
    assert report["armijo/evaluations"] == 3


def test_armijo_starts_where_growth_leads_from_the_rate_before() -> None:
    tx, params = lrx.armijo(backtrack=0.5, growth=1.5), jnp.ones([])
    state, rates = tx.init(params), []
    for most in (0.25, 9.0, 9.0, 9.0, 9.0, 9.0):  # the largest rate that decreases the loss
        _, state = tx.update(params, state, params, value=1.0, value_fn=lambda theta, m=most: 2.0 * (1 - theta > m))
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.25, 0.375, 0.5625, 0.84375, 1.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize("make", [lrx.hypergradient_sgd, lrx.hypergradient_adam])
def test_a_rate_scaled_by_hand_scales_what_a_hypergradient_has_learned(make: Callable[..., Any]) -> None:
    tx, gradient = make(1e-3, hyper_rate=0.1), jnp.ones(2)
    state = tx.init(gradient)
    for _ in range(3):
        _, state = tx.update(gradient, state)
    _, plain = tx.update(gradient, state)
    _, halved = tx.update(gradient, lrx.scale_learning_rate(state, 0.5))
    assert float(lrx.learning_rate(plain)) > 0.1
    np.testing.assert_allclose(lrx.learning_rate(halved), lrx.learning_rate(plain) / 2, rtol=1e-5)
    _, stopped = tx.update(gradient, lrx.scale_learning_rate(state, 0.0))
    assert lrx.learning_rate(stopped) == 0


@pytest.mark.parametrize("make", [lrx.dog, lrx.dowg, lrx.prodigy, lrx.d_adaptation])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_others_go_on_as_if_a_spoilt_coordinate_were_not_there(make: Callable[..., Any], bad: float) -> None:
    tx = make()
    alone, together = jnp.ones(2), jnp.asarray([1.0, 1.0, 0.0])
    state, spoilt = tx.init(alone), tx.init(together)
    for _ in range(5):
        expected, state = tx.update(alone, state, alone)
        updates, spoilt = tx.update(jnp.append(alone, bad), spoilt, together)
        np.testing.assert_allclose(updates[:2], expected, rtol=1e-6)
        alone, together = alone + expected, together + updates
    assert bool(jnp.all(expected != 0))


MEMORIES = {
    "prodigy": "first_moment",
    "d_adaptation": "first_moment",
    "momo": "mean_gradient",
    "momo_adam": "mean_gradient",
}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_first_moment_in_bfloat16_gives_nearly_the_same_run_and_half_the_bytes(name: str) -> None:
    params = {"real": jnp.linspace(1.0, 2.0, 8), "plane": jnp.ones(2, jnp.complex64)}

    def loss_of(params: Any) -> jax.Array:
        return sum(jnp.sum(scale * jnp.abs(leaf) ** 2) for scale, leaf in zip((1.0, 0.3), params.values(), strict=True))

    def run(**options: Any) -> tuple[Any, jax.Array]:
        tx = getattr(lrx, name)(0.1 if name == "momo_adam" else 1.0, **options)

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            loss, gradients = jax.value_and_grad(loss_of)(params)
            gradients = jax.tree.map(jnp.conj, gradients)
            updates, state = tx.update(gradients, state, params, value=loss)
            return (jax.tree.map(jnp.add, params, updates), state), loss

        (_, state), losses = jax.lax.scan(step, (params, tx.init(params)), length=60)
        return getattr(state, MEMORIES[name]), losses

    (memory, losses), (wide, expected) = jax.jit(lambda: run(moment_dtype="bfloat16"))(), jax.jit(run)()
    assert (memory["real"].dtype, memory["plane"].dtype) == (jnp.bfloat16, jnp.complex64)
    assert (wide["real"].dtype, wide["plane"].dtype) == (jnp.float32, jnp.complex64)
    np.testing.assert_allclose(losses, expected, rtol=0.02, atol=0.01 * float(expected[0]))
    assert bool(jnp.any(losses != expected))
