"""The rate is scaled and set by hand in a state, of one group or of all."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from state_examples import GRADS, LABELS, PARAMS, advance, linear, plateau, rate_of

import lrx
import lrx.editing
import lrx.rate_paths
from lrx.feedback import controller
from lrx.rates import Controller
from lrx.transformations import factory

# --- scale_learning_rate ---------------------------------------------------------------------------------------------


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


# --- the rate by hand ------------------------------------------------------------------------------------------------


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
    """Check the update after it: its estimate is another, and what was set is what this one would have used."""
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


def test_members_whose_factor_is_0_do_not_keep_the_others_from_being_changed() -> None:
    tx = lrx.group_rates(lrx.sgd(0.2), LABELS, {"body": 1.0, "head": 0.5})
    state = tx.init(PARAMS)
    states = jax.vmap(lambda scale: lrx.scale_learning_rate(state, scale, "head"))(jnp.array([0.0, 1.0]))
    halved = lrx.scale_learning_rate(states, 0.5, "head")
    np.testing.assert_allclose(lrx.learning_rate(halved, "head"), [0.0, 0.05], rtol=1e-6)


def test_refused_values_are_named() -> None:
    state = lrx.sgd(0.1).init(PARAMS)
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="value must be a finite number >= 0"):
            lrx.set_learning_rate(state, value)
    for step, error in ((-1, ValueError), (0.5, ValueError), (2**31, ValueError), ("a", TypeError)):
        with pytest.raises(error, match="step must be"):
            lrx.restart_schedule(state, step)
