"""Transformations of somebody else: another module, annotations that are strings, states that speak for themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

import lrx
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.transformations import factory


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


# What a training loop asks. The fields are annotated in other ways than lrx's own: nothing reads that.


class Patience(NamedTuple):
    best: jnp.ndarray
    waited: Array
    over: "Array"  # noqa: UP037
    most: jax.Array

    def shown(self) -> dict[str, Array]:
        return {"patience/best": self.best, "patience/waited": self.waited}

    def stops(self) -> Array:
        return self.over

    def judge(self, value: Array) -> Patience:
        waited = jnp.where(value < self.best, 0, self.waited + 1)
        return Patience(jnp.minimum(self.best, value), waited, self.over | (waited > self.most), self.most)

    def improved_since(self, before: Patience) -> Array:
        return self.best < before.best


@factory
def patience(most: int, feedback: str = "value") -> Controller:
    """Be over after more than `most` losses in a row without a new best."""

    def init(params: Any) -> Patience:
        return Patience(jnp.array(jnp.inf), jnp.zeros([], jnp.int32), jnp.zeros([], bool), jnp.array(most))

    def update(state: Patience, value: Array) -> tuple[Array, Patience]:
        after = state.judge(value)
        return jnp.where(after.over, 0.0, 1.0), after

    return controller(init=init, update=update, feedback=feedback)


class Lagging(NamedTuple):
    behind: Any
    inner: Any

    def evaluation_params(self, params: Any) -> Any:
        return self.behind


def lagging(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Evaluate at the parameters of one step before."""
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Lagging, params: Any = None, **extra_args: Any) -> tuple[Any, Lagging]:
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        return updates, Lagging(jax.tree.map(jnp.array, params), inner_state)

    return optax.GradientTransformationExtraArgs(
        lambda params: Lagging(jax.tree.map(jnp.array, params), inner.init(params)), update
    )


class Retreating(NamedTuple):
    kept: Any
    bad: Array
    inner: Any

    def handles_divergence(self) -> bool:
        return True

    def applied_params(self, params: Any) -> Any:
        return jax.tree.map(lambda old, new: jnp.where(self.bad, old, new), self.kept, params)


def retreating(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Go back to the first parameters when a loss is not finite, and halve the rate."""
    inner = optax.with_extra_args_support(tx)

    def update(updates: Any, state: Retreating, params: Any = None, **extra_args: Any) -> tuple[Any, Retreating]:
        bad = ~jnp.isfinite(extra_args["value"])
        updates, after = inner.update(updates, state.inner, params, **extra_args)
        lowered = lrx.scale_learning_rate(state.inner, 0.5)
        after = jax.tree.map(lambda low, new: jnp.where(bad, low, new), lowered, after)
        return updates, Retreating(state.kept, bad, after)

    def init(params: Any) -> Retreating:
        return Retreating(jax.tree.map(jnp.array, params), jnp.zeros([], bool), inner.init(params))

    return optax.GradientTransformationExtraArgs(init, update)
