"""The limit is where a method loses its stability on a quadratic, and the preconditioner is what it divides by."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import lrx

RATE, BETA = 0.05, 0.7
LINEAR = {
    "sgd": lrx.sgd(RATE),
    "a schedule": lrx.sgd(lrx.constant(2 * RATE) * 0.5),
    "clipped": optax.chain(optax.clip_by_global_norm(1e9), lrx.sgd(RATE)),
    "momentum": lrx.sgd(RATE, momentum=BETA),
    "momentum, nesterov": lrx.sgd(RATE, momentum=BETA, nesterov=True),
    "heavy_ball": lrx.heavy_ball(RATE, momentum=BETA),
    "nesterov": lrx.nesterov(RATE, momentum=BETA),
    "a factor": optax.chain(lrx.sgd(2 * RATE, momentum=BETA), lrx.constant(0.5).multiplier()),
    "averaged": lrx.averaged(lrx.sgd(RATE, momentum=BETA)),
    "accumulated": lrx.accumulate(lrx.nesterov(RATE, momentum=BETA), 1),
    "rolled back": lrx.rollback_on_divergence(lrx.sgd(RATE, momentum=BETA)),
    "masked": optax.masked(lrx.sgd(RATE, momentum=BETA), True),
    "skipped": optax.apply_if_finite(lrx.sgd(RATE), 3),
    "injected": optax.inject_hyperparams(optax.sgd)(RATE),
    "measured": optax.chain(optax.snapshot("norm", optax.tree.norm), lrx.sgd(RATE)),
}


def distance(tx, curvature, steps=400):
    """Return how far from its minimum a quadratic of one parameter ends."""
    x = jnp.ones(())

    def step(carry, _):
        x, state = carry
        updates, state = optax.with_extra_args_support(tx).update(curvature * x, state, x, value=jnp.ones(()))
        return (x + updates, state), None

    return jnp.abs(jax.lax.scan(step, (x, tx.init(x)), length=steps)[0][0])


@pytest.mark.parametrize("name", LINEAR)
def test_a_method_is_stable_just_below_its_limit_and_not_above(name):
    tx = LINEAR[name]
    limit = lrx.stability_limit(tx.init(jnp.ones(())))
    assert limit.dtype == jnp.float32
    assert lrx.preconditioner_of(tx.init(jnp.ones(()))) is None
    below, above = jax.jit(jax.vmap(lambda factor: distance(tx, factor * limit)))(jnp.array([0.98, 1.02]))
    assert below < 0.1
    assert above > 10


def frozen(tx, curvatures, beta):
    """Return the eigenvalues of P^-1 H, and the factor by which a step with P and the moments held would grow."""
    x = jnp.array([1.0, -0.5, 2.0])
    state = tx.init(x)
    for _ in range(5):
        updates, state = tx.update(curvatures * x, state, x)
        x = x + updates
    eigenvalues = curvatures / lrx.preconditioner_of(state)
    found = lrx.sharpness(lambda x: 0.5 * jnp.sum(curvatures * x**2), x, preconditioner=lrx.preconditioner_of(state))
    np.testing.assert_allclose(found.largest, jnp.max(eigenvalues), rtol=1e-5)
    rate = float(lrx.learning_rate(state))
    limit = float(lrx.stability_limit(state))

    def radius(curvature):  # of x'' = x' + beta (x' - x) - rate (1 - beta) curvature x'
        return np.max(np.abs(np.roots([1, -(1 + beta) + rate * (1 - beta) * curvature, beta])))

    assert radius(0.999 * limit) < 1 < radius(1.001 * limit)
    return state, x


CURVATURES = jnp.array([1.0, 3.0, 0.2])
PRECONDITIONED = {
    "adam": (lrx.adam(0.01, b1=0.8, eps=0.1), 0.8),
    "adam, within the root": (lrx.adam(0.01, b1=0.8, eps=0.1, eps_root=0.3), 0.8),
    "adamw": (lrx.adamw(0.01, b1=0.8, eps=0.1), 0.8),
    "rmsprop": (lrx.rmsprop(0.01, eps=0.1), 0.0),
    "rmsprop, outside of the root": (lrx.rmsprop(0.01, eps=0.1, eps_root=False), 0.0),
    "adagrad": (lrx.adagrad(0.01, eps=0.1), 0.0),
}


@pytest.mark.parametrize("name", PRECONDITIONED)
def test_the_preconditioner_is_what_the_method_divides_by(name):
    tx, beta = PRECONDITIONED[name]
    state, x = frozen(tx, CURVATURES, beta)
    assert jax.tree.structure(lrx.preconditioner_of(state)) == jax.tree.structure(x)
    # At a gradient of 0 the squares do not change to first order, so that the derivative of the update is that with the
    # preconditioner held.
    zero = jnp.zeros(3)
    _, derivative, after = jax.jvp(lambda g: tx.update(g, state, zero), [zero], [jnp.ones(3)], has_aux=True)
    np.testing.assert_allclose(derivative, -0.01 * (1 - beta) / lrx.preconditioner_of(after), rtol=1e-5)


def test_momentum_after_rmsprop_has_both():
    tx = optax.chain(lrx.scale_by_rmsprop(), lrx.scale_by_momentum(0.5), lrx.constant(0.1))
    _, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(lrx.stability_limit(state), 3 / 0.1, rtol=1e-6)
    np.testing.assert_allclose(lrx.preconditioner_of(state), 0.1, rtol=1e-3)


def test_the_limit_is_swept_and_infinite_at_a_rate_of_0():
    limits = jax.jit(jax.vmap(lambda rate: lrx.stability_limit(lrx.adam(rate, b1=0.5).init(jnp.zeros(2)))))
    np.testing.assert_allclose(limits(jnp.array([0.0, 0.1, 0.5])), [np.inf, 60, 12], rtol=1e-6)


class OwnState(NamedTuple):
    """A state of which nothing is known, unless it tells."""

    numbers: jax.Array


class ToldState(NamedTuple):
    """A state that tells its limit."""

    numbers: jax.Array

    def stable_product(self):
        return self.numbers


def own(kind):
    return optax.GradientTransformation(lambda params: kind(jnp.float32(5.0)), lambda g, state, params=None: (g, state))


def test_a_state_of_ones_own_tells_its_limit():
    state = optax.chain(own(ToldState), lrx.sgd(0.5)).init(jnp.zeros(2))
    assert float(lrx.stability_limit(state)) == 10.0


PARAMS = {"a": jnp.ones(2), "b": jnp.ones(2)}
UNKNOWN = {
    "own": (optax.chain(own(OwnState), lrx.sgd(0.1)), "got OwnState"),
    "optax": (optax.inject_hyperparams(optax.adam)(0.1), "got ScaleByAdamState: that of gradient descent"),
    "momo": (lrx.momo(0.1), "got MomoState"),
    "dog": (lrx.dog(), "got DogState"),
    "prodigy": (lrx.prodigy(), "got ProdigyState"),
    "schedule_free_sgd": (lrx.schedule_free_sgd(), "got ScheduleFreeState"),
    "mechanic": (lrx.mechanic(lrx.sgd(0.1)), "got MechanicState"),
    "hypergradient_sgd": (lrx.hypergradient_sgd(), "got HypergradientState"),
    "sam": (contrib.sam(lrx.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.1))), "got that of optax.contrib"),
    "two": (
        optax.chain(lrx.scale_by_momentum(0.5), lrx.scale_by_momentum(0.5), lrx.constant(0.1)),
        "^the state must hold one momentum, got momentum, momentum",
    ),
    "groups": (
        lrx.group_rates(lrx.sgd(0.1), {"a": "x", "b": "y"}, {"x": 1.0, "y": 2.0}),
        "^the state must hold one rate for all parameters, got the groups x, y",
    ),
    "partition": (
        optax.partition({"x": lrx.sgd(0.1), "y": lrx.adam(0.1)}, {"a": "x", "b": "y"}),
        "^the state must belong to one method for all parameters, got groups x, y",
    ),
    "no rate": (optax.scale_by_sign(), "holds no learning rate"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_method_without_theory_is_refused_by_name(name):
    tx, message = UNKNOWN[name]
    with pytest.raises(ValueError, match=message):
        lrx.stability_limit(tx.init(PARAMS))


def test_what_is_not_a_state_and_two_preconditioners_are_refused():
    with pytest.raises(TypeError, match=r"^stability_limit reads the state of a transformation"):
        lrx.stability_limit(lrx.sgd(0.1))
    with pytest.raises(TypeError, match=r"^preconditioner_of reads an optimizer state, got None"):
        lrx.preconditioner_of(None)
    with pytest.raises(ValueError, match=r"^the state must hold one preconditioner, got rmsprop, adagrad"):
        lrx.preconditioner_of(
            optax.chain(lrx.scale_by_rmsprop(), lrx.scale_by_adagrad(), lrx.constant(0.1)).init(PARAMS)
        )
