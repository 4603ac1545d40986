"""Muon against optax's, against plain NumPy, and in the products that it makes."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.optimizers.of_optax import muon

SHAPES = {
    "wide": (3, 5),
    "as wide": (3, 5),
    "tall": (5, 3),  # the transpose of a wide one, so of their stack
    "square": (4, 4),
    "no gradient": (3, 5),
    "empty": (0, 3),
    "bias": (3,),
    "kernel": (2, 3, 2),
}


def gradients(seed: int, dtype: Any = np.float32) -> dict[str, jax.Array]:
    """Return a normal gradient of each shape, and of zeros for the one that has none."""
    random = np.random.default_rng(seed)
    return {
        name: jnp.asarray(random.normal(size=shape) * (name != "no gradient"), dtype) for name, shape in SHAPES.items()
    }


def run(tx: Any, steps: int, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Return the updates of each step."""
    params = jax.tree.map(jnp.zeros_like, gradients(0, dtype))
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for seed in range(steps):
        updates, state = update(gradients(seed, dtype), state, params)
        found.append(updates)
    return {name: np.stack([np.asarray(updates[name]) for updates in found]) for name in SHAPES}


def test_muon_gives_optaxs_updates() -> None:
    ours = run(muon(lrx.linear_decay(0.5, 20)), 10)
    theirs = run(optax.contrib.muon(optax.linear_schedule(0.5, 0.0, 20), consistent_rms=0.2), 10)
    for name in SHAPES:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-6, err_msg=name)


def test_muon_iterates_narrow_types_in_float32() -> None:
    narrow, wide = run(muon(0.5), 3, jnp.bfloat16), run(muon(0.5), 3)
    optaxs = run(optax.contrib.muon(0.5, consistent_rms=0.2), 3, jnp.bfloat16)
    for name in ("wide", "tall", "square"):
        assert narrow[name].dtype == jnp.bfloat16
        error, of_optax = (np.abs(found[name].astype(float) - wide[name]).max() for found in (narrow, optaxs))
        assert error < 4e-3 < of_optax, name


def test_a_large_gradient_in_float16_does_not_overflow() -> None:
    tx, gradient = muon(1.0), jnp.full((2, 3), 6e4, jnp.float16)
    small, _ = tx.update(gradient / 1000, tx.init(gradient))
    large, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(large, small, rtol=1e-3)


def test_complex_matrices_have_optaxs_updates() -> None:
    key = jax.random.key(1)
    for shape in ((3, 5), (5, 3), (4, 4)):
        gradient = jax.random.normal(key, shape, jnp.complex64)
        ours, theirs = muon(1.0), optax.contrib.muon(1.0, consistent_rms=0.2)
        found, _ = ours.update(gradient, ours.init(gradient))
        expected, _ = theirs.update(gradient, theirs.init(gradient), gradient)
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_matrices_of_one_stack_do_not_reach_each_other() -> None:
    tx, params = muon(0.5), gradients(0)
    alone, _ = tx.update(params, tx.init(params), params)
    spoiled, _ = tx.update(params | {"as wide": jnp.full((3, 5), jnp.nan)}, tx.init(params), params)
    for name in ("wide", "tall", "square"):
        np.testing.assert_array_equal(alone[name], spoiled[name])


def test_a_matrix_of_integers_is_passed_on() -> None:
    tx, params = muon(0.5), {"matrix": jnp.ones((2, 2)), "table": jnp.ones((2, 2), jnp.int32)}
    gradient = {"matrix": jnp.ones((2, 2)), "table": np.zeros((2, 2), jax.dtypes.float0)}
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert updates["table"].dtype == jax.dtypes.float0
    assert bool(jnp.all(updates["matrix"] < 0))


def test_rates_are_swept() -> None:
    params = gradients(0)

    def update(rate: jax.Array) -> Any:
        tx = muon(rate)
        return tx.update(params, tx.init(params), params)[0]

    swept = jax.vmap(update)(jnp.array([0.5, 0.25]))
    for place, rate in enumerate((0.5, 0.25)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[place], y, atol=1e-6), swept, update(jnp.float32(rate)))  # noqa: B023


def test_muon_follows_its_formulas() -> None:
    steps, momentum, found = 5, np.zeros((5, 3)), run(muon(0.5), 5)["tall"]
    for t in range(1, steps + 1):
        gradient = np.asarray(gradients(t - 1)["tall"], float)
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.95 * momentum / (1 - 0.95 ** (t + 1)) + 0.05 * gradient / (1 - 0.95**t)
        x /= np.linalg.norm(x)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
        np.testing.assert_allclose(found[t - 1], -0.5 * 0.2 * np.sqrt(5) * x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 70), (70, 20), (30, 30)])
def test_small_singular_values_are_as_exact_as_in_single_iterations(shape: tuple[int, int]) -> None:
    random, rank = np.random.default_rng(0), min(shape)
    left, right = (np.linalg.qr(random.normal(size=(side, rank)))[0] for side in shape)
    matrix = (left * 10.0 ** np.linspace(0, -6, rank)) @ right.T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    tx, gradient = muon(1.0), jnp.asarray(matrix, jnp.float32)
    found, _ = tx.update(gradient, tx.init(gradient), gradient)
    expected = -0.2 * np.sqrt(max(shape)) * x
    assert np.abs(found - expected).max() < 1e-4 * np.sqrt(np.mean(expected**2))


def test_singular_values_are_near_one_and_the_root_mean_square_near_that_of_adam() -> None:
    tx, matrix = muon(1.0), jax.random.normal(jax.random.key(0), (30, 50))
    updates, _ = tx.update(matrix, tx.init(matrix), matrix)
    values = np.linalg.svd(updates, compute_uv=False) / (0.2 * 50**0.5)
    assert values.min() > 0.5
    assert values.max() < 1.5
    assert float(jnp.sqrt(jnp.mean(updates**2))) == pytest.approx(0.2, rel=0.15)


def test_matrices_of_one_shape_and_their_transposes_are_multiplied_together() -> None:
    tx, params = muon(0.5), {name: value for name, value in gradients(0).items() if name != "empty"}
    text = jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
    square = 5 * 3  # in each iteration, for A, for A A and for X
    wide = (3 + 2 * 4) + (3 + 4)  # of two groups, three for the first factor and the matrix, and four for each further
    assert len(re.findall(r"stablehlo\.dot_general", text)) == square + wide


def test_the_state_of_muon_is_read_and_its_rate_changed() -> None:
    tx, params = muon(0.5), gradients(0)
    _, state = tx.update(params, tx.init(params), params)
    assert float(lrx.learning_rate(state)) == 0.5
    changed = lrx.set_learning_rate(state, 0.25)
    updates, _ = tx.update(params, changed, params)
    expected, _ = tx.update(params, state, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(2 * x, y, rtol=1e-6), updates, expected)
