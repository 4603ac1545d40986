"""Trajectories on functions of few variables."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.papers.descent import descend, log_spaced


def test_trajectories_are_those_of_a_plain_loop() -> None:
    key = jax.random.key(3)

    def gradient(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(x**2), 2 * x + 0.1 * jax.random.normal(key, x.shape)

    tx = lrx.nesterov(0.1, momentum=0.8)
    counts = np.array([0, 1, 2, 7])
    found = descend(gradient, tx, jnp.ones(2), counts, lambda x: x, key)
    params, state, expected = jnp.ones(2), tx.init(jnp.ones(2)), []
    for count in range(8):
        if count in counts:
            expected.append(lrx.eval_params(state, params))
        updates, state = tx.update(gradient(params, jax.random.fold_in(key, count))[1], state, params)
        params = params + updates
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-5)


def test_log_spaced_counts_increase_from_one_to_the_last() -> None:
    counts = log_spaced(10**5, 60)
    assert counts[0] == 1
    assert counts[-1] == 10**5
    assert np.all(np.diff(counts) > 0)
