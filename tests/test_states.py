"""What states say by methods, and how they print."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, Case, all_cases
from flax import nnx
from foreign_states import cooling, fixed_rate

import lrx
from lrx.states import Snapshot

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([0.3, -0.7]), "b": jnp.array(2.0)}


def test_a_state_of_ones_own_is_read_shown_and_stops() -> None:
    tx = cooling(optax.chain(optax.scale_by_adam(), fixed_rate(0.5)))
    state = tx.init(PARAMS)
    assert float(lrx.learning_rate(state)) == 0.5
    for step in range(3):
        assert not lrx.stopped(state)
        _, state = tx.update(GRADS, state, PARAMS)
        assert float(lrx.learning_rate(state)) == 0.5 * 0.5**step
        assert lrx.monitor(state, scalars=True) == {"learning_rate": 0.5 * 0.5**step, "gain": 0.5**step}
    assert lrx.stopped(state)
    with pytest.raises(ValueError, match="2 learning rates on the path"):
        lrx.learning_rate(optax.chain(fixed_rate(0.5), lrx.sgd(0.1)).init(PARAMS))


def test_a_rate_within_a_state_of_ones_own_is_read_and_changed() -> None:
    tx = cooling(lrx.sgd(0.8))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    _, state = tx.update(GRADS, lrx.scale_learning_rate(state, 0.5), PARAMS)
    assert float(lrx.learning_rate(state)) == np.float32(0.2)
    with pytest.raises(ValueError, match="holds no learning rate that could be scaled"):
        lrx.scale_learning_rate(fixed_rate(0.5).init(PARAMS), 0.5)


def test_a_field_with_the_name_of_a_method_says_nothing() -> None:
    """`adamw` keeps a field `rate`, which is a state and no method."""
    state = lrx.adamw(0.1).init(PARAMS)
    assert not callable(state.rate)
    assert float(lrx.learning_rate(state)) == np.float32(0.1)


# --- how states print ----------------------------------------------------------------------------------------------


def test_a_state_prints_scalars_as_numbers_and_arrays_by_type_and_shape() -> None:
    tx = lrx.adam(0.1)
    _, state = tx.update({"w": jnp.ones(3)}, tx.init({"w": jnp.zeros(3)}))
    adam, rate = map(repr, state)
    assert adam == (
        "AdamState(count=1, b1=0.9, b2=0.999, first_weight=0.1, second_weight=0.001, "
        "first_moment={'w': float32[3]}, second_moment={'w': float32[3]})"
    )
    assert rate == "RateState(count=1, step=1, learning_rate=0.1, unscaled=0.1, scale=1.0, memories=((),))"
    traced: list[str] = []
    jax.jit(lambda state: traced.append(repr(state)))(state)
    assert "RateState(count=int32[], step=int32[], learning_rate=float32[]" in traced[0]


def _with_no_arrays_written_out(text: str) -> None:
    assert "Array(" not in text
    assert "array(" not in text
    assert "\n" not in text


@all_cases
def test_every_state_prints_in_a_few_lines(case: Case) -> None:
    tx = case()
    _with_no_arrays_written_out(repr(tx.init(PARAMS)))
    assert len(repr(tx.init(PARAMS))) < 1200
    # Of a wide tree no more than of a small one, traced or planned.
    wide = {f"layer_{i}": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)} for i in range(200)}
    planned = jax.eval_shape(tx.init, wide)
    _with_no_arrays_written_out(repr(planned))
    assert len(repr(planned)) < 1600


def test_states_print_after_donation_and_within_snapshots() -> None:
    state = lrx.sgd(0.1).init(PARAMS)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    assert "learning_rate=float32[]" in repr(state)
    assert repr(Snapshot(PARAMS, ())) == "Snapshot(...)"
    batched = jax.vmap(lambda rate: lrx.sgd(rate).init(PARAMS))(jnp.arange(1.0, 4.0))
    assert "learning_rate=float32[3]" in repr(batched)
    assert len(CASES) > 80


def test_states_within_an_nnx_optimizer_print_their_numbers() -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, lrx.adam(0.1), wrt=nnx.Param)
    text = repr(optimizer.opt_state)
    assert "AdamState(count=0, b1=0.9" in text
    assert "first_moment={'bias': float32[3], 'kernel': float32[2,3]}" in text
