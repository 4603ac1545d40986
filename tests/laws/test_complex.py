"""Complex parameters: each coordinate is a plane, with |g|^2 and the inner product Re(conj(g) x).

Gradients of a real loss are the conjugates of what `jax.grad` returns, the directions of steepest ascent.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CONTROLLED_COMPOSITIONS, CONTROLLERS, OPTIMIZERS, parametrized
from laws.programs import eager_run
from problems import gradient_stream, value_stream, vector_params

import lrx

STEPS = 3
NARROW = "adam with a narrow moment"  # rounds a real moment, and there is no narrow complex type
# The damping of a path follows the number of real dimensions, of which a complex tree has twice as many.
COUNTS_DIMENSIONS = "cumulative_path with its own damping"
METHODS = {
    label: case
    for label, case in {**OPTIMIZERS, **CONTROLLERS, **CONTROLLED_COMPOSITIONS}.items()
    if label not in (COUNTS_DIMENSIONS, NARROW)
}
all_methods = parametrized(METHODS, variants=False)

# Of methods that see the gradient through inner products and norms only, a complex coordinate is two real ones. Others
# divide by the size of a coordinate, and a plane has one size where two real coordinates have two.
WITHOUT_COORDINATES = [
    "sgd with nesterov",
    "heavy_ball",
    "nesterov",
    "dog",
    "dowg",
    "mechanic",
    "momo",
    "schedule_free_sgd",
    "hypergradient_sgd",
    "polyak",
]


@functools.cache
def phases() -> dict[str, jax.Array]:
    random = np.random.default_rng(7)
    angles = jax.tree.map(lambda leaf: random.uniform(0, 2 * np.pi, leaf.shape), vector_params())
    return jax.tree.map(lambda angle: jnp.asarray(np.exp(1j * angle), jnp.complex64), angles)


def turned(tree):
    return jax.tree.map(lambda leaf, phase: leaf * phase, tree, phases())


@all_methods
def test_turned_parameters_and_gradients_give_turned_updates(case):
    # With phases of 1 this says that a complex tree without imaginary parts behaves as the real one.
    params, stream, values = vector_params(), gradient_stream(vector_params(), STEPS), value_stream(STEPS)
    expected, _ = eager_run(case(), params, stream, values, moving=True)
    rows, state = eager_run(case(), turned(params), [turned(g) for g in stream], values, moving=True)
    for row, real in zip(rows, expected, strict=True):
        for leaf, wanted in zip(jax.tree.leaves(row), jax.tree.leaves(turned(real)), strict=True):
            assert leaf.dtype == jnp.complex64
            np.testing.assert_allclose(leaf, wanted, rtol=2e-5, atol=1e-6)
    scalars = [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf) == 0]
    assert not any(jnp.iscomplexobj(leaf) for leaf in scalars)


def _as_complex(tree):
    return jax.lax.complex(tree["real"], tree["imag"])


@pytest.mark.parametrize("label", WITHOUT_COORDINATES)
def test_a_complex_coordinate_is_two_real_ones_for_methods_of_inner_products(label):
    case = OPTIMIZERS[label]
    random = np.random.default_rng(0)
    draw = lambda: {part: jnp.asarray(random.normal(size=5), jnp.float32) for part in ("real", "imag")}  # noqa: E731
    params, stream, values = draw(), [draw() for _ in range(STEPS)], value_stream(STEPS)
    expected, _ = eager_run(case(), params, stream, values, moving=True)
    rows, _ = eager_run(case(), _as_complex(params), [_as_complex(g) for g in stream], values, moving=True)
    for row, real in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row, _as_complex(real), rtol=1e-5, atol=1e-7)


def test_the_damping_of_a_path_counts_two_dimensions_for_a_complex_coordinate():
    def scale_of(gradient):
        tx = lrx.cumulative_path()
        _, state = tx.update(gradient, tx.init(gradient))
        return state.memories[0].scale

    assert scale_of(jnp.ones(3, jnp.complex64)) == pytest.approx(float(scale_of(jnp.ones(6))), rel=1e-6)


def _quadratic(theta):
    target = jnp.asarray([1 + 2j, -0.5j, 3.0, -2 + 1j], jnp.complex64)
    return jnp.sum(lrx._leaves.abs_square(theta - target))


TRAINED = {
    "sgd": lambda: lrx.sgd(0.1, momentum=0.9),
    "heavy_ball": lambda: lrx.heavy_ball(0.05),
    "nesterov": lambda: lrx.nesterov(0.05),
    "adam": lambda: lrx.adam(lrx.cosine_decay(0.3, 400)),
    "adamw": lambda: lrx.adamw(lrx.cosine_decay(0.3, 400), weight_decay=0.0),
    "adagrad": lambda: lrx.adagrad(1.0),
    "rmsprop": lambda: lrx.rmsprop(lrx.cosine_decay(0.1, 400)),
    "schedule_free_sgd": lambda: lrx.schedule_free_sgd(0.2),
    "schedule_free_adamw": lambda: lrx.schedule_free_adamw(0.3),
    "hypergradient_sgd": lambda: lrx.hypergradient_sgd(0.01, hyper_rate=1e-4),
    "hypergradient_adam": lambda: lrx.hypergradient_adam(0.03, hyper_rate=1e-5),
    "momo": lambda: lrx.momo(),
    "momo_adam": lambda: lrx.momo_adam(0.1),
    "polyak": lambda: lrx.sgd(lrx.polyak()),
    "armijo": lambda: lrx.sgd(lrx.armijo()),
    "d_adaptation": lambda: lrx.d_adaptation(lrx.cosine_decay(1.0, 400), d0=0.01),
    "prodigy": lambda: lrx.prodigy(lrx.cosine_decay(1.0, 400), d0=0.01),
    "dog": lambda: lrx.dog(reps_rel=0.01),
    "dowg": lambda: lrx.dowg(),
    "cocob": lambda: lrx.cocob(),
    "mechanic": lambda: lrx.mechanic(lrx.sgd(0.1), s_init=0.01),
    "cumulative_path": lambda: lrx.sgd(0.01 * lrx.cumulative_path(max_factor=10.0)),
    "relative_adaptation": lambda: lrx.sgd(0.01 * lrx.relative_adaptation(max_factor=10.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_complex_quadratic_is_minimised(name):
    tx = TRAINED[name]()

    def step(carry, _):
        theta, state = carry
        loss, gradient = jax.value_and_grad(_quadratic)(theta)
        updates, state = tx.update(jnp.conj(gradient), state, theta, value=loss, value_fn=_quadratic)
        return (theta + updates, state), loss

    @jax.jit
    def train(theta):
        (theta, state), losses = jax.lax.scan(step, (theta, tx.init(theta)), length=400)
        return _quadratic(lrx.eval_params(state, theta)), losses

    last, losses = train(jnp.asarray([-2j, 1.0, 1 + 1j, 0.5j], jnp.complex64))
    assert losses[0] > 10
    assert last < 0.05, losses[::50]
