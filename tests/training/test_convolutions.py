"""Convolutions keep the layout that is fast inside of compiled loops on a CPU."""

from __future__ import annotations

from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from training.linear import SGD

from lrx.training import (
    Batches,
    Workload,
)
from lrx.training.convolutions import trace_once
from lrx.training.program import program_of
from lrx.training.sampling import keys_of


def convolution_layouts(jaxpr: Any) -> list[Any]:
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            found.append(equation.params["dimension_numbers"])
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += convolution_layouts(inner)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [lambda f: f, jax.checkpoint, jax.jit], ids=["plain", "checkpoint", "jit"])
@pytest.mark.parametrize(
    "options",
    [
        {"dimension_numbers": ("NHWC", "HWIO", "NHWC")},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW"), "window_strides": (2, 1)},
        {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2},
        {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "rhs_dilation": (2, 1)},
    ],
    ids=["channels last", "channels first", "groups", "dilated"],
)
def test_rewritten_convolutions_are_channels_last_and_equal(options, wrapper):
    options = {"window_strides": (1, 1), "padding": ((1, 1), (0, 2)), **options}
    channels_first = options["dimension_numbers"][0] == "NCHW"
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 5) if channels_first else (2, 6, 5, 4))
    inputs = 4 // options.get("feature_group_count", 1)
    w = jax.random.normal(jax.random.key(1), (8, inputs, 3, 3) if channels_first else (3, 3, inputs, 8))

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(wrapper(lambda x: jax.lax.conv_general_dilated(x, w, **options))(x)))

    gradient = jax.grad(loss, argnums=(0, 1))
    rewritten, shapes = trace_once(gradient, w, x, channels_last=True)
    layouts = convolution_layouts(jax.make_jaxpr(rewritten)(w, x).jaxpr)
    expected = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    assert layouts
    assert set(layouts) == {expected}
    assert convolution_layouts(jax.make_jaxpr(gradient)(w, x).jaxpr) != layouts
    for got, wanted, shape in zip(rewritten(w, x), gradient(w, x), shapes, strict=True):
        assert got.shape == shape.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_traced_functions_are_not_rewritten_elsewhere():
    x, w = jnp.ones((1, 2, 4, 4)), jnp.ones((3, 2, 3, 3))
    same, _ = trace_once(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"), x, w, channels_last=False)
    (layout,) = convolution_layouts(jax.make_jaxpr(same)(x, w).jaxpr)
    assert layout.lhs_spec == (0, 1, 2, 3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only the CPU's compiler needs it")
def test_segments_on_the_cpu_hold_convolutions_in_the_fast_layout_only():
    def loss_fn(w: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.mean(jax.lax.conv(x, w, (1, 1), "SAME") ** 2)

    batches = Batches(jnp.ones((4, 3, 6, 6)), 2)
    workload = Workload.from_functions(loss_fn, lambda key: jnp.ones((2, 3, 3, 3)), batches, name="conv")
    program, keys = program_of(workload, SGD, stop_on_nonfinite=True), keys_of(0)
    segment = jax.make_jaxpr(program.segment)(program.initialize(keys.init), batches.arrays, keys, 0, 1, -1)
    layouts = convolution_layouts(segment.jaxpr)
    assert len(layouts) == 2  # forward, and the gradient
    assert {layout.lhs_spec for layout in layouts} == {(0, 3, 1, 2)}
