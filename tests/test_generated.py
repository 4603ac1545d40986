"""The laws over generated trees, schedules and compositions: what no one would write down as a case."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given
from hypothesis import strategies as st
from problems import assert_trees_close, signature_of
from units import reference

import lrx

INT32_MAX = 2**31 - 1

# ------------------------------------------------------------------------------------------------------- schedules

rates = st.floats(1e-4, 10.0)
durations = st.integers(1, 3000)


def _sorted_points(strategy: st.SearchStrategy[float], first: int) -> st.SearchStrategy[dict[int, float]]:
    steps = st.dictionaries(st.integers(first, 3000), strategy, min_size=1, max_size=4)
    return steps.map(lambda points: dict(sorted(points.items())))


leaves = st.one_of(
    st.builds(lrx.constant, rates),
    st.builds(lambda init, steps, end: lrx.linear_decay(init, steps, end_value=end), rates, durations, rates),
    st.builds(lambda init, steps, end: lrx.cosine_decay(init, steps, end_value=end), rates, durations, rates),
    st.builds(lrx.step_decay, rates, durations, factor=st.floats(0.1, 1.0)),
    st.builds(lrx.piecewise_constant, rates, _sorted_points(st.floats(0.1, 2.0), 1)),
    st.builds(lrx.exponential_decay, rates, st.floats(0.5, 1.0), transition_steps=durations),
    st.builds(lrx.polynomial_decay, rates, durations, power=st.sampled_from([0.5, 1.0, 2.0])),
    st.builds(lrx.inverse_time_decay, rates, st.floats(0.0, 1.0)),
    st.builds(lrx.inverse_sqrt_decay, rates, durations),
    st.builds(lrx.cosine_restarts, rates, durations, period_mult=st.sampled_from([1, 1.5, 2])),
    st.builds(lambda low, high, half: lrx.cyclical(low, low + high, half), rates, rates, durations),
    st.builds(lrx.one_cycle, rates, durations, anneal=st.sampled_from(["cosine", "linear"])),
    st.builds(
        lrx.warmup_stable_decay,
        rates,
        warmup_steps=durations,
        stable_steps=durations,
        decay_steps=durations,
        decay=st.sampled_from(["linear", "cosine", "sqrt"]),
    ),
    st.builds(lrx.interpolate, _sorted_points(rates, 0), kind=st.sampled_from(["linear", "cosine"])),
    st.builds(lrx.tabulated, st.lists(rates, min_size=1, max_size=5)),
)


def _composed(inner: st.SearchStrategy[lrx.Schedule]) -> st.SearchStrategy[lrx.Schedule]:
    return st.one_of(
        st.builds(lrx.warmup, inner, st.integers(0, 3000)),
        st.builds(lambda first, second, boundary: lrx.join([first, second], [boundary]), inner, inner, durations),
        st.builds(lambda left, right: left * right, inner, inner),
        st.builds(lambda number, schedule: number * schedule, rates, inner),
    )


schedules = st.recursive(leaves, _composed, max_leaves=5)
counts = st.lists(st.one_of(st.integers(0, 12_000), st.integers(0, INT32_MAX)), min_size=8, max_size=8)


@given(schedules, counts)
def test_any_composition_is_exact_and_rebuilds_itself(schedule: lrx.Schedule, steps: list[int]) -> None:
    expected = reference(schedule, steps)
    found = np.asarray(schedule(np.asarray(steps)))
    # Of up to five factors with 5e-6 each.
    np.testing.assert_allclose(found, expected, rtol=2.5e-5, atol=1e-10)
    assert np.all(np.isfinite(found) & (found >= 0))
    namespace = {name: getattr(lrx, name) for name in lrx.__all__}
    again = eval(repr(schedule), namespace)
    assert repr(again) == repr(schedule)
    np.testing.assert_array_equal(np.asarray(again(np.asarray(steps))), found)


@given(schedules)
def test_a_known_peak_is_never_exceeded(schedule: lrx.Schedule) -> None:
    if schedule.peak is not None:
        highest = float(jnp.max(schedule(jnp.arange(12_000))))
        assert highest <= float(schedule.peak) * (1 + 1e-5)


@given(schedules, counts)
def test_any_composition_is_one_link_wherever_it_stands(schedule: lrx.Schedule, steps: list[int]) -> None:
    for tx in (schedule, optax.chain(schedule), optax.sgd(schedule)):
        state = tx.init(jnp.ones(2))
        updates, _ = tx.update(jnp.ones(2), state, jnp.ones(2))
        np.testing.assert_allclose(updates, -np.full(2, schedule(0)), rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- trees

arrays = st.builds(
    lambda shape, dtype, seed: jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype),
    st.sampled_from([(), (1,), (3,), (2, 3), (0,), (1, 2, 2)]),
    st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
    st.integers(0, 99),
)
trees = st.recursive(
    st.one_of(arrays, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", "layer_1"]), inner, max_size=3),
    ),
    max_leaves=6,
)
OPTIMIZERS = {
    "sgd": lambda rate: lrx.sgd(rate, momentum=0.9),
    "heavy_ball": lrx.heavy_ball,
    "nesterov": lrx.nesterov,
    "adagrad": lrx.adagrad,
    "rmsprop": lrx.rmsprop,
    "adam": lrx.adam,
    "adamw": lrx.adamw,
    "accumulated": lambda rate: lrx.accumulate(lrx.adam(rate), 2),
    "grouped": lambda rate: lrx.group_rates(
        lrx.heavy_ball(rate), lambda path, leaf: leaf.ndim, lambda ndim: 1 / (1 + ndim)
    ),
}
depths = st.lists(st.sampled_from(["chain", "accumulate", "group", "masked", "finite"]), max_size=3)


def _wrapped(tx: Any, wrappers: list[str]) -> Any:
    for wrapper in wrappers:
        tx = {
            "chain": lambda tx: optax.chain(optax.identity(), tx),
            "accumulate": lambda tx: lrx.accumulate(tx, 1),
            "group": lambda tx: lrx.group_rates(tx, lambda path, leaf: "all", {"all": 1.0}),
            "masked": lambda tx: optax.masked(tx, lambda params: jax.tree.map(lambda _: True, params)),
            "finite": lambda tx: optax.apply_if_finite(tx, 3),
        }[wrapper](tx)
    return optax.with_extra_args_support(tx)


@given(st.sampled_from(sorted(OPTIMIZERS)), trees, leaves, st.data())
def test_any_tree_is_updated_leaf_by_leaf_in_its_own_types(
    name: str, params: Any, schedule: lrx.Schedule, data: st.DataObject
) -> None:
    tx = OPTIMIZERS[name](schedule)
    state = tx.init(params)
    gradients = jax.tree.map(lambda leaf: leaf / 2, params)
    if data.draw(st.booleans()):  # a gradient that is missing
        keep = iter(data.draw(st.lists(st.booleans(), min_size=10, max_size=10)))
        gradients = jax.tree.map(lambda leaf: leaf if next(keep) else None, gradients)
    assert signature_of(state) == signature_of(jax.eval_shape(tx.init, params))
    for _ in range(2):
        updates, after = tx.update(gradients, state, params)
        assert signature_of(after) == signature_of(state)
        assert signature_of(updates) == signature_of(gradients)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(updates))
        state = after


@given(st.sampled_from(sorted(OPTIMIZERS)), leaves, depths)
def test_wrappers_at_any_depth_change_nothing(name: str, schedule: lrx.Schedule, wrappers: list[str]) -> None:
    params = {"a": jnp.asarray([0.5, -1.0]), "b": jnp.asarray(2.0)}
    bare, wrapped = OPTIMIZERS[name](schedule), _wrapped(OPTIMIZERS[name](schedule), wrappers)
    bare_state, wrapped_state = bare.init(params), wrapped.init(params)
    for scale in (1.0, -0.5, 0.25):
        gradients = jax.tree.map(lambda leaf, scale=scale: leaf * scale, params)
        expected, bare_state = bare.update(gradients, bare_state, params)
        updates, wrapped_state = wrapped.update(gradients, wrapped_state, params)
        assert_trees_close(updates, expected)
    rates_inside = {label.split("/")[-1]: rate for label, rate in lrx.learning_rates(bare_state).items()}
    if "group" not in wrappers:
        assert_trees_close(
            {label.split("/")[-1]: rate for label, rate in lrx.learning_rates(wrapped_state).items()}, rates_inside
        )
