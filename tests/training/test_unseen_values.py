"""Losses whose values their code does not show: what is compiled for one value never serves another."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.training import Batches, Workload

settings = types.ModuleType("settings")  # a module of the user's own
settings.decay = 0.1  # type: ignore[attr-defined]


class Config:
    decay = 0.1


package = types.ModuleType("package")
package.settings = settings  # type: ignore[attr-defined]


def with_gradient_rule(scale: float) -> Any:
    @jax.custom_vjp
    def slope_of(slope: jax.Array) -> jax.Array:
        return slope

    slope_of.defvjp(lambda slope: (slope, None), lambda _, gradient: (scale * gradient,))
    return lambda slope, x, key: jnp.mean(slope_of(slope) * x)


def with_derivative_rule(scale: float) -> Any:
    @jax.custom_jvp
    def slope_of(slope: jax.Array) -> jax.Array:
        return slope

    slope_of.defjvp(lambda primals, tangents: (primals[0], scale * tangents[0]))
    return lambda slope, x, key: jnp.mean(slope_of(slope) * x)


def with_attribute(scale: float) -> Any:
    def loss(slope: Any, x: Any, key: Any) -> Any:
        return loss.scale * jnp.mean(slope * x)  # type: ignore[attr-defined]

    loss.scale = scale  # type: ignore[attr-defined]
    return loss


def in_the_environment(scale: float) -> Any:
    os.environ["LRX_TEST_SCALE"] = str(scale)
    return lambda slope, x, key: float(os.environ["LRX_TEST_SCALE"]) * jnp.mean(slope * x)


def in_a_module_of_a_package(scale: float) -> Any:
    settings.decay = scale  # type: ignore[attr-defined]
    return lambda slope, x, key: package.settings.decay * jnp.mean(slope * x)


def by_getattr(scale: float) -> Any:
    settings.decay = scale  # type: ignore[attr-defined]
    return lambda slope, x, key: getattr(settings, "decay") * jnp.mean(slope * x)  # noqa: B009


def imported(scale: float) -> Any:
    settings.decay = scale  # type: ignore[attr-defined]

    def loss(slope: Any, x: Any, key: Any) -> Any:
        from settings import decay

        return decay * jnp.mean(slope * x)

    return loss


def in_a_table_of_globals(scale: float) -> Any:
    Config.decay = scale
    return lambda slope, x, key: globals()["Config"].decay * jnp.mean(slope * x)


class Model:
    scale = 1.0

    def loss(self, slope: Any, x: Any, key: Any) -> Any:
        return self.scale * jnp.mean(slope * x)


MODEL = Model()


def by_a_method(scale: float) -> Any:
    MODEL.scale = scale
    return MODEL.loss


class Callback:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, slope: Any) -> Any:
        return np.float32(self.scale)


def by_a_callback(scale: float) -> Any:
    callback = Callback(scale)

    def loss(slope: Any, x: Any, key: Any) -> Any:
        host = jax.pure_callback(callback, jax.ShapeDtypeStruct((), jnp.float32), jax.lax.stop_gradient(slope))
        return host * jnp.mean(slope * x)

    return loss


LARGE = np.ones(2**13)


def on_a_large_array(slope: Any, x: Any, key: Any) -> Any:
    return LARGE.mean() * jnp.mean(slope * x)


def by_a_large_array(scale: float) -> Any:
    LARGE[:] = scale
    return on_a_large_array


HIDDEN = [with_gradient_rule, with_derivative_rule, with_attribute, in_the_environment, in_a_module_of_a_package]
HIDDEN += [by_getattr, imported, in_a_table_of_globals, by_a_method, by_a_large_array, by_a_callback]


@pytest.mark.parametrize("make", HIDDEN, ids=lambda make: make.__name__)
def test_a_value_that_code_does_not_show_is_never_missed(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "settings", settings)
    monkeypatch.setattr(settings, "decay", 1.0)
    monkeypatch.setattr(Config, "decay", 1.0)
    monkeypatch.setenv("LRX_TEST_SCALE", "1.0")
    data = Batches(jnp.ones(4), batch_size=4, shuffle=False)

    def trained(scale: float) -> tuple[float, float]:
        workload = Workload.from_functions(make(scale), lambda key: jnp.float32(0.0), data)
        history = lrx.train(workload, lrx.sgd(1.0), steps=1)
        found = lrx.sweep(workload, lrx.sgd, {"learning_rate": [1.0]}, num_steps=2)
        return float(history.params), float(found.losses[0, 0, 1])

    # The parameter is minus the gradient after the first step; the second loss is the scale of the loss times that.
    assert trained(1.0) == (-1.0, -1.0)
    slope, loss = trained(0.5)
    assert slope == -0.5
    assert loss in (-0.5, -0.25)
