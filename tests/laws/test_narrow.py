"""bfloat16 parameters: what a method ends with is as good as rounding lets it be, and stays so.

20,000 steps on a quadratic: parameters that are rounded stand still while a state in float32 may move on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


@pytest.mark.parametrize("name", METHODS)
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
