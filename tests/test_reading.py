"""What a state says about its rate, and what it takes from outside."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
import lrx.editing
import lrx.rate_paths
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.reading import NoRateError
from lrx.transformations import factory

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([0.3, -0.7]), "b": jnp.array(2.0)}
LABELS = {"w": "body", "b": "head"}


def linear() -> lrx.Schedule:
    return lrx.linear_decay(0.8, decay_steps=8)


def plateau(**arguments: Any) -> Controller:
    return lrx.reduce_on_plateau(**{"factor": 0.5, "patience": 0, **arguments})


def advance(tx: Any, state: Any, steps: int = 1, **extra_args: Any) -> Any:
    for _ in range(steps):
        _, state = tx.update(GRADS, state, PARAMS, **extra_args)
    return state


def rate_of(state: Any) -> float:
    return round(float(lrx.learning_rate(state)), 6)


# --- learning_rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tx", [linear(), lrx.sgd(linear()), lrx.sgd(linear(), momentum=0.9), lrx.adam(linear()), lrx.heavy_ball(linear())]
)
def test_the_rate_is_that_of_the_latest_update_and_before_the_first_schedule_of_0(tx: Any) -> None:
    state = tx.init(PARAMS)
    shown = lrx.learning_rate(state)
    assert shown.shape == ()
    assert shown.dtype == jnp.float32
    seen = [rate_of(state)]
    for _ in range(3):
        state = advance(tx, state)
        seen.append(rate_of(state))
    assert seen == [0.8, 0.8, 0.7, 0.6]


def test_the_rate_is_the_product_of_the_rates_on_the_path() -> None:
    tx = optax.chain(plateau(), linear().multiplier(), lrx.adam(linear() * plateau()), plateau())
    state = advance(tx, tx.init(PARAMS), steps=2, value=1.0)
    assert rate_of(state) == round(0.5 * 0.7 * (0.7 * 0.5) * 0.5, 6)


def test_the_rate_is_0_once_stopped() -> None:
    @factory
    def stop(after: int) -> Controller:
        def update(count: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
            return (count < after).astype(jnp.float32), count + 1

        return controller(init=lambda params: jnp.zeros([], jnp.int32), update=update)

    tx = lrx.adam(linear() * stop(2))
    state = advance(tx, tx.init(PARAMS), steps=2, value=1.0)
    assert rate_of(state) == 0.7
    assert rate_of(advance(tx, state, value=1.0)) == 0.0


@pytest.mark.parametrize("schedules", [2, 3])
def test_two_rates_on_one_path_raise_and_name_the_product(schedules: int) -> None:
    state = optax.chain(*[linear() for _ in range(schedules)]).init(PARAMS)
    for read in (lrx.learning_rate, lrx.learning_rates, lrx.monitor, lambda s: lrx.scale_learning_rate(s, 0.5)):
        with pytest.raises(
            ValueError, match=rf"holds {schedules} learning rates on the path.*schedule \* other.*multiplier"
        ):
            read(state)
    with pytest.raises(ValueError, match="2 learning rates"):
        lrx.learning_rate(optax.chain(lrx.adam(linear()), lrx.constant(0.1)).init(PARAMS))
    nested = optax.chain(optax.partition({"body": linear(), "head": optax.identity()}, LABELS), lrx.sgd(0.1))
    with pytest.raises(ValueError, match=r"2 learning rates on the path of group 'body'.*optax.partition"):
        lrx.learning_rates(nested.init(PARAMS))


@pytest.mark.parametrize(
    "state",
    [
        optax.adamw(lrx.linear_decay(0.1, 10)).init(PARAMS),
        optax.sgd(0.1).init(PARAMS),
        plateau().init(PARAMS),
        optax.chain(optax.adam(1e-3), plateau()).init(PARAMS),
        (),
    ],
    ids=["adamw", "sgd", "controller", "chain", "empty"],
)
def test_a_state_without_a_rate_names_the_alternatives(state: Any) -> None:
    message = (
        r"no learning rate(, got \(.*\))?: .*lrx.adam\(schedule\).*"
        r"optax.inject_hyperparams\(optax.adamw\)\(learning_rate="
    )
    for read in (lrx.learning_rate, lrx.learning_rates, lambda s: lrx.scale_learning_rate(s, 0.5)):
        with pytest.raises(NoRateError, match=message):
            read(state)
    assert issubclass(NoRateError, ValueError)


@pytest.mark.parametrize(
    "given", [3.0, True, lrx.Batches((np.zeros((4, 2)),), batch_size=2)], ids=["number", "flag", "object"]
)
def test_what_is_no_state_is_named(given: Any) -> None:
    for read in (lrx.learning_rate, lrx.monitor, lrx.stopped, lrx.update_count):
        with pytest.raises(TypeError, match=f"reads an optimizer state.*, got {re.escape(repr(given))}: "):
            read(given)


# --- groups -------------------------------------------------------------------------------------------------------


def test_several_groups_raise_and_name_them() -> None:
    tx = optax.partition({"body": lrx.sgd(linear()), "head": lrx.adam(2.0)}, LABELS)
    state = advance(tx, tx.init(PARAMS), steps=2)
    with pytest.raises(ValueError, match=r"\['body', 'head'\].*group='body'.*learning_rates\(state\)"):
        lrx.learning_rate(state)
    assert {label: round(float(rate), 6) for label, rate in lrx.learning_rates(state).items()} == {
        "body": 0.7,
        "head": 2.0,
    }
    assert float(lrx.learning_rate(state, group="head")) == 2.0
    with pytest.raises(ValueError, match=r"group must be one of \['body', 'head'\], got group='tail'"):
        lrx.learning_rate(state, group="tail")
    with pytest.raises(ValueError, match="group must be left out, got group='body'"):
        lrx.learning_rate(lrx.sgd(0.1).init(PARAMS), group="body")
    assert list(lrx.learning_rates(lrx.sgd(0.1).init(PARAMS))) == [""]


def test_outer_factors_are_multiplied_into_each_group() -> None:
    groups = optax.partition({"body": lrx.sgd(linear()), "head": lrx.sgd(2.0)}, LABELS)
    tx = optax.chain(plateau(), groups, lrx.constant(0.25).multiplier())
    state = advance(tx, tx.init(PARAMS), steps=2, value=1.0)
    rates = lrx.learning_rates(state)
    np.testing.assert_allclose([rates["body"], rates["head"]], [0.7 * 0.125, 2.0 * 0.125], rtol=1e-6)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    np.testing.assert_allclose(updates["b"], -2.0 * 0.25 * 2.0, rtol=1e-6)


def test_a_factor_in_one_group_acts_on_that_group() -> None:
    tx = optax.chain(optax.partition({"body": plateau(), "head": optax.identity()}, LABELS), lrx.sgd(linear()))
    state = advance(tx, tx.init(PARAMS), steps=2, value=1.0)
    rates = lrx.learning_rates(state)
    np.testing.assert_allclose([rates["body"], rates["head"]], [0.35, 0.7], rtol=1e-6)
    both = optax.chain(
        optax.partition({"body": plateau(), "head": optax.identity()}, LABELS),
        optax.partition({"body": lrx.sgd(0.1), "head": lrx.sgd(1.0)}, LABELS),
    )
    rates = lrx.learning_rates(advance(both, both.init(PARAMS), steps=2, value=1.0))
    np.testing.assert_allclose([rates["body"], rates["head"]], [0.05, 1.0], rtol=1e-6)


def test_groups_within_groups_are_named_by_path() -> None:
    inner = optax.partition({"fast": lrx.sgd(1.0), "slow": lrx.sgd(0.1)}, {"w": "fast", "b": "slow"})
    tx = optax.partition({"in": inner, "out": lrx.sgd(linear())}, {"w": "in", "b": "out"})
    assert sorted(lrx.learning_rates(tx.init(PARAMS))) == ["in/fast", "in/slow", "out"]


def test_frozen_groups_are_left_out() -> None:
    tx = optax.partition({"body": lrx.adam(linear()), "head": optax.set_to_zero()}, LABELS)
    state = advance(tx, tx.init(PARAMS), steps=2)
    assert list(lrx.learning_rates(state)) == ["body"]
    assert rate_of(state) == 0.7
    assert list(lrx.monitor(state)) == ["learning_rate/body", "scale/body", *[f"body/{key}" for key in ADAM_KEYS]]


def test_groups_that_hold_no_rate_do_not_divide_it() -> None:
    decay = optax.partition({"body": optax.add_decayed_weights(1e-4), "head": optax.identity()}, LABELS)
    tx = optax.chain(optax.scale_by_adam(), decay, linear())
    assert list(lrx.learning_rates(tx.init(PARAMS))) == [""]
    assert rate_of(tx.init(PARAMS)) == 0.8
    grouped = optax.chain(decay, optax.partition({"x": lrx.sgd(0.1), "y": lrx.sgd(1.0)}, {"w": "x", "b": "y"}))
    assert sorted(lrx.learning_rates(grouped.init(PARAMS))) == ["x", "y"]


def test_two_partitions_by_different_labels_cannot_be_read() -> None:
    tx = optax.chain(
        optax.partition({"body": plateau(), "head": optax.identity()}, LABELS),
        optax.partition({"x": lrx.sgd(0.1), "y": lrx.sgd(1.0)}, {"w": "x", "b": "y"}),
    )
    with pytest.raises(ValueError, match=r"one set of groups .*\['body', 'head'\] and then \['x', 'y'\].*same labels"):
        lrx.learning_rates(tx.init(PARAMS))


def test_labels_need_not_be_strings() -> None:
    tx = optax.partition({0: lrx.sgd(0.1), 1: lrx.sgd(1.0)}, {"w": 0, "b": 1})
    assert sorted(lrx.learning_rates(tx.init(PARAMS))) == ["0", "1"]


# --- scale_learning_rate ------------------------------------------------------------------------------------------


def test_scaling_acts_from_the_next_update_on_and_repeats_multiply() -> None:
    tx = lrx.adam(linear() * plateau(patience=100))
    state = tx.init(PARAMS)
    halved = lrx.scale_learning_rate(state, 0.5)
    assert rate_of(state) == 0.8  # the given state is untouched
    assert rate_of(halved) == 0.4  # what the first update will use
    state = advance(tx, halved, value=1.0)
    assert rate_of(state) == 0.4
    state = lrx.scale_learning_rate(state, 0.5)
    assert rate_of(state) == 0.4  # what the latest update has used
    state = advance(tx, state, value=1.0)
    assert rate_of(state) == 0.175
    state = advance(tx, lrx.scale_learning_rate(lrx.scale_learning_rate(state, 2.0), 2), value=1.0)
    assert rate_of(state) == 0.6


def test_scaling_a_velocity_method_is_scaling_its_rate() -> None:
    for make in (lrx.heavy_ball, lrx.nesterov):
        by_hand, built = make(0.1), make(lrx.step_decay(0.1, 2, factor=0.5))
        states = [by_hand.init(PARAMS), built.init(PARAMS)]
        for step in range(4):
            if step == 2:
                states[0] = lrx.scale_learning_rate(states[0], 0.5)
            left, states[0] = by_hand.update(GRADS, states[0], PARAMS)
            right, states[1] = built.update(GRADS, states[1], PARAMS)
            np.testing.assert_allclose(left["w"], right["w"], rtol=1e-6)


def test_scaling_keeps_structure_types_and_the_compiled_program() -> None:
    tx = lrx.adam(linear() * plateau())
    traces = []

    @jax.jit
    def step(state: Any) -> Any:
        traces.append(1)
        return tx.update(GRADS, state, PARAMS, value=1.0)[1]

    state = step(tx.init(PARAMS))
    scaled = state
    for factor in (0.5, 2, np.float64(0.5), jnp.float32(0.5), jnp.bfloat16(0.5), np.array(1)):
        scaled = lrx.scale_learning_rate(scaled, factor)
        assert jax.tree.structure(scaled) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(state), strict=True):
            assert (a.dtype, a.shape, a.weak_type) == (b.dtype, b.shape, b.weak_type)
    step(scaled)
    assert len(traces) == 1


def test_scaling_works_traced_and_for_each_member_of_a_vmapped_state() -> None:
    tx = lrx.sgd(linear())
    state = jax.jit(lrx.scale_learning_rate)(tx.init(PARAMS), 0.25)
    assert rate_of(state) == 0.2
    states = jax.vmap(lambda rate: lrx.adam(rate).init(PARAMS))(jnp.array([0.1, 0.2, 0.3]))
    assert lrx.learning_rate(states).shape == (3,)
    scaled = jax.vmap(lrx.scale_learning_rate)(states, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(lrx.learning_rate(scaled), [0.1, 0.4, 0.9], rtol=1e-6)
    np.testing.assert_allclose(lrx.learning_rate(lrx.scale_learning_rate(states, 0.5)), [0.05, 0.1, 0.15], rtol=1e-6)
    assert jax.vmap(lrx.monitor)(states)["learning_rate"].shape == (3,)


def test_scaling_reaches_every_group() -> None:
    tx = optax.partition({"body": lrx.heavy_ball(linear()), "head": lrx.sgd(2.0)}, LABELS)
    state = advance(tx, lrx.scale_learning_rate(tx.init(PARAMS), 0.5))
    rates = lrx.learning_rates(state)
    np.testing.assert_allclose([rates["body"], rates["head"]], [0.4, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "error", "said"),
    [
        (-0.5, ValueError, r"factor must be a finite number >= 0, got factor=-0\.5: a negative rate would ascend"),
        (float("nan"), ValueError, "factor must be a finite number"),
        (float("inf"), ValueError, "factor must be a finite number"),
        (True, TypeError, "factor must be a number, got factor=True"),
        ("2", TypeError, "factor must be a number, got factor='2'"),
        (np.ones(3), ValueError, r"factor must be a scalar, got factor of shape \(3,\): .*jax.vmap"),
    ],
)
def test_factors_that_are_none_are_refused(factor: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        lrx.scale_learning_rate(lrx.sgd(0.1).init(PARAMS), factor)


class Carrier(NamedTuple):
    opt_state: Any


def test_objects_that_carry_a_state_are_read_but_not_written() -> None:
    class Trainer:
        opt_state = lrx.sgd(0.1 * plateau()).init(PARAMS)

    assert rate_of(Trainer()) == 0.1
    assert rate_of(Carrier(Trainer.opt_state)) == 0.1
    for write in (lambda s: lrx.scale_learning_rate(s, 0.5), lambda s: lrx.observe(s, value=1.0)):
        with pytest.raises(
            TypeError, match=r"takes an optimizer state .*, got a Trainer: give it x.opt_state, and put"
        ):
            write(Trainer())
    # States of optax's own have a field of that name; they are states all the same.
    assert rate_of(lrx.scale_learning_rate(Carrier(Trainer.opt_state), 0.5)) == 0.05


# --- observe ------------------------------------------------------------------------------------------------------


def test_an_observation_is_consumed_once() -> None:
    tx = lrx.sgd(0.8 * plateau(feedback="observed"))
    state = advance(tx, tx.init(PARAMS), steps=3)
    assert rate_of(state) == 0.8  # nothing observed, nothing done
    state = advance(tx, lrx.observe(state, value=1.0), steps=5)
    assert rate_of(state) == 0.8
    state = advance(tx, lrx.observe(state, value=1.0))
    assert rate_of(state) == 0.4
    assert rate_of(advance(tx, state, steps=5)) == 0.4  # not consumed again


def test_observed_controllers_need_no_value_and_take_no_notice_of_one() -> None:
    tx = lrx.sgd(0.8 * plateau(feedback="observed"))
    state = advance(tx, tx.init(PARAMS), steps=5, value=1.0)
    assert rate_of(state) == 0.8
    assert not np.isfinite(float(lrx.monitor(state)["reduce_on_plateau/best_value"]))


def test_a_second_observation_replaces_the_first() -> None:
    tx = lrx.sgd(0.8 * plateau(feedback="observed"))
    state = lrx.observe(lrx.observe(tx.init(PARAMS), value=5.0), value=2.0)
    assert float(lrx.monitor(advance(tx, state))["reduce_on_plateau/best_value"]) == 2.0


def test_observe_works_traced_and_on_vmapped_states() -> None:
    def one(rate: jax.Array, loss: jax.Array) -> jax.Array:
        tx = lrx.sgd(rate * plateau(feedback="observed"))
        state = advance(tx, lrx.observe(tx.init(PARAMS), value=1.0))
        return lrx.learning_rate(advance(tx, lrx.observe(state, value=loss)))

    rates = jax.jit(jax.vmap(one))(jnp.array([0.8, 0.4]), jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(rates, [0.8, 0.2], rtol=1e-6)


def test_observing_without_a_controller_says_how_to_add_one() -> None:
    for tx in (lrx.adam(0.1), linear().multiplier(), optax.adam(1e-3), lrx.sgd(0.1 * plateau())):
        with pytest.raises(ValueError, match=r'holds no controller that takes observations: .*feedback="observed"'):
            lrx.observe(tx.init(PARAMS), value=1.0)


# --- monitor ------------------------------------------------------------------------------------------------------


PLATEAU = ["factor", "scale", "best_value", "plateau_count", "cooldown_count", "value_count", "accumulation_size"]
ADAM_KEYS = ["adam/b1", "adam/b2", "adam/first_weight", "adam/second_weight"]
PLATEAU_KEYS = [f"reduce_on_plateau/{field}" for field in PLATEAU]


@pytest.mark.parametrize(
    ("tx", "keys"),
    [
        (linear(), ["learning_rate", "scale"]),
        (lrx.sgd(0.1, momentum=0.9), ["learning_rate", "scale", "momentum/momentum"]),
        (lrx.adam(0.1), ["learning_rate", "scale", *ADAM_KEYS]),
        (lrx.adamw(0.1), ["learning_rate", "scale", "adamw/weight_decay", *ADAM_KEYS]),
        (
            lrx.accumulate(lrx.rmsprop(0.1), 2),
            ["learning_rate", "scale", "accumulation/gathered", "accumulation/every", "rmsprop/decay"],
        ),
        (
            lrx.group_rates(lrx.heavy_ball(0.1), LABELS, {"body": 1.0, "head": 0.1}),
            ["learning_rate/body", "learning_rate/head", "scale/body", "scale/head", "heavy_ball/momentum"],
        ),
        (lrx.heavy_ball(0.1), ["learning_rate", "scale", "heavy_ball/momentum"]),
        (lrx.nesterov(0.1 * plateau()), ["learning_rate", "scale", "nesterov/momentum", *PLATEAU_KEYS]),
        (optax.chain(optax.adam(1e-3), plateau()), ["factor", *PLATEAU_KEYS]),
        (optax.chain(lrx.sgd(0.1), linear().multiplier()), ["learning_rate", "scale", "factor"]),
        (
            lrx.sgd(plateau() * 0.1 * plateau()),
            ["learning_rate", "scale", *PLATEAU_KEYS, *[f"reduce_on_plateau_2/{field}" for field in PLATEAU]],
        ),
        (
            lrx.sgd(0.1 * plateau() * plateau(feedback="observed")),
            [
                *[
                    "learning_rate",
                    "scale",
                    *PLATEAU_KEYS,
                    "reduce_on_plateau_2/factor",
                    "reduce_on_plateau_2/observations",
                ],
                *[f"reduce_on_plateau_2/{field}" for field in PLATEAU[1:]],
            ],
        ),
        (
            optax.chain(plateau(), lrx.sgd(0.1), plateau()),
            [
                "learning_rate",
                "scale",
                "factor",
                *PLATEAU_KEYS,
                "factor_2",
                *[f"reduce_on_plateau_2/{field}" for field in PLATEAU],
            ],
        ),
        (
            optax.partition({"body": lrx.heavy_ball(0.1), "head": lrx.sgd(0.1 * plateau())}, LABELS),
            [
                "learning_rate/body",
                "learning_rate/head",
                "scale/body",
                "scale/head",
                "body/heavy_ball/momentum",
                *[f"head/{key}" for key in PLATEAU_KEYS],
            ],
        ),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
            ["learning_rate", "momentum"],
        ),
        (optax.adamw(1e-3), []),
        (
            optax.chain(optax.snapshot("norm", optax.tree.norm), optax.snapshot("all", lambda tree: tree), linear()),
            ["learning_rate", "scale", "norm"],
        ),
    ],
)
def test_monitor_names_are_stable_and_readable(tx: Any, keys: list[str]) -> None:
    state = tx.init(PARAMS)
    before = lrx.monitor(state)
    after = lrx.monitor(tx.update(GRADS, state, PARAMS, **({"value": 1.0} if "plateau" in str(keys) else {}))[1])
    assert list(before) == list(after) == keys
    assert all(jnp.shape(value) == () for value in after.values())
    compiled = jax.jit(lrx.monitor)(state)
    assert {key: float(value) for key, value in compiled.items()} == {
        key: float(value) for key, value in before.items()
    }


def test_monitor_shows_numbers_of_the_method_and_not_scalar_parameters() -> None:
    state = lrx.heavy_ball(0.1).init({"scalar": jnp.array(1.0)})
    assert list(lrx.monitor(state)) == ["learning_rate", "scale", "heavy_ball/momentum"]
    assert float(lrx.monitor(state)["heavy_ball/momentum"]) == np.float32(0.9)


def test_reading_runs_inside_a_compiled_scan() -> None:
    tx = lrx.adam(linear() * plateau(feedback="observed"))

    @jax.jit
    def run(state: Any) -> Any:
        def body(state: Any, loss: jax.Array) -> Any:
            state = tx.update(GRADS, state, PARAMS)[1]
            state = lrx.scale_learning_rate(state, jnp.where(loss > 5, 0.1, 1.0))
            return lrx.observe(state, value=loss), lrx.monitor(state)

        return jax.lax.scan(body, state, jnp.array([9.0, 1.0, 1.0, 1.0]))

    state, report = run(tx.init(PARAMS))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    # The observation of a step is taken by the next one.
    np.testing.assert_allclose(report["learning_rate"], [0.8, 0.7 * 0.1, 0.06, 0.05 * 0.5], rtol=1e-6)


def test_a_rate_that_a_method_computes_for_itself_is_read_but_not_scaled() -> None:
    tx, params = lrx.cocob(), jnp.ones(2)
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(lrx.learning_rate(state), jnp.linalg.norm(updates) / jnp.linalg.norm(params), rtol=1e-6)
    with pytest.raises(ValueError, match="holds no learning rate that could be scaled: its method, as cocob"):
        lrx.scale_learning_rate(state, 0.5)
    with pytest.raises(ValueError, match="holds no learning rate that could be scaled"):
        lrx.rollback_on_divergence(tx).init(params)


# --- what is given ------------------------------------------------------------------------------------------------


READERS = {
    "learning_rate": lrx.learning_rate,
    "learning_rates": lrx.learning_rates,
    "monitor": lrx.monitor,
    "stopped": lrx.stopped,
    "update_count": lrx.update_count,
    "scale_learning_rate": lambda state: lrx.scale_learning_rate(state, 0.5),
    "set_learning_rate": lambda state: lrx.set_learning_rate(state, 0.5),
    "restart_schedule": lrx.restart_schedule,
    "observe": lambda state: lrx.observe(state, value=1.0),
    "eval_params": lambda state: lrx.eval_params(state, PARAMS),
    "apply_updates": lambda state: lrx.apply_updates(PARAMS, GRADS, state),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_a_state_is_named(name: str) -> None:
    read = READERS[name]
    with pytest.raises(TypeError, match=rf"{name} .* the transformation adam\(0\.1\): give .*tx.init\(params\)"):
        read(lrx.adam(0.1))
    with pytest.raises(TypeError, match=rf"{name} .* the transformation linear_decay"):
        read(linear())
    for nothing in (None, lrx.adam, "adam"):
        with pytest.raises(TypeError, match=rf"{name} .* got .*: give what tx.init\(params\)"):
            read(nothing)


@pytest.mark.parametrize("name", ["learning_rate", "learning_rates", "scale_learning_rate", "set_learning_rate"])
def test_parameters_are_told_from_a_state_without_a_rate(name: str) -> None:
    for params in (PARAMS, {"params": PARAMS}, [jnp.ones(2)], jnp.ones(2)):
        with pytest.raises(
            NoRateError, match=r"but arrays only, got a .* as parameters are: give the optimizer's state"
        ):
            READERS[name](params)


def test_scalars_are_plain_numbers_for_a_logger() -> None:
    tx = lrx.adam(linear() * lrx.early_stopping() * plateau(feedback="observed"))
    state = lrx.observe(advance(tx, tx.init(PARAMS), value=1.0), value=2.0)
    report = lrx.monitor(state, scalars=True)
    assert {type(value) for value in report.values()} == {float, int, bool}
    assert report["early_stopping/stopped"] is False
    assert report["reduce_on_plateau/observations"] == 1
    assert json.loads(json.dumps(report)) == report
    assert list(report) == list(lrx.monitor(state))
    with pytest.raises(TypeError, match="scalars must be False within a compiled function"):
        jax.jit(lambda state: lrx.monitor(state, scalars=True))(state)
    states = jax.vmap(lambda rate: lrx.sgd(rate).init(PARAMS))(jnp.arange(1.0, 4.0))
    with pytest.raises(ValueError, match=r"several members, got learning_rate of shape \(3,\): take one"):
        lrx.monitor(states, scalars=True)


# --- foreign links that multiply ----------------------------------------------------------------------------------


def applied(tx: Any, state: Any, **extra_args: Any) -> tuple[float, float, Any]:
    """The rate that sgd's update shows, and the one that is read."""
    updates, state = tx.update(GRADS, state, PARAMS, **extra_args)
    return float(-updates["b"] / GRADS["b"]), float(lrx.learning_rate(state)), state


