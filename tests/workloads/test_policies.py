"""The workloads of policies: that a loss is minus a reward, and that its gradient is that of the expected reward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.workloads.policies import make_balance_workload, make_bandit_workload


def _bandit(flipped: float = 0.0, explored: float = 0.2) -> tuple:
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(64, 3)).astype(np.float32), rng.integers(3, size=64).astype(np.int32)
    workload = make_bandit_workload(
        "bandit", (images, labels), (images, labels), explored=explored, flipped=flipped, batch_size=64
    )
    params = [{"kernel": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32), "bias": jnp.zeros(3)}]
    return workload, params, (jnp.asarray(images), jnp.asarray(labels))


def test_the_gradient_of_the_bandit_is_that_of_the_expected_reward() -> None:
    workload, params, batch = _bandit()
    keys = jax.random.split(jax.random.key(0), 2000)

    @jax.jit
    def mean_gradient(params: list) -> tuple:
        losses, gradients = jax.vmap(
            lambda key: jax.value_and_grad(lambda p: workload.loss_fn(p, (), batch, key)[0])(params)
        )(keys)
        return losses.mean(), jax.tree.map(lambda g: g.mean(axis=0), gradients)

    loss, gradient = mean_gradient(params)
    exact, expected = jax.value_and_grad(lambda p: -workload.evaluate(p, ())["reward"])(params)
    assert float(loss) == pytest.approx(float(exact), abs=0.01)
    # The baseline is the minibatch's own mean, so that the gradient is shorter by a factor 1 - 1 / 64.
    np.testing.assert_allclose(gradient[0]["kernel"], (1 - 1 / 64) * expected[0]["kernel"], atol=4e-3)
    assert float(jnp.abs(expected[0]["kernel"]).max()) > 0.015


def test_a_flipped_reward_is_one_minus_the_reward() -> None:
    for flipped in (0.0, 1.0):
        workload, _, (images, labels) = _bandit(flipped, explored=0.0)
        sure = [{"kernel": jnp.zeros((3, 3)), "bias": 50.0 * jax.nn.one_hot(0, 3)}]
        loss = workload.loss_fn(sure, (), (images, labels), jax.random.key(0))[0]
        share = float(jnp.mean(labels == 0))
        assert float(loss) == pytest.approx(-share if flipped == 0 else share - 1, abs=1e-5)


def test_a_policy_that_pushes_back_earns_more_than_one_that_does_nothing() -> None:
    workload = make_balance_workload(hidden=1, num_train=32, num_test=64)
    nothing = jax.tree.map(jnp.zeros_like, workload.init(jax.random.key(0))[0])
    # One unit sees the angle and the velocity, and the force is against both.
    push = [
        {"kernel": jnp.array([[0.0], [1.0], [0.5]]), "bias": jnp.zeros(1)},
        {"kernel": jnp.array([[-5.0]]), "bias": jnp.zeros(1)},
    ]
    idle, active = (float(workload.evaluate(params, ())["reward"]) for params in (nothing, push))
    assert idle < 0.3
    assert 0.5 < active <= 1.0
    states = workload.batches.arrays
    loss = workload.loss_fn(push, (), states, jax.random.key(0))[0]
    assert float(loss) == pytest.approx(-active, abs=0.15)
