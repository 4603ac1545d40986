"""Wrapped in any two of optax's, flax's and lrx's wrappers, the rate that is read is the rate that was applied.

And optax's own directions give optax's own updates when an lrx rate ends their chain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from branches import taking_branches
from flax import nnx
from flax.training.train_state import TrainState
from laws.test_problems import DIRECTIONS
from problems import assert_trees_close, gradient_stream, vector_params
from tiers import first_tier_has

import lrx
from lrx.feedback import controller

PARAMS = {"w": jnp.zeros(2), "b": jnp.zeros(())}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def labels(params: Any) -> Any:
    return jax.tree.map(lambda _: "all", params)


def everywhere(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1e6), tx),
    "named_chain": lambda tx: optax.named_chain(("first", optax.identity()), ("last", tx)),
    "masked": lambda tx: optax.masked(tx, everywhere),
    "partition": lambda tx: optax.partition({"all": tx}, labels),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda unused: tx)(unused=7.0),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step, **_: step != 1, forward_extra_args=True),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step >= 0),
    "flatten": optax.flatten,
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
    "reduce_on_plateau": lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau(factor=0.5, patience=1)),
    "accumulate": lambda tx: lrx.accumulate(tx, 2),
    "group_rates": lambda tx: lrx.group_rates(tx, lambda path, leaf: "all", {"all": 0.5}),
    "controller": lambda tx: optax.chain(tx, lrx.reduce_on_plateau(factor=0.5, patience=0, feedback="observed")),
    "multiplier": lambda tx: optax.chain(tx, lrx.warmup(1.0, 4, init_value=0.5).multiplier()),
    "master_weights": lrx.master_weights,
    "averaged": lrx.averaged,
    "rollback_on_divergence": lambda tx: lrx.rollback_on_divergence(tx, feedback="observed"),
}


class HalvedState(NamedTuple):
    seen: jax.Array  # () int32: losses


def halve_after_a_loss() -> lrx.Controller:
    """Build the smallest controller that follows what it observes: a method of lrx takes most of a step's time."""

    def update(memory, value):
        del value
        return jnp.where(memory.seen >= 1, 0.5, 1.0), HalvedState(memory.seen + 1)

    return controller(init=lambda params: HalvedState(jnp.int32(0)), update=update, feedback="observed")


def inner() -> Any:
    return lrx.sgd(lrx.linear_decay(0.8, 16) * halve_after_a_loss())


def only(rates: dict[str, jax.Array]) -> float:
    (rate,) = rates.values()
    return float(rate)


# What stands around the others, and what changes how often, or by what, they act.
OUTER = [name for name in WRAPPERS if name not in ("named_chain", "flatten", "conditionally_transform")]
WITHIN = (
    "partition",
    "MultiSteps",
    "apply_if_finite",
    "inject_hyperparams",
    "conditionally_mask",
    "reduce_on_plateau",
    "accumulate",
    "group_rates",
    "controller",
    "rollback_on_divergence",
)
AT_EVERY_CALL = ("reduce_on_plateau", "controller", "multiplier")  # move on in calls in which the rest waits
PAIRS = [
    (outer, within)
    for outer, within in itertools.product(OUTER, WITHIN)
    # optax's own controller asks for the loss, which these two do not pass on.
    if not (within == "reduce_on_plateau" and outer in ("MultiSteps", "split_real_and_imaginary"))
]


GATHERING = ("MultiSteps", "accumulate", "conditionally_mask")


