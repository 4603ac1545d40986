"""Labels and trees of parameters that the tests of groups share."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lrx

# Of NumPy: the laws import the tests of groups, and what they build must leave the devices to be chosen.
PARAMS = {
    "body": {"w": np.asarray([[1.0, -2.0]], np.float32), "b": np.asarray([0.5], np.float32)},
    "head": np.asarray([3.0, 0.1], np.float32),
}


LABELS = {"body": "slow", "head": "fast"}


FACTORS = {"slow": 0.1, "fast": 2.0}


SCHEDULE = lrx.warmup(lrx.step_decay(0.1, 4, factor=0.3), 2)


METHODS = {
    "sgd": lambda rate: lrx.sgd(rate, momentum=0.9),
    "heavy_ball": lrx.heavy_ball,
    "heavy_ball with correction": lambda rate: lrx.heavy_ball(rate, momentum_correction=True),
    "nesterov": lrx.nesterov,
    "adam": lrx.adam,
    "adagrad": lrx.adagrad,
    "rmsprop": lrx.rmsprop,
    "adamw": lambda rate: lrx.adamw(rate, weight_decay=0.1),
    # Without a base rate the decay follows the share of the rate's own peak, which no factor changes.
    "adamw of the paper": lambda rate: lrx.adamw(rate, weight_decay=0.1, decoupling="schedule"),
    "a chain": lambda rate: optax.chain(optax.clip(0.5), optax.scale_by_adam(), rate),
    "accumulation": lambda rate: lrx.accumulate(lrx.heavy_ball(rate), 2),
    "masked": lambda rate: optax.masked(lrx.heavy_ball(rate), {"body": True, "head": True}),
    "partition": lambda rate: optax.partition(
        {"slow": lrx.heavy_ball(rate), "fast": lrx.heavy_ball(rate)}, {"body": "slow", "head": "fast"}
    ),
    "multi steps": lambda rate: optax.MultiSteps(lrx.heavy_ball(rate), 2).gradient_transformation(),
    "apply_if_finite": lambda rate: optax.apply_if_finite(lrx.heavy_ball(rate), 3),
    "injected": lambda rate: optax.inject_hyperparams(lrx.heavy_ball, static_args=("learning_rate",))(rate),
    "optax": lambda rate: optax.adam(rate),
    "flattened": lambda rate: optax.flatten(lrx.sgd(rate)),
}


class Linear(eqx.Module):
    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return self.weight @ x + self.bias


class Net(eqx.Module):
    lin: Linear
    head: Linear
    activation: object = jax.nn.relu

    def __call__(self, x):
        return self.head(self.activation(self.lin(x)))


class NnxNet(nnx.Module):
    def __init__(self):
        self.lin, self.head = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 1, rngs=nnx.Rngs(1))


def linear():
    return Linear(jnp.ones((2, 2)), jnp.ones(2))


KINDS_OF_TREES = ("dicts", "equinox", "nnx", "nnx, pure")


def trees_of_parameters():
    """Return one network as dicts, as an Equinox module, and as flax keeps it, with and without its variables."""
    module = eqx.filter(Net(linear(), linear()), eqx.is_array)
    dicts = {
        name: {"weight": getattr(module, name).weight, "bias": getattr(module, name).bias} for name in ("lin", "head")
    }
    variables = nnx.State(
        {name: {key: nnx.Param(leaf) for key, leaf in layer.items()} for name, layer in dicts.items()}
    )
    return dict(zip(KINDS_OF_TREES, (dicts, module, variables, nnx.as_pure(variables)), strict=True))


FROZEN = {"slow": 0.0, "fast": 2.0}
