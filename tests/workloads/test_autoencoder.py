"""The loss of the variational autoencoder, computed by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_images import grey_dataset, loss_of

from lrx.workloads.autoencoder import make_autoencoder_workload


def test_loss_of_the_autoencoder_is_the_negative_bound():
    workload = make_autoencoder_workload(grey_dataset(255), 8, 3)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(workload.init, jax.random.key(0))[0])
    assert loss_of(workload, params) == pytest.approx(784 * np.log(2), rel=1e-5)
    params["encoder"][1]["bias"] = jnp.concatenate([jnp.full(3, 0.5), jnp.full(3, np.log(2.0))])
    divergence = 3 * (0.25 + 2 - 1 - np.log(2)) / 2
    assert loss_of(workload, params) == pytest.approx(784 * np.log(2) + divergence, rel=1e-5)
    params["decoder"][1]["bias"] = jnp.full(784, 1.5)
    missed = 784 * np.log(1 + np.exp(-1.5))
    assert loss_of(workload, params) == pytest.approx(missed + divergence, rel=1e-5)
    # The code is random where something depends on it.
    params["decoder"][0]["kernel"] = jnp.ones((3, 8))
    params["decoder"][1]["kernel"] = jnp.ones((8, 784))
    assert loss_of(workload, params) != loss_of(workload, params, key=1)