# The first tier has every wrapper on either side: each outer one with two, in turn.
@pytest.mark.parametrize(
    ("outer", "within"),
    [
        pytest.param(
            outer,
            within,
            id=f"{outer} of {within}",
            marks=[] if (OUTER.index(outer) - WITHIN.index(within)) % 5 == 0 else [pytest.mark.slow],
        )
        for outer, within in PAIRS
    ],
)
def test_within_two_wrappers_the_rate_that_is_read_is_the_applied_one(outer, within):
    tx = optax.with_extra_args_support(WRAPPERS[outer](WRAPPERS[within](inner())))
    with taking_branches():
        params, state = PARAMS, tx.init(PARAMS)
        first, applied = only(lrx.learning_rates(state)), []
        for _ in range((3, 5, 8)[(outer in GATHERING) + (within in GATHERING)]):
            state = lrx.observe(state, value=1.0)
            updates, state = tx.update(ONES, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
            rate = -float(updates["b"])
            np.testing.assert_array_equal(updates["w"], -rate)
            if rate:
                applied.append(rate)
            # A call that gathers or is skipped leaves the rate as it was.
            if rate or outer not in AT_EVERY_CALL:
                shown = only(lrx.learning_rates(state))
                np.testing.assert_allclose(shown, applied[-1] if applied else first, rtol=1e-5)
    assert len(set(applied)) > 1
    if outer not in AT_EVERY_CALL:
        np.testing.assert_allclose(applied[0], first, rtol=1e-6)


class Model(nnx.Module):
    def __init__(self) -> None:
        self.w, self.b = nnx.Param(PARAMS["w"]), nnx.Param(PARAMS["b"])


def in_nnx(tx: Any) -> Any:
    """Yield, step by step, the bias and the rate that is read from the optimizer."""
    model = Model()
    optimizer = nnx.Optimizer(model, optax.with_extra_args_support(tx), wrt=nnx.Param)
    ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    while True:
        optimizer.opt_state = lrx.observe(optimizer.opt_state, value=1.0)
        optimizer.update(model, ones, value=1.0)
        yield float(model.b[...]), lrx.learning_rates(optimizer)


def in_train_state(tx: Any) -> Any:
    train_state = TrainState.create(apply_fn=only, params=PARAMS, tx=tx)
    while True:
        train_state = train_state.replace(opt_state=lrx.observe(train_state.opt_state, value=1.0))
        train_state = train_state.apply_gradients(grads=ONES)
        yield float(train_state.params["b"]), lrx.learning_rates(train_state)


def in_lookahead(tx: Any) -> Any:
    both = optax.lookahead(tx, sync_period=100, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = both.init(params)
    while True:
        state = lrx.observe(state, value=1.0)
        updates, state = both.update(ONES, state, params)
        params = optax.apply_updates(params, updates)
        yield float(params.fast["b"]), lrx.learning_rates(state)


OUTERMOST = {"nnx.Optimizer": in_nnx, "TrainState": in_train_state, "lookahead": in_lookahead}
LOOPS = [
    (loop, wrapper)
    for loop, wrapper in itertools.product(OUTERMOST, WRAPPERS)
    if loop == "nnx.Optimizer" or wrapper != "reduce_on_plateau"  # which asks for the loss
]


@pytest.mark.parametrize(("loop", "wrapper"), LOOPS, ids=[f"{loop} with {wrapper}" for loop, wrapper in LOOPS])
def test_in_a_training_loop_the_rate_that_is_read_is_the_applied_one(loop, wrapper):
    with taking_branches():
        before = 0.0
        for at, rates in itertools.islice(OUTERMOST[loop](WRAPPERS[wrapper](inner())), 4):
            if at != before:
                np.testing.assert_allclose(only(rates), before - at, rtol=1e-5)
            before = at
    assert before < 0


# ------------------------------------------------------------------------------ optax's own, with a rate that is lrx's


def updates_of(tx: Any) -> list[Any]:
    """Return the updates of three steps, and the last state."""
    params = vector_params()
    tx = optax.with_extra_args_support(tx)
    with taking_branches():
        state, rows = tx.init(params), []
        for gradients in gradient_stream(params, 3):
            updates, state = tx.update(gradients, state, params, value=1.0)
            params = optax.apply_updates(params, updates)
            rows.append(updates)
    return rows, state


def both_schedules() -> tuple[Any, Any]:
    return lrx.linear_decay(0.1, 8, end_value=0.02), optax.linear_schedule(0.1, 0.02, 8)


# All but one whose update alone takes seconds outside of a compiled program.
@pytest.mark.parametrize(
    "name", first_tier_has(["adam", "lion", "lamb"], [name for name in DIRECTIONS if name != "lbfgs"])
)
def test_a_direction_of_optax_with_an_lrx_rate_gives_optaxs_updates(name):
    make, _ = DIRECTIONS[name]
    ours, theirs = both_schedules()
    rows, state = updates_of(optax.chain(make(), ours))
    expected, _ = updates_of(optax.chain(make(), optax.scale_by_learning_rate(theirs)))
    assert_trees_close(rows, expected, rtol=1e-6)
    np.testing.assert_allclose(lrx.learning_rate(state), ours(2), rtol=1e-6)


ALIASES: dict[str, Callable[[Any], Any]] = {
    "adabelief": optax.adabelief,
    "adadelta": optax.adadelta,
    "adafactor": optax.adafactor,
    "adagrad": optax.adagrad,
    "adam": optax.adam,
    "adamax": optax.adamax,
    "adamaxw": optax.adamaxw,
    "adamw": optax.adamw,
    "adan": optax.adan,
    "amsgrad": optax.amsgrad,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "lion": optax.lion,
    "nadam": optax.nadam,
    "nadamw": optax.nadamw,
    "novograd": optax.novograd,
    "optimistic_gradient_descent": optax.optimistic_gradient_descent,
    "radam": optax.radam,
    "rmsprop": lambda learning_rate: optax.rmsprop(learning_rate, momentum=0.9),
    "sgd": lambda learning_rate: optax.sgd(learning_rate, momentum=0.9, nesterov=True),
    "sign_sgd": optax.sign_sgd,
    "yogi": optax.yogi,
    "contrib.acprop": optax.contrib.acprop,
    "contrib.ademamix": optax.contrib.ademamix,
    "contrib.muon": optax.contrib.muon,
}


@pytest.mark.parametrize("name", first_tier_has(["adam", "adamw", "sgd", "lion", "contrib.muon"], ALIASES))
def test_an_lrx_schedule_in_an_optimizer_of_optax_is_optaxs_schedule(name):
    ours, theirs = both_schedules()
    expected, _ = updates_of(ALIASES[name](theirs))
    rows, _ = updates_of(ALIASES[name](ours))
    # optax computes a + (b - a) t / T in float32, which is right to two roundings.
    assert_trees_close(rows, expected, rtol=1e-6, atol=1e-7)
    injected, state = updates_of(optax.inject_hyperparams(ALIASES[name])(learning_rate=ours))
    # Beside optax's own injection, which rounds the other hyperparameters to float32 first.
    expected, _ = updates_of(optax.inject_hyperparams(ALIASES[name])(learning_rate=theirs))
    assert_trees_close(injected, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(lrx.learning_rate(state), ours(2), rtol=1e-6)
