"""Perceptrons with dropout, and regression with an L2 term."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from small_images import grey_dataset, loss_of

from lrx.workloads.perceptron import make_perceptron_workload


def test_dropout_drops_half_of_the_units_and_doubles_the_others():
    workload = make_perceptron_workload(grey_dataset(number=4096), (1,), dropped=0.5)
    layers = [
        {"kernel": jnp.zeros((784, 1)), "bias": jnp.ones(1)},
        {"kernel": jnp.eye(1, 10), "bias": jnp.zeros(10)},
    ]
    kept, dropped = np.log(1 + 9 * np.exp(-2.0)), np.log(10.0)
    assert loss_of(workload, layers) == pytest.approx((kept + dropped) / 2, rel=0.03)
    assert loss_of(workload, layers, key=1) != loss_of(workload, layers)
    alone = make_perceptron_workload(grey_dataset(number=4096), (1,))
    assert loss_of(alone, layers) == pytest.approx(np.log(1 + 9 * np.exp(-1.0)), rel=1e-6)


def test_regression_adds_half_of_the_weights_squared():
    workload = make_perceptron_workload(grey_dataset(), l2=1e-4)
    params = [{"kernel": jnp.full((784, 10), 2.0), "bias": jnp.zeros(10)}]
    assert loss_of(workload, params) == pytest.approx(np.log(10) + 1e-4 / 2 * 4 * 7840, rel=1e-5)


def test_pixels_are_of_0_to_1():
    workload = make_perceptron_workload(grey_dataset(255), l2=1e-4)
    params = [{"kernel": jnp.zeros((784, 10)).at[:, 0].set(1 / 784), "bias": jnp.zeros(10)}]
    penalty = 1e-4 / 2 / 784
    assert loss_of(workload, params) == pytest.approx(np.log(1 + 9 * np.exp(-1.0)) + penalty, rel=1e-5)
