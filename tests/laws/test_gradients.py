"""`jax.grad` through updates: finite where the mathematics is, and right, for every method that is differentiable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import COMPOSITIONS, CONTROLLED_COMPOSITIONS, CONTROLLERS, OPTIMIZERS

import lrx

CURVATURES = np.array([0.0, 1.0, 0.3, 2.0])  # the first coordinate never has a gradient
START = np.array([0.7, -1.0, 0.5, 1.2])
# Searches by a loop whose length depends on the loss; rollback jumps.
NOT_DIFFERENTIABLE = {lrx.armijo, lrx.rollback_on_divergence}
NARROW = "adam with a narrow moment"  # whose rounding no small difference sees through
METHODS = {
    label: case
    for label, case in {**OPTIMIZERS, **CONTROLLERS, **COMPOSITIONS, **CONTROLLED_COMPOSITIONS}.items()
    if case.make not in NOT_DIFFERENTIABLE and label != NARROW
}


def _final_loss(case, point):
    """Return the loss after three updates, from the two numbers of a point: a rate, if there is one, and a start."""
    rate, size = point
    curvatures = jnp.asarray(CURVATURES)
    tx = case(**({"learning_rate": rate.astype(jnp.float32)} if "learning_rate" in case.sweep else {}))

    def step(carry, _):
        theta, state = carry
        loss, gradient = jax.value_and_grad(lambda theta: 0.5 * jnp.sum(curvatures * theta**2))(theta)
        updates, state = tx.update(gradient, state, theta, value=loss)
        return (theta + updates, state), None

    theta = size * jnp.asarray(START)
    # A loop hands on the derivative of every leaf of the state, also of those that nothing depends on.
    (theta, _), _ = jax.lax.scan(step, (theta, tx.init(theta)), length=3)
    return 0.5 * jnp.sum(curvatures * theta**2) + theta[0]


# Each is a program of its own, with derivatives.
@pytest.mark.slow
@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_the_derivative_through_three_updates_is_the_difference_quotient(case):
    with jax.enable_x64(True):
        loss_and_slope = jax.jit(jax.value_and_grad(lambda point: _final_loss(case, point)))
        rate = 0.5 if case.make in (lrx.prodigy, lrx.d_adaptation, lrx.dog, lrx.dowg) else 0.1
        point, width = np.array([rate, 1.0]), 2.0**-10
        _, slope = loss_and_slope(jnp.asarray(point))
        assert bool(jnp.all(jnp.isfinite(slope))), slope
        for index in range(2):
            step = np.zeros(2)
            step[index] = width * point[index]
            # The rate is rounded to float32 on its way: the difference is of what arrives.
            ends = [np.float64(np.float32(point + sign * step)) for sign in (1, -1)]
            above, below = (float(loss_and_slope(jnp.asarray(end))[0]) for end in ends)
            quotient = (above - below) / (ends[0] - ends[1])[index]
            # Rates and statistics are float32, which the difference divides by its width.
            np.testing.assert_allclose(slope[index], quotient, rtol=5e-3, atol=2e-4)
