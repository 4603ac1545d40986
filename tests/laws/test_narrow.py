"""bfloat16 parameters: the final result is as good as rounding allows, and stays so.

20,000 steps on a quadratic: rounded parameters stop moving, while a state in float32 may still move.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, Case
from tiers import first_tier_has

import lrx

STEPS = 20_000
CURVATURES = np.linspace(0.1, 2, 16)
TARGET = np.random.default_rng(0).normal(size=16) * 1.5
ROUNDED = 2.7e-5  # the loss at the target, rounded to bfloat16
COSINE = lrx.cosine_decay(1.0, STEPS)


def loss_of(theta):
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES, jnp.float32) * (theta.astype(jnp.float32) - TARGET) ** 2)


def losses(tx, theta, *, observe=lambda state, theta: ()):
    """Return the losses at the evaluation point after every step, and what `observe` looks at."""

    def step(carry, _):
        theta, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(theta)
        updates, state = tx.update(gradient, state, theta, value=loss)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), (loss_of(lrx.eval_params(state, theta)), observe(state, theta))

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=STEPS)[1])
    return run((theta, tx.init(theta)))


# Those that take their steps from what has been, with the rates that they are given for a run of this length. A method
# whose own steps do not shrink stays as far from the target as the last step that is not rounded away.
METHODS = {
    "schedule_free_sgd": lambda: lrx.schedule_free_sgd(1.0),
    "schedule_free_adamw": lambda: lrx.schedule_free_adamw(0.05),
    "nesterov": lambda: lrx.nesterov(0.05),
    "dog": lambda: lrx.dog(),
    "dog by layers": lambda: lrx.dog(layerwise=True, averaging=None),
    "dowg": lambda: lrx.dowg(0.3 * COSINE),
    "prodigy": lambda: lrx.prodigy(COSINE),
    "d_adaptation": lambda: lrx.d_adaptation(COSINE),
    "cocob": lambda: lrx.cocob(),
    "mechanic": lambda: lrx.mechanic(lrx.sgd(0.1 * COSINE)),
    "momo": lambda: lrx.momo(),
    "momo_adam": lambda: lrx.momo_adam(0.1),
    "master_weights of adam": lambda: lrx.master_weights(lrx.adam(0.01 * COSINE)),
    "master_weights of hypergradient_sgd": lambda: lrx.master_weights(lrx.hypergradient_sgd(0.01, hyper_rate=1e-4)),
    "averaged": lambda: lrx.averaged(lrx.sgd(0.5), decay=0.99),
}


@pytest.mark.parametrize("name", first_tier_has(["dog", "schedule_free_sgd"], METHODS))
def test_the_loss_falls_to_that_of_rounding_and_stays_there(name):
    found, _ = losses(METHODS[name](), jnp.zeros(16, jnp.bfloat16))
    assert float(loss_of(jnp.asarray(TARGET, jnp.bfloat16))) == pytest.approx(ROUNDED, rel=0.02)
    assert float(found[-1]) < 10 * ROUNDED
    assert float(jnp.max(found[-100:])) < 10 * ROUNDED


@pytest.mark.parametrize("make", [lrx.prodigy, lrx.dog])
def test_first_steps_below_the_resolution_are_not_lost(make):
    # The first estimate is 1e-6, and 0.3 + 1e-6 is 0.3 in bfloat16.
    tx = make()
    wide, narrow = (losses(tx, jnp.full(16, 0.3, dtype))[0] for dtype in (jnp.float32, jnp.bfloat16))
    assert float(wide[500]) < 1e-2
    assert float(narrow[500]) < 1e-2


def test_wide_parameters_are_not_kept_twice():
    for make in (lrx.schedule_free_sgd, lrx.schedule_free_adamw, lrx.dog, lrx.dowg, lrx.prodigy):
        wide, narrow = (make().init(jnp.ones(8, dtype)) for dtype in (jnp.float32, jnp.bfloat16))
        arrays = [sum(leaf.size for leaf in jax.tree.leaves(state)) for state in (wide, narrow)]
        assert arrays[1] == arrays[0] + 8


@pytest.mark.parametrize("make", [lrx.schedule_free_sgd, lrx.prodigy, lrx.dog, lrx.dowg])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_map_with_and_without_what_is_kept(make, dtype):
    params = {"w": jnp.ones(3, dtype)}
    tx = make()
    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda leaf, name: leaf * 0 + len(name), state, {"w": "four"})
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


def arrays_of(tree):
    return jax.tree.map(jnp.array, tree)


@pytest.mark.parametrize("make", [lrx.schedule_free_sgd, lrx.schedule_free_adamw, lrx.prodigy, lrx.dog, lrx.dowg])
@pytest.mark.parametrize(
    ("dtype", "to_array"), [(jnp.float32, jnp.array), (jnp.float32, arrays_of), (jnp.bfloat16, arrays_of)]
)
def test_states_whose_other_leaves_were_mapped_to_arrays_go_on(make, dtype, to_array):
    params, tx = {"w": jnp.ones(3, dtype)}, make()

    def two(state):
        updates, after = tx.update(params, state, params)
        again, after = tx.update(params, after, optax.apply_updates(params, updates))
        return again, lrx.eval_params(after, params), jax.tree.structure(after) == jax.tree.structure(state)

    state = tx.init(params)
    mapped = optax.tree.map_params(tx, lambda leaf: leaf, state, transform_non_params=to_array)
    (updates, points, stable), (expected, there, _) = two(mapped), two(state)
    np.testing.assert_array_equal(updates["w"], expected["w"])
    np.testing.assert_array_equal(points["w"], there["w"])
    assert stable


# ----------------------------------------------------------------- hyperparameters in a type that has no 0.999


def refuses_one(case: Case, name: str) -> bool:
    try:
        case(**{name: 1.0})
    except ValueError as error:
        return re.search(r", 1\), got|> 1, got", str(error)) is not None
    return False


# What a range that ends short of 1 is for, or begins beyond it, is lost where a type rounds to 1.
SHORT_OF_ONE = [(label, name) for label, case in CASES.items() for name in case.sweep if refuses_one(case, name)]
BESIDE_ONE = {
    "schedule_free_sgd": ["b1"],
    "schedule_free_adamw": ["b1"],
    "polyak": ["growth"],
    "armijo": ["growth"],
}


@pytest.mark.parametrize(
    ("label", "name"), [*SHORT_OF_ONE, *((label, name) for label, names in BESIDE_ONE.items() for name in names)]
)
def test_what_may_not_be_rounded_to_1_is_refused_in_narrow_types(label, name):
    def make(value):
        return CASES[label](**{name: value}).init(jnp.ones(2))

    for dtype in (jnp.bfloat16, jnp.float16):
        with pytest.raises(TypeError, match=rf"{name}.*narrower than float32.*hyperparam_dtype=jnp\.float32"):
            jax.eval_shape(make, jax.ShapeDtypeStruct((), dtype))
    jax.eval_shape(make, jax.ShapeDtypeStruct((), jnp.float32))


def test_all_decays_are_among_what_is_refused():
    decays = {"b1", "b2", "b3", "momentum", "decay", "smoothing"}
    beside = {(label, name) for label, names in BESIDE_ONE.items() for name in names}
    swept = {(label, name) for label, case in CASES.items() for name in case.sweep if name in decays}
    assert swept <= {*SHORT_OF_ONE, *beside, ("refined", "smoothing")}


@pytest.mark.parametrize(
    "make",
    [lrx.sgd, lrx.heavy_ball, lrx.rmsprop, lrx.adam, lrx.adamw, lrx.d_adaptation, lrx.prodigy, lrx.schedule_free_adamw],
)
def test_decays_that_optax_injects_in_bfloat16_are_refused_and_train_in_float32(make):
    options = {"momentum": 0.999} if make in (lrx.sgd, lrx.heavy_ball) else {}
    params = jnp.ones(3, jnp.bfloat16)
    rounded = optax.inject_hyperparams(make)(learning_rate=0.1, **options)
    for init in (rounded.init, jax.jit(rounded.init)):
        with pytest.raises(TypeError, match=r"narrower than float32.*hyperparam_dtype=jnp\.float32"):
            init(params)
    kept = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)(learning_rate=0.1, **options)
    updates, _ = jax.jit(kept.update)(jnp.ones(3, jnp.bfloat16), jax.jit(kept.init)(params), params)
    assert bool(jnp.all(jnp.isfinite(updates)))
    assert bool(jnp.all(jnp.abs(updates) < 2))


def test_rates_and_weight_decays_may_be_injected_in_bfloat16():
    def make(learning_rate, weight_decay):
        return lrx.adamw(learning_rate, weight_decay=weight_decay)

    params = jnp.ones(3, jnp.bfloat16)
    tx = optax.inject_hyperparams(make)(learning_rate=0.125, weight_decay=0.25)
    updates, _ = jax.jit(tx.update)(jnp.ones(3, jnp.bfloat16), jax.jit(tx.init)(params), params)
    np.testing.assert_allclose(np.asarray(updates, np.float32), -0.125 * 1.25, rtol=1e-2)
