"""The sharpness is the largest eigenvalue of the Hessian: of quadratics, exactly."""

from __future__ import annotations

import re

import jax
import jax.export
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from lrx.diagnostics import sharpness

SIZE = 60
QUADRATICS = {
    "few eigenvalues": np.repeat(np.arange(1.0, 11), 6),
    "condition number 1e8": np.geomspace(1e-8, 1, SIZE),
    "power law": 50 * np.arange(1.0, SIZE + 1) ** -2,
    "indefinite": np.concatenate([[-9.0], np.linspace(-1, 1, SIZE - 2), [5.0]]),
    "negative definite": -np.repeat(np.arange(1.0, 13), 5),
    "one eigenvalue": np.full(SIZE, 7.0),
    "one, negative": np.full(SIZE, -7.0),
    "three eigenvalues": np.repeat([1.0, 2.0, 5.0], SIZE // 3),
    "zero": np.zeros(SIZE),
    "large": np.repeat(1e8 * np.arange(1.0, 11), 6),
    "small": np.repeat(1e-8 * np.arange(1.0, 11), 6),
}


def quadratic(eigenvalues):
    """The matrix of a quadratic in random directions, and a point."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))[0]
    return (directions * np.asarray(eigenvalues)) @ directions.T, rng.normal(size=len(eigenvalues))


@jax.jit
def sharpness_of(matrix, point):
    return sharpness(lambda x: 0.5 * x @ (matrix @ x), point)


@pytest.mark.parametrize("name", QUADRATICS)
def test_sharpness_of_a_quadratic_is_its_largest_eigenvalue(name):
    eigenvalues = QUADRATICS[name]
    found = sharpness_of(*(jnp.asarray(part, jnp.float32) for part in quadratic(eigenvalues)))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, eigenvalues.max(), rtol=1e-4, atol=1e-4 * np.abs(eigenvalues).max())


def test_as_many_iterations_as_parameters_are_enough():
    found = sharpness(lambda x: 1.5 * x["one"] ** 2, {"one": jnp.float32(2.0)}, iterations=16)
    assert float(found) == pytest.approx(3.0, rel=1e-6)


def test_more_iterations_come_closer_from_below():
    curvatures = jnp.linspace(0.1, 1, 200)

    def found(iterations):
        of = jax.jit(lambda x: sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), x, iterations=iterations))
        return float(of(jnp.ones(200)))

    few, most = found(4), found(60)
    assert few < most <= 1 + 1e-5
    assert most == pytest.approx(1, rel=1e-4)


@pytest.mark.slow
def test_sharpness_of_a_tree_is_that_of_the_whole_hessian():
    batch = jax.random.normal(jax.random.key(0), (20, 3)), jax.random.normal(jax.random.key(1), (20,))

    def loss_fn(params):
        hidden = jnp.tanh(batch[0] @ params["kernel"] + params["bias"][None])
        return jnp.mean((hidden @ params["out"] - batch[1]) ** 2)

    shapes = {"kernel": (3, 4), "bias": (4,), "out": (4,)}
    params = {name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda x: loss_fn(unravel(x))))(flat)
    expected = np.linalg.eigvalsh(np.asarray(hessian, np.float64))[-1]
    found = jax.jit(lambda params: sharpness(loss_fn, params, iterations=20))(params)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_sharpness_takes_leaves_of_several_types_and_is_mapped_over_points_and_keys():
    def loss_fn(params):
        return 2 * params["a"].astype(jnp.float32) ** 2 + params["b"] ** 4

    points = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.array([0.0, 1.0, 2.0])}
    keys = jax.random.split(jax.random.key(7), 3)
    found = jax.jit(jax.vmap(lambda params, key: sharpness(loss_fn, params, key=key)))(points, keys)
    np.testing.assert_allclose(found, [4, 12, 48], rtol=1e-4)


@pytest.mark.parametrize("x64", [False, True])
def test_sharpness_lowers_for_accelerators_and_is_float32_with_64_bit_types_too(x64):
    with jax.enable_x64(x64):
        function = jax.jit(lambda x: sharpness(lambda x: jnp.sum(jnp.tanh(x) ** 2), x, iterations=3))
        point = jax.ShapeDtypeStruct((4,), jnp.float32)
        assert jax.eval_shape(function, point).dtype == jnp.float32
        text = jax.export.export(function, platforms=("cuda", "tpu"))(point).mlir_module()
    assert "callback" not in text
    assert not re.search(r"tensor<\d+x[^>]*f64>", text) if x64 else "f64" not in text


def test_a_loss_that_is_not_finite_has_no_sharpness():
    found = jax.jit(lambda x: sharpness(lambda x: jnp.sum(x**2) + jnp.where(x[0] > 0, jnp.nan, 0.0) * x[0], x))
    assert np.isnan(found(jnp.ones(3)))
    assert found(-jnp.ones(3)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        (jnp.ones(3), {"iterations": 0}, ValueError, "iterations must be a whole number of iterations >= 1"),
        (jnp.ones(3), {"iterations": 2.5}, ValueError, "iterations must be a whole number of iterations >= 1"),
        ({}, {}, ValueError, "params must have at least one entry, got none"),
        (jnp.arange(3), {}, TypeError, "params must be real floating-point arrays, got one of int32"),
        (jnp.ones(3, jnp.complex64), {}, TypeError, "params must be real floating-point arrays, got one of complex64"),
    ],
)
def test_what_has_no_sharpness_is_refused(params, options, error, message):
    with pytest.raises(error, match=message):
        sharpness(lambda x: jnp.sum(jnp.asarray(x)), params, **options)
