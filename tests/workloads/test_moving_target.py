"""The moving target is the one of its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.moving_target import moving_target


@pytest.mark.slow
def test_the_target_jumps_every_100_steps_and_gradients_shrink_half_way() -> None:
    size, theta, seed = 1000, jnp.full(10, 2.0), jnp.int32(3)

    @jax.jit
    def means(count: jax.Array, shrinks: jax.Array) -> jax.Array:
        gradient, _ = moving_target(size, seed, shrinks)
        keys = jax.random.split(jax.random.key(0), 4000)
        return jnp.mean(jax.vmap(lambda key: gradient(theta, key, count)[1])(keys), axis=0)

    def mean(count: int, shrinks: bool) -> np.ndarray:
        return np.asarray(means(count, shrinks))

    _, error = moving_target(size, seed)
    targets = {count: 2.0 - mean(count, False) for count in (0, 99, 100, 499, 500)}
    np.testing.assert_allclose(targets[0], targets[99], atol=1e-6)
    assert np.abs(targets[100] - targets[99]).min() > 0.01
    np.testing.assert_allclose(mean(499, True), mean(499, False), rtol=1e-6)
    np.testing.assert_allclose(mean(500, True), 0.01 * mean(500, False), rtol=1e-5)
    assert float(error(theta, jnp.int32(500))) == pytest.approx(np.mean((2.0 - targets[500]) ** 2), rel=0.05)
