"""A chain that would ascend is refused before anything is trained, and no other chain is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CASES, SCHEDULES, STATES
from problems import mixed_params, vector_params

import lrx
from lrx.direction import MOST_ELEMENTS, require_descent
from lrx.training import Batches, Workload, train

UNSIGNED = ("scale_by_", "multiplier", "controller * controller", "update_ratio")
RATE = lrx.cosine_decay(0.1, 50)


def complete(name: str, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Close a chain of what applies no sign by itself."""
    unsigned = name.startswith(UNSIGNED) or isinstance(tx, lrx.Controller)
    return optax.chain(tx, optax.scale(-0.1)) if unsigned else tx


# The first case of each factory; what others change is no sign.
@pytest.mark.parametrize("name", {case.make: name for name, case in reversed(STATES.items()) if name in CASES}.values())
def test_no_healthy_chain_is_refused(name):
    require_descent(complete(name, CASES[name]()), vector_params())


UPHILL = ("adamw", "scale_by_adam", "prodigy", "schedule_free_sgd", "accumulate", "early_stopping", "multiplier")


@pytest.mark.parametrize("name", UPHILL)
def test_what_applies_no_sign_or_a_second_one_is_refused(name):
    tx = CASES[name]()
    if complete(name, tx) is tx:
        tx = optax.chain(tx, optax.scale(-1.0))
    with pytest.raises(ValueError, match="tx must descend, got updates that ascend"):
        require_descent(tx, vector_params())


@pytest.mark.parametrize("name", ["constant", "warmup", "one_cycle"])
def test_a_schedule_behind_an_optimizer_with_a_rate_is_refused_with_the_way_out(name):
    schedule = SCHEDULES[name]()
    with pytest.raises(ValueError, match=r"it holds an lrx rate.*schedule\.multiplier\(\)"):
        require_descent(optax.chain(optax.adam(0.1), schedule), vector_params())
    require_descent(optax.chain(optax.adam(0.1), schedule.multiplier()), vector_params())


@pytest.mark.parametrize(
    "tx",
    [
        lrx.prodigy(lrx.warmup(1.0, 100)),
        lrx.accumulate(lrx.adam(lrx.warmup(RATE, 3)), 60),
        lrx.adam(lrx.join([0.0, 0.1], [1000])),
        lrx.adam(0.0),
        optax.apply_if_finite(optax.adam(0.1), 3),
        optax.MultiSteps(optax.adam(0.1), 20),
        optax.inject_hyperparams(optax.adamw)(learning_rate=RATE),
        optax.lbfgs(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
        optax.contrib.schedule_free_adamw(0.1),
        optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
        optax.partition({"a": lrx.adam(0.1), "b": optax.set_to_zero()}, {"a": "a", "b": "b"}),
        lrx.rollback_on_divergence(lrx.sgd(1e6)),
    ],
    ids=lambda tx: type(tx).__name__,
)
def test_a_first_update_of_zero_is_not_an_ascent(tx):
    require_descent(tx, vector_params())


def test_a_step_uphill_that_is_taken_back_is_not_an_ascent():
    def update(updates, state, params=None, **extra_args):
        uphill = state % 2 == 0
        step = jax.tree.map(lambda g: jnp.where(uphill, 0.05 * jnp.sign(g), -0.05 - 0.1 * g), updates)
        return step, state + 1

    require_descent(optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), update), vector_params())


def test_one_group_that_ascends_is_named():
    labels = {"a": "good", "b": "bad"}
    tx = optax.partition({"good": lrx.adam(0.1), "bad": optax.scale_by_adam()}, labels)
    with pytest.raises(ValueError, match=r"ascend at 'b'"):
        require_descent(tx, vector_params())


def test_two_rates_on_one_path_are_named():
    with pytest.raises(ValueError, match="2 learning rates on the path"):
        require_descent(optax.chain(lrx.adam(0.1), RATE), vector_params())


def test_mixed_types_and_parameters_too_large_to_probe_are_no_trouble():
    require_descent(lrx.adam(0.1), mixed_params())
    require_descent(lrx.sgd(0.1), {"z": jnp.zeros(2, jnp.complex64)})
    large = jax.ShapeDtypeStruct((MOST_ELEMENTS, 1 << 20), jnp.float32)
    require_descent(lrx.adam(0.1), large)
    with pytest.raises(ValueError, match="tx must descend"):
        require_descent(optax.scale_by_adam(), large)


@pytest.mark.parametrize("tx", [optax.chain(optax.adam(0.1), RATE), optax.scale_by_adam()], ids=["two", "none"])
def test_train_refuses_before_it_trains(tx):
    def loss_fn(w, x, key):
        if isinstance(w, jax.core.Tracer):
            pytest.fail("the loss was traced")
        return jnp.mean((w * x) ** 2)

    workload = Workload.from_functions(loss_fn, lambda key: jnp.ones(()), Batches(jnp.ones(8), 4), name="line")
    with pytest.raises(ValueError, match="tx must descend"):
        train(workload, tx, steps=2)
