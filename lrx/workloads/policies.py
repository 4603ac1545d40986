"""Policies that are trained for a reward: one that is told only what its choice has earned, and one on a simulator."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples


def make_bandit_workload(
    name: str,
    train: Examples,
    test: Examples,
    *,
    explored: float = 0.2,
    flipped: float = 0.1,
    batch_size: int = 64,
) -> Workload:
    """Build a contextual bandit: the policy sees an image, a class is chosen, and it earns 1 if it is the right one.

    Classes are drawn with probabilities q, of the policy's own p mixed with a uniform part, and rewards r are flipped
    with a small probability. The loss is -mean(p / q (r - b)) - b, b being the mean reward of the minibatch: it
    estimates -reward of the policy, and its gradient that of the expected reward.

    Args:
      name: name of the workload.
      train: images, (n, pixels) float32, and their labels.
      test: those that `evaluate` measures: "reward" is the mean probability of the right choice.
      explored: weight of the uniform part, in [0, 1].
      flipped: probability with which 0 and 1 are exchanged, in [0, 1].
      batch_size: choices in a minibatch.

    Source: L. Bottou et al., "Counterfactual reasoning and learning systems", JMLR 14, 2013, section 4; the baseline is
      that of R. Williams, Machine Learning 8, 1992.
    """
    num_classes = int(train[1].max()) + 1
    policy = perceptron((train[0].shape[1], num_classes))

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        images, labels = batch
        p = jax.nn.softmax(policy.apply(params, images))
        q = jax.lax.stop_gradient((1 - explored) * p + explored / num_classes)
        choosing, flipping = jax.random.split(key)
        choices = jax.random.categorical(choosing, jnp.log(q))
        is_flipped = jax.random.uniform(flipping, labels.shape) < flipped
        rewards = jnp.where(is_flipped, choices != labels, choices == labels).astype(jnp.float32)
        weights = jnp.take_along_axis(p / q, choices[:, None], axis=1)[:, 0]
        baseline = rewards.mean()
        return -jnp.mean(weights * (rewards - baseline)) - baseline

    def measure(params: Any, held_out: Any) -> dict[str, jax.Array]:
        images, labels = held_out
        probabilities = jax.nn.softmax(policy.apply(params, images))
        return {"reward": jnp.take_along_axis(probabilities, labels[:, None], axis=1).mean()}

    batches = Batches(train, batch_size)
    return Workload.from_functions(loss_fn, policy.init, batches, name=name, evaluate=Evaluation(measure, test))


def make_balance_workload(
    *,
    hidden: int = 16,
    horizon: int = 30,
    num_train: int = 1000,
    num_test: int = 500,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build a policy that holds a pendulum upright, trained through the simulator.

    The angle x from the top follows x'' = 4 sin x + 3 u + noise, in steps of 0.1; the force u in (-1, 1) is the tanh of
    a network of (cos x, sin x, v). The reward is the mean over the steps of cos x - 0.01 v^2 - 0.1 u^2, at most 1; the
    loss is -reward.

    Args:
      hidden: units of the hidden layer, of tanh.
      horizon: steps of a run of the simulator.
      num_train: number of initial states, with angles of -0.8 to 0.8 and velocities of -1 to 1.
      num_test: number of other initial states, from which `evaluate` measures "reward", without noise.
      batch_size: initial states in a minibatch.
      seed: seed of the initial states.
    """
    policy = perceptron((3, hidden, 1), jnp.tanh, scalar=True)
    states = np.random.default_rng(seed).uniform([-0.8, -1.0], [0.8, 1.0], size=(num_train + num_test, 2))
    states = states.astype(np.float32)
    step = 0.1

    def mean_reward(params: Any, states: jax.Array, noise: jax.Array) -> jax.Array:
        def advance(state: tuple[jax.Array, jax.Array], push: jax.Array) -> tuple[Any, jax.Array]:
            angle, velocity = state
            seen = jnp.stack([jnp.cos(angle), jnp.sin(angle), velocity], axis=1)
            force = jnp.tanh(policy.apply(params, seen))
            velocity = velocity + step * (4 * jnp.sin(angle) + 3 * force) + push
            angle = angle + step * velocity
            return (angle, velocity), jnp.mean(jnp.cos(angle) - 0.01 * velocity**2 - 0.1 * force**2)

        return jax.lax.scan(advance, (states[:, 0], states[:, 1]), noise)[1].mean()

    def loss_fn(params: Any, states: jax.Array, key: jax.Array) -> jax.Array:
        return -mean_reward(params, states, 0.1 * jax.random.normal(key, (horizon, batch_size)))

    def measure(params: Any, states: jax.Array) -> dict[str, jax.Array]:
        return {"reward": mean_reward(params, states, jnp.zeros((horizon, len(states))))}

    return Workload.from_functions(
        loss_fn,
        policy.init,
        Batches(states[:num_train], batch_size),
        name="balance",
        evaluate=Evaluation(measure, states[num_train:]),
    )