def test_what_optax_multiplies_by_is_read_where_its_state_holds_it() -> None:
    tx = optax.chain(lrx.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, rtol=0.9, factor=0.5))
    state = tx.init(PARAMS)
    for expected in (0.1, 0.05, 0.025, 0.0125):
        moved, read, state = applied(tx, state, value=1.0)
        np.testing.assert_allclose([moved, read], expected, rtol=1e-6)
    assert float(lrx.monitor(state)["reduce_on_plateau/factor"]) == 0.125

    tx = optax.contrib.mechanize(lrx.sgd(0.1))
    _, read, state = applied(tx, tx.init(PARAMS))
    np.testing.assert_allclose(read, float(lrx.monitor(state)["mechanic/factor"]) * 0.1, rtol=1e-6)
    assert read < 1e-5


@pytest.mark.parametrize("search", [optax.scale_by_backtracking_linesearch, optax.scale_by_zoom_linesearch])
def test_the_rate_of_a_line_search_multiplies(search: Any) -> None:
    def loss(params: Any) -> jax.Array:
        return 8.0 * jnp.sum(params**2)

    params = jnp.array([1.0, -2.0])
    tx = optax.chain(lrx.sgd(1.0), search(15))
    value, grad = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=loss)
    np.testing.assert_allclose(lrx.learning_rate(state), -updates[0] / grad[0], rtol=1e-5)
    assert float(lrx.learning_rate(state)) < 0.5


