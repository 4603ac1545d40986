"""The workloads of differential equations: that the exact solutions solve them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.differential import make_oscillator_workload, make_pendulum_workload


def test_the_evaluated_solution_solves_the_equation_of_the_oscillator() -> None:
    workload = make_oscillator_workload(amplitude=0.5, frequency=2.0, damping=0.25, num_points=3001)
    t, u = (np.asarray(a, np.float64) for a in workload.evaluate.function.arrays)
    slope = np.gradient(u, t)
    residual = np.gradient(slope, t) + 2 * 0.25 * slope + 2.0**2 * u
    assert np.median(np.abs(residual)) < 2e-2 * 2.0**2 * np.abs(u).max()
    assert u[0] == pytest.approx(0.5)
    assert slope[0] == pytest.approx(0.0, abs=5e-3)


@pytest.mark.slow
def test_the_residual_is_that_of_the_network_and_in_units_of_the_amplitude() -> None:
    losses = []
    for amplitude in (1.0, 0.01):
        workload = make_oscillator_workload(amplitude=amplitude, hidden=4, num_points=7)
        params = workload.init(jax.random.key(0))[0]
        losses.append(float(workload.loss_fn(params, (), workload.batches.arrays, jax.random.key(0))[0]))
    assert losses[1] == pytest.approx(1e-4 * losses[0], rel=1e-4)

    def u(t: jax.Array) -> jax.Array:
        first, second, last = params
        x = jnp.tanh((t - 1.5) * first["kernel"][0] + first["bias"])
        return (jnp.tanh(x @ second["kernel"] + second["bias"]) @ last["kernel"])[0] + last["bias"][0]

    t = jnp.linspace(0.0, 3.0, 7)
    values, slopes, bends = (jax.vmap(f)(t) for f in (u, jax.grad(u), jax.grad(jax.grad(u))))
    expected = jnp.mean(((bends + 0.6 * slopes) / 9 + values) ** 2) + (values[0] - 1) ** 2 + (slopes[0] / 3) ** 2
    assert losses[0] == pytest.approx(float(expected), rel=1e-4)


def test_trajectories_of_the_pendulum_lose_energy_and_end_near_its_own_motion() -> None:
    workload = make_pendulum_workload(num_train=64, num_test=32)
    paths = np.asarray(workload.batches.arrays, np.float64)
    assert paths.shape == (64, 9, 2)
    energy = paths[..., 1] ** 2 / 2 - 4 * np.cos(paths[..., 0])
    assert np.mean(energy[:, -1]) < np.mean(energy[:, 0])
    # The loss of the right equation, by the same midpoint rule, is that of the noise and of the rule's error.
    again = make_pendulum_workload(num_train=64, num_test=32)
    np.testing.assert_array_equal(again.batches.arrays, workload.batches.arrays)
    still = jax.tree.map(jnp.zeros_like, workload.init(jax.random.key(0))[0])
    expected = 0.5 * np.mean((paths[:, :1] - paths[:, 1:]) ** 2)
    found = workload.loss_fn(still, (), workload.batches.arrays, jax.random.key(0))[0]
    assert float(found) == pytest.approx(expected, rel=1e-4)
