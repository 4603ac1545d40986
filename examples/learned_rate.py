"""Which learning rate should Adam have? Let `jax.grad` answer: differentiate through 20 of its steps.

The rate is a number like any other, so the mean loss over 20 steps has a derivative with respect to it, and the rate
descends along that derivative: an outer optimizer trains the rate of the inner one. Run it to see how the rate changes,
and how it compares with a grid of rates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import lrx

STEPS = 20  # of the inner optimizer

# Linear regression with features of different sizes; the first is always 0, so one weight never has a gradient.
INPUTS = jax.random.normal(jax.random.key(0), (64, 8)) * jnp.array([0.0, 0.2, 0.5, 1.0, 1.0, 1.5, 2.0, 3.0])
TARGETS = INPUTS @ jax.random.normal(jax.random.key(1), (8,))


def loss_fn(weights: jax.Array) -> jax.Array:
    """Return the mean squared error of a linear model."""
    return jnp.mean((INPUTS @ weights - TARGETS) ** 2)


def mean_loss(log_rate: jax.Array) -> jax.Array:
    """Return the mean loss over 20 steps of Adam, from the logarithm of its rate: it has a derivative.

    The loss after the last step alone has many local minima, since the steps oscillate.
    """
    # A small eps_root bounds the derivative where a gradient is close to 0.
    tx = lrx.adam(jnp.exp(log_rate), eps_root=1e-12)

    def step(carry, _):
        weights, state = carry
        updates, state = tx.update(jax.grad(loss_fn)(weights), state)
        weights = weights + updates
        return (weights, state), loss_fn(weights)

    weights = jnp.zeros(8)
    return jnp.mean(jax.lax.scan(step, (weights, tx.init(weights)), length=STEPS)[1])


def learn(first_rate: float = 1e-3, outer_steps: int = 60) -> tuple[list[float], list[float]]:
    """Descend along the derivative by the rate; return the rates and the mean losses with them."""
    outer = lrx.adam(lrx.cosine_decay(0.3, outer_steps))
    log_rate = jnp.log(first_rate)
    state = outer.init(log_rate)
    value_and_grad = jax.jit(jax.value_and_grad(mean_loss))
    rates, losses = [], []
    for _ in range(outer_steps):
        loss, gradient = value_and_grad(log_rate)
        rates.append(float(jnp.exp(log_rate)))
        losses.append(float(loss))
        updates, state = outer.update(gradient, state)
        log_rate = log_rate + updates
    return rates, losses


def main(outer_steps: int = 60) -> None:
    """Learn a rate and compare it with a grid."""
    rates, losses = learn(outer_steps=outer_steps)
    for number in range(0, outer_steps, 10):
        print(f"outer step {number:3d}: rate {rates[number]:.4f}, mean loss over {STEPS} steps {losses[number]:.4f}")
    grid = jnp.geomspace(1e-3, 10.0, 41)
    reached = jax.jit(jax.vmap(mean_loss))(jnp.log(grid))
    print(f"learned: rate {rates[-1]:.4f}, loss {losses[-1]:.4f}")
    print(f"best of {len(grid)} rates tried: rate {grid[jnp.argmin(reached)]:.4f}, loss {jnp.min(reached):.4f}")


if __name__ == "__main__":
    main()