@pytest.mark.parametrize("make", [optax.contrib.prodigy, optax.contrib.dadapt_adamw])
def test_the_estimate_multiplies_an_injected_rate(make: Any) -> None:
    tx = optax.inject_hyperparams(make)(learning_rate=0.1)
    state = tx.init(PARAMS)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.1 * 1e-6, rtol=1e-5)
    state = lrx.set_learning_rate(state, 1e-3)
    np.testing.assert_allclose(lrx.learning_rate(state), 1e-3, rtol=1e-5)
    with pytest.raises(NoRateError):
        lrx.learning_rate(make(0.1).init(PARAMS))


@pytest.mark.parametrize("opaque", [False, True])
def test_the_adversary_of_sam_is_not_on_the_path(opaque: bool) -> None:
    sam = optax.contrib.sam(
        lrx.sgd(0.1), optax.chain(optax.contrib.normalize(), lrx.sgd(0.05)), opaque_mode=opaque, reset_state=False
    )
    for tx in (sam, optax.chain(optax.clip_by_global_norm(1.0), sam)):
        state = tx.init(PARAMS)
        assert rate_of(state) == 0.1
        halved = lrx.scale_learning_rate(state, 0.5)
        assert rate_of(halved) == 0.05
        scales = [float(value) for _, value in optax.tree.get_all_with_path(halved, "scale")]
        assert sorted(scales) == [0.5, 1.0]
        assert int(lrx.update_count(state)) == 0


