"""Reading a state: the rate that was applied, of each group, and what is observed."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from state_examples import ADAM_KEYS, GRADS, LABELS, PARAMS, advance, linear, plateau, rate_of

import lrx
import lrx.editing
import lrx.rate_paths
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.reading import NoRateError
from lrx.transformations import factory

# --- learning_rate ---------------------------------------------------------------------------------------------------


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


# --- groups ----------------------------------------------------------------------------------------------------------


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


# --- observe ---------------------------------------------------------------------------------------------------------


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


# --- monitor ---------------------------------------------------------------------------------------------------------


# --- what is given ---------------------------------------------------------------------------------------------------


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


# --- foreign links that multiply -------------------------------------------------------------------------------------


def applied(tx: Any, state: Any, **extra_args: Any) -> tuple[float, float, Any]:
    """Return the rate that sgd's update shows, and the one that is read."""
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
