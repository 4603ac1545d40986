"""What a state says about its rate, and what it takes from outside."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.reading import NoRateError

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
    def stop(after: int) -> Controller:
        def update(count: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
            return (count < after).astype(jnp.float32), count + 1

        return controller(stop, {"after": after}, init=lambda params: jnp.zeros([], jnp.int32), update=update)

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
    message = r"no learning rate: .*lrx.adam\(schedule\).*optax.inject_hyperparams\(optax.adamw\)\(learning_rate="
    for read in (lrx.learning_rate, lrx.learning_rates, lambda s: lrx.scale_learning_rate(s, 0.5)):
        with pytest.raises(NoRateError, match=message):
            read(state)
    assert issubclass(NoRateError, ValueError)


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


PLATEAU = ["factor", "scale", "best_value", "plateau_count", "cooldown_count", "sum_value", "value_count"]
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