SIGNED = {
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "prodigy": optax.contrib.prodigy,
    "dadapt_adamw": optax.contrib.dadapt_adamw,
    "momo": optax.contrib.momo,
    "momo_adam": optax.contrib.momo_adam,
    "schedule_free": optax.contrib.schedule_free_sgd,
    "cocob": optax.contrib.cocob,
    "madgrad": lambda: optax.contrib.madgrad(0.1),
}


@pytest.mark.parametrize("name", SIGNED)
def test_an_optax_optimizer_with_a_rate_of_its_own_before_a_rate_is_refused_where_it_can_be_seen(name: str) -> None:
    state = optax.chain(SIGNED[name](), lrx.cosine_decay(1.0, 50)).init(PARAMS)
    for read in (lrx.learning_rate, lrx.learning_rates, lrx.monitor, lambda s: lrx.scale_learning_rate(s, 0.5)):
        with pytest.raises(ValueError, match=r"would ascend: .*schedule.multiplier\(\)"):
            read(state)
    # With the unsigned link it stands, and says what it can.
    lrx.monitor(optax.chain(SIGNED[name](), lrx.cosine_decay(1.0, 50).multiplier()).init(PARAMS))


# --- the rate by hand ---------------------------------------------------------------------------------------------


def test_a_constant_rate_is_what_was_set_from_the_next_update_on() -> None:
    for make in (lrx.sgd, lrx.adam, lrx.heavy_ball, lrx.adamw, lrx.schedule_free_sgd, lambda r: lrx.sgd(r * plateau())):
        tx = make(0.1)
        state = lrx.set_learning_rate(tx.init(PARAMS), 0.3)
        assert rate_of(state) == 0.3
        state = advance(tx, state, steps=2, value=1.0)
        state = lrx.set_learning_rate(lrx.set_learning_rate(state, 7.0), 0.02)  # the last one counts
        state = advance(tx, lrx.set_learning_rate(lrx.scale_learning_rate(state, 0.5), 0.02), value=0.1)
        assert rate_of(state) == 0.02


