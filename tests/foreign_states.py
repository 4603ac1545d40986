"""A transformation of somebody else's: another module, annotations that are strings, a state that speaks for itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Cooling(NamedTuple):
    gain: jax.Array
    steps: jax.Array
    inner: Any

    def factor(self) -> jax.Array:
        return self.gain

    def shown(self) -> dict[str, jax.Array]:
        return {"gain": self.gain}

    def stops(self) -> jax.Array:
        return self.steps >= 3


def cooling(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Halve the update at each step, and be over after three."""
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> Cooling:
        return Cooling(jnp.ones([]), jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates: Any, state: Cooling, params: Any = None, **extra_args: Any) -> tuple[Any, Cooling]:
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        gain = jnp.float32(0.5) ** state.steps
        return jax.tree.map(lambda u: u * gain, updates), Cooling(gain, state.steps + 1, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


class Fixed(NamedTuple):
    alpha: jax.Array

    def rate(self) -> jax.Array:
        return self.alpha


def fixed_rate(alpha: float) -> optax.GradientTransformation:
    """Descend at one rate."""
    return optax.GradientTransformation(
        lambda params: Fixed(jnp.array(alpha, jnp.float32)),
        lambda updates, state, params=None: (jax.tree.map(lambda u: -alpha * u, updates), state),
    )
