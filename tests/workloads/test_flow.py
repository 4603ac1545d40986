"""The normalizing flow: that its loss is a likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.flow import make_flow_workload, two_moons


def test_the_density_of_the_flow_integrates_to_one() -> None:
    workload = make_flow_workload(couplings=3, hidden=4, num_train=64, num_test=8)
    params = jax.tree.map(lambda x: 3 * x, workload.init(jax.random.key(1))[0])
    side = jnp.linspace(-12.0, 12.0, 241)
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 1, 2)
    losses = jax.vmap(lambda point: workload.loss_fn(params, (), point, jax.random.key(0))[0])(grid)
    assert float(jnp.exp(-losses).sum() * 0.1**2) == pytest.approx(1.0, abs=0.01)


def test_moons_are_two_half_circles_about_the_origin() -> None:
    points = two_moons(2000, np.random.default_rng(0), noise=0.0)
    centres = np.array([[-0.5, -0.25], [0.5, 0.25]])
    radii = np.linalg.norm(points[:, None] - centres, axis=-1)
    np.testing.assert_allclose(np.abs(radii - 1).min(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.1)
    np.testing.assert_array_equal(points, two_moons(2000, np.random.default_rng(0), noise=0.0))