def test_a_schedule_goes_on_in_proportion() -> None:
    tx = lrx.adam(linear())
    state = lrx.set_learning_rate(advance(tx, tx.init(PARAMS), steps=4), 0.05)
    assert rate_of(state) == 0.5  # what the latest update has used
    seen = []
    for _ in range(3):
        state = advance(tx, state)
        seen.append(rate_of(state))
    assert seen == [0.04, 0.03, 0.02]
    assert float(lrx.monitor(state)["scale"]) == pytest.approx(0.1)


def test_other_factors_on_the_path_are_divided_out() -> None:
    tx = optax.chain(linear().multiplier(), lrx.sgd(0.5), plateau())
    state = lrx.set_learning_rate(advance(tx, tx.init(PARAMS), steps=2, value=1.0), 0.07)
    state = advance(tx, state, value=0.5)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.07 * 0.6 / 0.7, rtol=1e-6)


@pytest.mark.parametrize("make", [lrx.dog, lrx.dowg, lrx.prodigy, lrx.d_adaptation, lambda r: lrx.mechanic(lrx.sgd(r))])
def test_an_estimated_rate_goes_on_from_the_value(make: Any) -> None:
    """The estimate of the next update is another: what was set is what this one would have used."""
    tx = make(1.0)
    state = advance(tx, tx.init(PARAMS), steps=3)
    before = lrx.learning_rate(state)
    plain, doubled = advance(tx, state), advance(tx, lrx.set_learning_rate(state, 2 * before))
    np.testing.assert_allclose(lrx.learning_rate(doubled), 2 * lrx.learning_rate(plain), rtol=1e-3)


def test_an_injected_rate_is_set_at_once() -> None:
    tx = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)
    state = lrx.set_learning_rate(advance(tx, tx.init(PARAMS)), 0.03)
    assert rate_of(state) == 0.03
    assert rate_of(advance(tx, state)) == 0.03
    scheduled = optax.inject_hyperparams(optax.adamw)(learning_rate=linear())
    state = advance(scheduled, lrx.set_learning_rate(advance(scheduled, scheduled.init(PARAMS)), 0.4))
    assert rate_of(state) == 0.35


