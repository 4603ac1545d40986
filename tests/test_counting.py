"""The step of a schedule is restarted, and applied updates are counted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from state_examples import GRADS, LABELS, PARAMS, advance, linear, plateau, rate_of
from tiers import first_tier_has

import lrx
import lrx.editing
import lrx.rate_paths
from lrx.reading import NoRateError

# --- the step of the schedule, and the number of updates -------------------------------------------------------------


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
    """Check that it continues as if the schedule had had this shape from the start."""
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


@pytest.mark.parametrize("name", first_tier_has(list(COUNTED)[::4], COUNTED))
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
    """Check that calls of a state with 20 and with 2,000 moments take about the same number of steps of the walk."""
    visits = []
    for width in (10, 1000):
        state = lrx.adamw(0.1).init({f"layer_{i}": jnp.zeros(1) for i in range(width)})
        seen = 0

        def count(node: Any, original: Any = lrx.rate_paths.adapt) -> Any:
            nonlocal seen
            seen += 1
            return original(node)

        with pytest.MonkeyPatch.context() as patch:
            for module in (lrx.rate_paths, lrx.editing):
                patch.setattr(module, "adapt", count)
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
