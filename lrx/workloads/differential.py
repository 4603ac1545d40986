"""Networks and differential equations: one that solves an equation, and one that learns the equation of a motion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training import Batches, Evaluation, Workload
from lrx.workloads.dense import perceptron

STEP = 0.2  # of time, between two states of the pendulum


def make_oscillator_workload(
    *,
    amplitude: float = 0.01,
    frequency: float = 3.0,
    damping: float = 0.3,
    hidden: int = 16,
    num_points: int = 48,
) -> Workload:
    """Build a network u(t) that solves u'' + 2 d u' + w^2 u = 0, u(0) = a, u'(0) = 0 on [0, 3], by its residual.

    The loss is mean((u'' / w^2 + 2 d u' / w^2 + u)^2) + (u(0) - a)^2 + (u'(0) / w)^2, over the same points in every
    step. Everything is in the units of u, so losses are of the order of a^2.

    Args:
      amplitude: a.
      frequency: w.
      damping: d, below w.
      hidden: units of each of the two hidden layers, of tanh.
      num_points: points at which the residual is taken, all of them in each step.

    Returns:
      A `Workload`; `evaluate` returns "error", the root of the mean square of the difference to the exact solution,
      relative to the solution's own.

    Source: M. Raissi, P. Perdikaris, G. Karniadakis, "Physics-informed neural networks", Journal of Computational
      Physics 378, 2019, section 3.
    """
    network = perceptron((1, hidden, hidden, 1), jnp.tanh, scalar=True)
    times = np.linspace(0, 3, num_points, dtype=np.float32)
    own = np.sqrt(frequency**2 - damping**2)
    exact = amplitude * np.exp(-damping * times) * (np.cos(own * times) + damping / own * np.sin(own * times))

    def u(params: Any, t: jax.Array) -> jax.Array:
        return amplitude * network.apply(params, t[:, None] - 1.5)

    def loss_fn(params: Any, t: jax.Array, key: jax.Array) -> jax.Array:
        del key
        one = jnp.ones_like(t)

        def with_slope(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(lambda t: u(params, t), (t,), (one,))

        (value, slope), (_, bend) = jax.jvp(with_slope, (t,), (one,))
        residual = (bend + 2 * damping * slope) / frequency**2 + value
        # The first point is t = 0.
        return jnp.mean(residual**2) + (value[0] - amplitude) ** 2 + (slope[0] / frequency) ** 2

    def measure(params: Any, held_out: Any) -> dict[str, jax.Array]:
        t, solution = held_out
        return {"error": jnp.sqrt(jnp.mean((u(params, t) - solution) ** 2) / jnp.mean(solution**2))}

    return Workload.from_functions(
        loss_fn,
        network.init,
        Batches(times, num_points, shuffle=False),
        name="oscillator",
        evaluate=Evaluation(measure, (times, exact.astype(np.float32))),
    )


def make_pendulum_workload(
    *,
    hidden: int = 16,
    horizon: int = 8,
    num_train: int = 1000,
    num_test: int = 500,
    batch_size: int = 32,
    seed: int = 0,
) -> Workload:
    """Build a network f that learns the motion of a damped pendulum, (x, v)' = f(x, v), from its trajectories.

    The network's equation is integrated over `horizon` steps of 0.2 by the midpoint rule, and the loss is half the mean
    square of the difference to the trajectory, which has normal noise of 0.02.

    Args:
      hidden: units of the hidden layer, of tanh.
      horizon: steps of a trajectory.
      num_train: number of training trajectories.
      num_test: number of trajectories that are evaluated.
      batch_size: trajectories in a minibatch.
      seed: seed of the trajectories.

    Returns:
      A `Workload`; `evaluate` returns the loss, and "error", the root of the mean square.

    Source: R. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, 2018, arXiv 1806.07366, with the discrete gradient.
    """
    network = perceptron((2, hidden, 2), jnp.tanh)
    rng = np.random.default_rng(seed)
    clean = pendulum_trajectories(num_train + num_test, horizon, rng)
    observed = (clean + 0.02 * rng.normal(size=clean.shape)).astype(np.float32)

    def loss(params: Any, observed: jax.Array) -> jax.Array:
        found = integrate(lambda state: network.apply(params, state), observed[:, 0], horizon)
        return 0.5 * jnp.mean((found - observed[:, 1:]) ** 2)

    def measure(params: Any, held_out: jax.Array) -> dict[str, jax.Array]:
        found = loss(params, held_out)
        return {"loss": found, "error": jnp.sqrt(2 * found)}

    return Workload.from_functions(
        lambda params, batch, key: loss(params, batch),  # noqa: ARG005
        network.init,
        Batches(observed[:num_train], batch_size),
        name="pendulum",
        evaluate=Evaluation(measure, observed[num_train:]),
    )


def pendulum_trajectories(number: int, horizon: int, rng: np.random.Generator) -> np.ndarray:
    """Return trajectories of a damped pendulum from random states, (number, horizon + 1, 2), position and velocity."""
    refined = 10

    def motion(state: np.ndarray) -> np.ndarray:
        return np.stack([state[..., 1], -4 * np.sin(state[..., 0]) - 0.3 * state[..., 1]], axis=-1)

    states = rng.uniform([-2.0, -2.0], [2.0, 2.0], size=(number, 2))
    trajectory = [states]
    for _ in range(horizon):
        for _ in range(refined):
            half = states + STEP / refined / 2 * motion(states)
            states = states + STEP / refined * motion(half)
        trajectory.append(states)
    return np.stack(trajectory, axis=1)


def integrate(motion: Callable[[jax.Array], jax.Array], start: jax.Array, horizon: int) -> jax.Array:
    """Return the states after each of `horizon` steps by the midpoint rule, (n, horizon, 2), from `start`, (n, 2)."""

    def advance(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        half = state + STEP / 2 * motion(state)
        state = state + STEP * motion(half)
        return state, state

    return jnp.moveaxis(jax.lax.scan(advance, start, None, length=horizon)[1], 0, 1)