GROUPED = {
    "partition": lambda: optax.partition({"body": lrx.sgd(linear(), momentum=0.9), "head": lrx.adam(2.0)}, LABELS),
    "group_rates": lambda: lrx.group_rates(lrx.heavy_ball(linear()), LABELS, {"body": 1.0, "head": 2.5}),
    "in a chain": lambda: optax.chain(
        optax.clip_by_global_norm(1e9),
        optax.partition({"body": lrx.sgd(linear()), "head": lrx.sgd(2.0)}, LABELS),
        optax.scale(1.0),
    ),
    "integers": lambda: lrx.group_rates(lrx.sgd(linear()), {"w": 0, "b": 3}, {0: 1.0, 3: 2.5}),
}


@pytest.mark.parametrize("name", GROUPED)
def test_the_rate_of_one_group_is_scaled_and_set(name: str) -> None:
    tx = GROUPED[name]()
    body, head = ("body", "head") if name != "integers" else (0, 3)
    state = advance(tx, tx.init(PARAMS), steps=2)
    untouched = [advance(tx, state)]
    untouched.append(advance(tx, untouched[0]))

    changed = advance(tx, lrx.scale_learning_rate(state, 0.5, group=head))
    np.testing.assert_allclose(lrx.learning_rate(changed, head), lrx.learning_rate(untouched[0], head) / 2, rtol=1e-6)
    np.testing.assert_allclose(lrx.learning_rate(changed, body), lrx.learning_rate(untouched[0], body), rtol=1e-6)
    np.testing.assert_allclose(lrx.monitor(changed)[f"scale/{head}"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(lrx.monitor(changed)[f"scale/{body}"], 1.0, rtol=1e-6)

    ratio = float(lrx.learning_rate(untouched[1], head) / lrx.learning_rate(untouched[0], head))
    again = advance(tx, lrx.set_learning_rate(lrx.scale_learning_rate(changed, 9.0, group=head), 0.01, group=head))
    np.testing.assert_allclose(lrx.learning_rate(again, head), 0.01 * ratio, rtol=1e-5)
    np.testing.assert_allclose(lrx.learning_rate(again, body), lrx.learning_rate(untouched[1], body), rtol=1e-6)
    assert jax.tree.structure(again) == jax.tree.structure(state)

    with pytest.raises(ValueError, match=r"group must be one of .*give set_learning_rate\(state, value, group="):
        lrx.set_learning_rate(state, 0.1)
    with pytest.raises(ValueError, match=r"group must be one of .*got group='tail'"):
        lrx.scale_learning_rate(state, 0.1, group="tail")


def test_the_updates_of_a_group_follow_its_scale() -> None:
    for name in ("partition", "group_rates", "in a chain"):
        tx = GROUPED[name]()
        state = tx.init(PARAMS)
        plain, _ = tx.update(GRADS, state, PARAMS)
        updates, _ = tx.update(GRADS, lrx.scale_learning_rate(state, 0.5, group="head"), PARAMS)
        np.testing.assert_allclose(updates["b"], plain["b"] / 2, rtol=1e-6)
        np.testing.assert_array_equal(updates["w"], plain["w"])


def test_a_group_that_shares_its_rate_cannot_be_changed_alone() -> None:
    tx = optax.chain(optax.partition({"body": plateau(), "head": optax.identity()}, LABELS), lrx.sgd(0.1))
    with pytest.raises(ValueError, match=r"a rate of its own to be changed alone, got group='head', which shares it"):
        lrx.scale_learning_rate(tx.init(PARAMS), 0.5, group="head")


@pytest.mark.parametrize(
    "change", [lambda s, x: lrx.scale_learning_rate(s, x, "head"), lambda s, x: lrx.set_learning_rate(s, x, "head")]
)
@pytest.mark.parametrize("name", ["partition", "group_rates"])
def test_changing_by_hand_keeps_the_program_and_works_traced(name: str, change: Any) -> None:
    tx = GROUPED[name]()
    traces = []

    @jax.jit
    def step(state: Any) -> Any:
        traces.append(1)
        return tx.update(GRADS, state, PARAMS)[1]

    state = step(tx.init(PARAMS))
    for value in (0.5, 2, np.float64(0.5), jnp.bfloat16(0.5)):
        state = step(change(state, value))
    state = step(lrx.restart_schedule(jax.jit(change)(state, 0.25)))
    assert len(traces) == 1
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(change(state, jnp.float32(0.5)))]
    assert len(set(pointers)) == len(pointers)
    states = jax.vmap(lambda _: tx.init(PARAMS))(jnp.arange(3))
    changed = jax.vmap(change)(states, jnp.array([0.5, 1.0, 2.0]))
    assert lrx.learning_rates(changed)["head"].shape == (3,)
    assert jnp.unique(lrx.learning_rates(changed)["head"]).size == 3
    assert jnp.unique(lrx.learning_rates(changed)["body"]).size == 1


def test_a_factor_that_can_have_no_effect_is_refused_with_the_way_out() -> None:
    ended = lrx.sgd(lrx.linear_decay(0.1, 3))
    state = advance(ended, ended.init(PARAMS), steps=4)
    with pytest.raises(
        ValueError, match=r"no effect on a schedule that is at 0, .*restart_schedule\(state\), or go on"
    ):
        lrx.scale_learning_rate(state, 10.0)
    with pytest.raises(ValueError, match=r"value cannot be set while the rate is 0, .*restart_schedule"):
        lrx.set_learning_rate(state, 0.1)
    # Either way out.
    assert rate_of(advance(ended, lrx.restart_schedule(state))) == 0.1
    constant = lrx.sgd(0.02)
    assert rate_of(advance(constant, state)) == 0.02

    tx = lrx.sgd(0.1)
    zero = advance(tx, lrx.scale_learning_rate(tx.init(PARAMS), 0.0))
    with pytest.raises(ValueError, match=r"no effect on a rate that was multiplied by 0: give set_learning_rate"):
        lrx.scale_learning_rate(zero, 10.0)
    assert rate_of(advance(tx, lrx.set_learning_rate(zero, 0.3))) == 0.3

    stopping = lrx.sgd(0.1 * lrx.early_stopping(patience=0))
    over = advance(stopping, stopping.init(PARAMS), steps=2, value=1.0)
    for change in (lambda s: lrx.scale_learning_rate(s, 2.0), lambda s: lrx.set_learning_rate(s, 2.0)):
        with pytest.raises(ValueError, match=r"a state that is stopped, .*carry_over"):
            change(over)
    jax.jit(lrx.scale_learning_rate)(over, 2.0)  # what is traced passes


def test_a_rate_that_is_0_for_now_can_be_scaled() -> None:
    warming = lrx.sgd(lrx.warmup(0.1, 10))
    state = warming.init(PARAMS)
    for _ in range(3):
        state = advance(warming, lrx.scale_learning_rate(state, 0.5))
    np.testing.assert_allclose(lrx.learning_rate(state), 0.02 / 8, rtol=1e-6)
    with pytest.raises(ValueError, match="value cannot be set while the rate is 0"):
        lrx.set_learning_rate(warming.init(PARAMS), 0.1)

    @factory
    def skip(losses: str) -> Controller:  # a controller that lets the rate go again
        def update(memory: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
            return (value < 5).astype(jnp.float32), memory

        return controller(init=lambda params: jnp.zeros([]), update=update)

    tx = lrx.sgd(0.1 * skip("spikes"))
    spiked = advance(tx, advance(tx, tx.init(PARAMS), steps=3, value=1.0), value=9.0)
    assert rate_of(spiked) == 0.0
    assert rate_of(advance(tx, lrx.scale_learning_rate(spiked, 0.5), value=1.0)) == 0.05


def test_refused_values_are_named() -> None:
    state = lrx.sgd(0.1).init(PARAMS)
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="value must be a finite number >= 0"):
            lrx.set_learning_rate(state, value)
    for step, error in ((-1, ValueError), (0.5, ValueError), (2**31, ValueError), ("a", TypeError)):
        with pytest.raises(error, match="step must be"):
            lrx.restart_schedule(state, step)


# --- the step of the schedule, and the number of updates ------------------------------------------------------------


METHODS: dict[str, Any] = {
    "adam": lrx.adam,
    "adamw": lrx.adamw,
    "nesterov": lrx.nesterov,
    "prodigy": lambda rate: lrx.prodigy(rate, bias_correction=True),
    "d_adaptation": lambda rate: lrx.d_adaptation(rate, bias_correction=True),
    "dog": lrx.dog,
    "momo": lambda rate: lrx.momo(rate, lower_bound=-1e9),
    "momo_adam": lambda rate: lrx.momo_adam(rate, lower_bound=-1e9),
    "schedule_free_adamw": lrx.schedule_free_adamw,
    "optax": optax.adamw,
    "injected": lambda rate: optax.inject_hyperparams(optax.adamw)(learning_rate=rate),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_schedule_restarts_with_moments_and_bias_corrections_kept(name: str) -> None:
    """As if the schedule had been this shape from the start."""
    make = METHODS[name]
    boundary = 3
    again = lrx.join([linear(), linear()], [boundary])
    states = [make(linear()).init(PARAMS), make(again).init(PARAMS)]
    for step in range(6):
        if step == boundary:
            states[0] = lrx.restart_schedule(states[0])
        left, states[0] = make(linear()).update(GRADS, states[0], PARAMS, **VALUE.get(name, {}))
        right, states[1] = make(again).update(GRADS, states[1], PARAMS, **VALUE.get(name, {}))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), left, right)
    assert int(lrx.update_count(states[0])) == 6


