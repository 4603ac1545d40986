"""The learning-rate-free methods beyond their rule: a step that is refused, scaled, or not finite in one coordinate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import first_tier_has

import lrx

NAN, INF = float("nan"), float("inf")


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


@pytest.mark.parametrize("name", first_tier_has(["prodigy"], MEMORIES))
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
