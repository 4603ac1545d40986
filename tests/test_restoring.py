"""Going on with another transformation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import lrx

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([0.3, -0.7]), "b": jnp.array(2.0)}
LABELS = {"w": "body", "b": "head"}


def plateau(**arguments: Any) -> lrx.Controller:
    return lrx.reduce_on_plateau(**{"factor": 0.5, "patience": 0, "feedback": "observed", **arguments})


def advance(tx: Any, state: Any, steps: int = 1, **extra_args: Any) -> Any:
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, PARAMS, **extra_args)
    return updates, state


def schedule() -> lrx.Schedule:
    return lrx.linear_decay(0.8, 16)


@pytest.mark.parametrize(
    ("make", "fresh"),
    [
        (lambda: lrx.adam(schedule()), ()),
        (lambda: lrx.adam(schedule() * plateau()), ("ReduceOnPlateauState at 1/memories/1/memory",)),
        (lambda: lrx.adamw(schedule(), weight_decay=0.0), ("AdamwState at the top",)),
        (lambda: optax.chain(optax.clip_by_global_norm(1e9), lrx.adam(schedule())), ()),
        (lambda: lrx.accumulate(lrx.adam(schedule()), 1), ("AccumulationState at the top",)),
        (lambda: optax.apply_if_finite(lrx.adam(schedule()), 3), ("ApplyIfFiniteState at the top",)),
        (lambda: lrx.rollback_on_divergence(lrx.adam(schedule())), ("RollbackState at the top",)),
    ],
    ids=["same", "controller", "adamw", "clipping", "accumulate", "apply_if_finite", "rollback"],
)
def test_another_transformation_goes_on_as_the_old_one_would(make: Any, fresh: tuple[str, ...]) -> None:
    old, new = lrx.adam(schedule()), make()
    _, state = advance(old, old.init(PARAMS), 5)
    carried = lrx.carry_over(state, new.init(PARAMS))
    assert carried.fresh[: len(fresh)] == fresh
    assert not carried.dropped
    assert jax.tree.structure(carried.state) == jax.tree.structure(new.init(PARAMS))
    assert int(lrx.update_count(carried.state)) == 5
    expected, _ = advance(old, state, 3)
    updates, after = advance(new, carried.state, 3, value=1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)
    assert int(lrx.update_count(after)) == 8


def test_orbax_restores_across_a_change_of_controllers(tmp_path: Path) -> None:
    """Check it with dicts and lists: the old transformation is not needed."""
    old = lrx.adam(schedule())
    _, state = advance(old, old.init(PARAMS), 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state")
    assert isinstance(restored, list)
    new = lrx.adam(schedule() * plateau())
    carried = lrx.carry_over(restored, new.init(PARAMS))
    expected, _ = advance(old, state)
    updates, after = advance(new, carried.state)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert float(lrx.learning_rate(after)) == float(schedule()(5))


def test_states_of_one_type_keep_to_their_groups_and_places() -> None:
    def groups(**rates: float) -> Any:
        labels = dict(zip(("w", "b"), rates, strict=True))
        return optax.partition({name: lrx.sgd(rate, momentum=0.9) for name, rate in rates.items()}, labels)

    _, state = advance(groups(body=0.1, head=1.0), groups(body=0.1, head=1.0).init(PARAMS), 2)
    state = lrx.scale_learning_rate(state, 0.5, group="head")
    carried = lrx.carry_over(state, groups(body=0.2, head=2.0).init(PARAMS))
    assert not carried.fresh
    _, after = advance(groups(body=0.2, head=2.0), carried.state)
    np.testing.assert_allclose([*lrx.learning_rates(after).values()], [0.2, 1.0], rtol=1e-6)
    other = lrx.carry_over(state, groups(body=0.2, tail=2.0).init(PARAMS))
    assert any("tail" in line for line in other.fresh)
    assert any("head" in line for line in other.dropped)


def test_what_does_not_fit_is_said_and_begins_anew() -> None:
    old = lrx.sgd(0.1, momentum=0.9)
    _, state = advance(old, old.init(PARAMS))
    other = {"w": jnp.zeros(3), "b": jnp.array(0.5)}
    carried = lrx.carry_over(state, old.init(other))
    assert carried.fresh == ("MomentumState at 0 (velocity/w, float32[3] here, float32[2] there)",)
    assert "begins anew: MomentumState at 0 (velocity/w" in str(carried)
    np.testing.assert_array_equal(carried.state[0].velocity["w"], 0)
    np.testing.assert_array_equal(carried.state[0].velocity["b"], state[0].velocity["b"])
    back = lrx.carry_over(state, lrx.sgd(0.1).init(PARAMS))
    assert back.dropped == ("MomentumState at 0",)
    wide = lrx.sgd(0.1, momentum=0.9).init({f"layer_{i}": jnp.zeros(3) for i in range(300)})
    assert len(str(lrx.carry_over(state, wide))) < 400


def test_what_is_carried_over_can_be_donated() -> None:
    tx = lrx.rollback_on_divergence(lrx.adam(schedule()))
    old = lrx.adam(schedule())
    _, state = advance(old, old.init(PARAMS))
    carried = lrx.carry_over(state, tx.init(PARAMS)).state
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((carried, state, PARAMS))]
    assert len(set(pointers)) == len(pointers)
    shapes = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(carried)]
    assert shapes == [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tx.init(PARAMS))]


def test_states_with_nothing_in_common_are_refused() -> None:
    state = lrx.sgd(0.1).init(PARAMS)
    with pytest.raises(ValueError, match=r"something in common with new_state, got nothing .*RateState at 0"):
        lrx.carry_over(state, optax.sgd(0.1, momentum=0.9).init(PARAMS))
    with pytest.raises(TypeError, match="must hold arrays, got an abstract state"):
        lrx.carry_over(jax.eval_shape(lrx.sgd(0.1).init, PARAMS), state)


def test_groups_are_made_and_dissolved() -> None:
    """Check that each takes its part of the moments, and gives it back."""
    one = lrx.adam(schedule())
    two = optax.partition({"body": lrx.adam(schedule()), "head": lrx.adam(schedule())}, LABELS)
    states = [advance(tx, tx.init(PARAMS), 4)[1] for tx in (one, two)]
    for old, new, state in ((one, two, states[0]), (two, one, states[1])):
        carried = lrx.carry_over(state, new.init(PARAMS))
        assert not carried.dropped
        expected, _ = advance(old, state)
        updates, _ = advance(new, carried.state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)