VALUE = {"momo": {"value": 1.0}, "momo_adam": {"value": 1.0}}


def test_a_schedule_restarts_at_any_step_and_everywhere() -> None:
    tx = optax.chain(linear().multiplier(), lrx.group_rates(lrx.sgd(linear()), LABELS, {"body": 1.0, "head": linear()}))
    state = advance(tx, tx.init(PARAMS), steps=5)
    rates = lrx.learning_rates(advance(tx, lrx.restart_schedule(state, 2)))
    np.testing.assert_allclose([rates["body"], rates["head"]], [0.6**2, 0.6**3], rtol=1e-6)
    plateaued = lrx.sgd(linear() * plateau())
    state = advance(plateaued, plateaued.init(PARAMS), steps=3, value=1.0)
    assert rate_of(advance(plateaued, lrx.restart_schedule(state), value=0.1)) == 0.2  # the controller's 0.25 stays
    waiting = lrx.sgd(lrx.warmup_until(linear(), warmup_value=0.01, threshold=2.0))
    state = advance(waiting, waiting.init(PARAMS), steps=3, value=1.0)
    assert rate_of(advance(waiting, lrx.restart_schedule(state), value=1.0)) == 0.8
    last = 2**31 - 1
    far = advance(plateaued, lrx.restart_schedule(state := plateaued.init(PARAMS), last), steps=2, value=1.0)
    assert int(optax.tree.get(far, "step")) == last
    assert int(lrx.update_count(far)) == 2
    with pytest.raises(ValueError, match="the state holds no step of a schedule"):
        lrx.restart_schedule(optax.sgd(0.1, momentum=0.9).init(PARAMS))


COUNTED = {
    "sgd": (lambda: lrx.sgd(0.1), 6),
    "cocob": (lrx.cocob, 6),
    "mechanic": (lambda: lrx.mechanic(lrx.sgd(0.1)), 6),
    "adam in a chain": (lambda: optax.chain(optax.clip(1.0), plateau(), lrx.adam(0.1)), 6),
    "accumulate": (lambda: lrx.accumulate(lrx.adam(0.1), 2), 3),
    "MultiSteps": (lambda: optax.MultiSteps(lrx.adam(0.1), 3), 2),
    "outside of MultiSteps": (lambda: optax.chain(plateau(), optax.MultiSteps(lrx.adam(0.1), 3)), 2),
    "apply_if_finite": (lambda: optax.apply_if_finite(lrx.sgd(0.1), 9), 6),
    "partition": (lambda: optax.partition({"body": lrx.sgd(0.1), "head": lrx.adam(0.1)}, LABELS), 6),
    "group_rates": (lambda: lrx.group_rates(lrx.sgd(0.1), LABELS, {"body": 1.0, "head": 0.1}), 6),
    "rollback": (lambda: lrx.rollback_on_divergence(lrx.adam(0.1)), 6),
    "injected": (lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 6),
    "optax": (lambda: optax.adamw(linear()), 6),
    "optax in MultiSteps": (lambda: optax.MultiSteps(optax.lion(0.1), 3), 2),
    "a factor after optax": (lambda: optax.chain(optax.sgd(0.1), plateau()), 6),
    "prodigy": (optax.contrib.prodigy, 6),
    "mechanize": (lambda: optax.contrib.mechanize(optax.sgd(0.1)), 6),
}


@pytest.mark.parametrize("name", COUNTED)
def test_applied_updates_are_counted(name: str) -> None:
    make, expected = COUNTED[name]
    tx = make()
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    for _ in range(6):
        _, state = update(
            GRADS, state, PARAMS, **({} if "MultiSteps" in name and "out" not in name else {"value": 1.0})
        )
    count = lrx.update_count(state)
    assert int(count) == expected
    assert (count.shape, count.dtype) == ((), jnp.int32)


def test_skipped_calls_are_not_counted_and_what_cannot_be_counted_is_said() -> None:
    tx = optax.apply_if_finite(lrx.sgd(0.1), 9)
    state = tx.init(PARAMS)
    for gradient in (1.0, np.nan, 1.0):
        _, state = tx.update({"w": jnp.full(2, gradient), "b": jnp.array(1.0)}, state, PARAMS)
    assert int(lrx.update_count(state)) == 2
    with pytest.raises(ValueError, match="the state counts no updates: build the optimizer with lrx"):
        lrx.update_count(optax.sgd(0.1).init(PARAMS))
    apart = optax.partition({"body": lrx.sgd(0.1), "head": optax.MultiSteps(lrx.sgd(0.1), 2)}, LABELS)
    state = advance(apart, apart.init(PARAMS), steps=4)
    with pytest.raises(ValueError, match=r"must hold one number of updates, got \[2, 4\]: its groups"):
        lrx.update_count(state)
    assert jax.jit(lrx.update_count)(lrx.sgd(0.1).init(PARAMS)) == 0


def test_partitions_by_other_labels_on_one_path_are_not_shown_and_scale_together() -> None:
    decays = optax.partition({"d": lrx.constant(0.5).multiplier(), "n": optax.identity()}, {"w": "d", "b": "n"})
    rates = optax.partition({"slow": lrx.sgd(0.1), "fast": lrx.sgd(1.0)}, {"w": "slow", "b": "fast"})
    tx = optax.chain(decays, rates)
    state = advance(tx, tx.init(PARAMS))
    assert not any("learning_rate" in name for name in lrx.monitor(state))
    with pytest.raises(NoRateError, match=r"one set of groups .*\['d', 'n'\] and then \['fast', 'slow'\]"):
        lrx.learning_rates(state)
    plain, _ = tx.update(GRADS, state, PARAMS)
    halved, _ = tx.update(GRADS, lrx.scale_learning_rate(state, 0.5), PARAMS)
    np.testing.assert_allclose(halved["w"], plain["w"] / 2, rtol=1e-6)
    assert int(lrx.update_count(state)) == 1


def test_of_an_optax_schedule_the_count_is_read() -> None:
    schedule = linear()
    state = optax.adamw(schedule).init(PARAMS)
    for _ in range(3):
        _, state = optax.adamw(schedule).update(GRADS, state, PARAMS)
    with pytest.raises(NoRateError, match=r"the latest update has used schedule\(lrx.update_count\(state\) - 1\)"):
        lrx.learning_rate(state)
    assert float(schedule(int(lrx.update_count(state)) - 1)) == np.float32(0.6)


def test_what_was_set_by_hand_stays_when_a_run_is_taken_back() -> None:
    tx = lrx.rollback_on_divergence(lrx.sgd(linear()), factor=0.5)
    state = advance(tx, tx.init(PARAMS), steps=3, value=1.0)
    changed = lrx.restart_schedule(lrx.set_learning_rate(state, 0.06), 4)  # 0.6 is on show
    back = advance(tx, changed, value=float("nan"))
    assert int(back.rollbacks) == 1
    after = advance(tx, back, value=1.0)
    np.testing.assert_allclose(lrx.learning_rate(after), 0.5 * 0.1 * 0.4, rtol=1e-6)


def test_reading_a_wide_state_does_not_visit_each_array() -> None:
    """Calls of a state with 20 and with 2,000 moments take about the same number of steps of the walk."""
    visits = []
    for width in (10, 1000):
        state = lrx.adamw(0.1).init({f"layer_{i}": jnp.zeros(1) for i in range(width)})
        seen = 0

        def count(node: Any, original: Any = lrx.rate_paths.speaker) -> Any:
            nonlocal seen
            seen += 1
            return original(node)

        with pytest.MonkeyPatch.context() as patch:
            for module in (lrx.rate_paths, lrx.editing):
                patch.setattr(module, "speaker", count)
            lrx.learning_rate(state)
            lrx.scale_learning_rate(state, 0.5)
        visits.append(seen)
    assert visits[0] == visits[1]


@pytest.mark.parametrize("factor", [2, 0.5, np.float64(0.5), np.int64(2), jnp.bfloat16(0.5)], ids=str)
def test_numbers_of_any_type_are_taken_by_hand_under_strict_promotion(factor: Any) -> None:
    for params in (PARAMS, optax.tree.cast(PARAMS, jnp.bfloat16)):
        for tx in (
            lrx.adam(0.25),
            optax.inject_hyperparams(optax.adam)(learning_rate=0.25),
            optax.chain(plateau(), lrx.dog(0.25)),
        ):
            state = tx.init(params)
            with jax.numpy_dtype_promotion("strict"):
                assert float(lrx.learning_rate(lrx.scale_learning_rate(state, factor))) == 0.25 * float(factor)
                assert float(lrx.learning_rate(lrx.set_learning_rate(state, factor))) == float(factor)


def test_what_was_restored_without_its_types_is_told_from_parameters() -> None:
    rate = lrx.adam(0.1).init(PARAMS)[1]
    restored = [{"count": 0}, dict(zip(rate._fields, rate, strict=True))]
    for read in (lrx.learning_rate, lrx.update_count, lambda s: lrx.scale_learning_rate(s, 0.5)):
        with pytest.raises(NoRateError if read is lrx.learning_rate else ValueError, match=r"lrx.carry_over\(restored"):
            read(restored)
    with pytest.raises(ValueError, match="arrays only, got a dict as parameters are"):
        lrx.update_count(PARAMS)


def test_abstract_states_are_refused_and_read_within_an_abstract_evaluation() -> None:
    for tx in (lrx.sgd(0.1), lrx.group_rates(lrx.sgd(0.1 * lrx.early_stopping()), LABELS, {"body": 1.0, "head": 2.0})):
        state = jax.eval_shape(tx.init, PARAMS)
        for read in (lrx.learning_rates, lrx.monitor, lrx.update_count):
            with pytest.raises(TypeError, match="must hold numbers, got an abstract one"):
                read(state)
        shapes = jax.eval_shape(lambda params, tx=tx: lrx.learning_rates(tx.init(params)), PARAMS)
        assert all(shape.shape == () for shape in shapes.values())
