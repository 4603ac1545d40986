"""A rate is an object: it is rebuilt by its repr, pickled, compared, and handed to JAX and optax."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rate_examples import COUNTS, GRADS, PARAMS, cosine, halving, leaves_equal, plateau

import lrx
from lrx.rates import Schedule

# --- repr, pickle, copy ----------------------------------------------------------------------------------------------


OBJECTS: dict[str, Callable[[], Any]] = {
    "constant": lambda: lrx.constant(0.1),
    "linear_decay": lambda: lrx.linear_decay(0.1, 7, end_value=0.01),
    "step_decay": lambda: lrx.step_decay(0.1, 5),
    "cosine_decay": cosine,
    "cyclical": lambda: lrx.cyclical(0.01, 0.1, 4, down_steps=3, mode="triangular2"),
    "numpy arguments": lambda: lrx.cosine_decay(np.float32(0.1), np.int64(20), end_value=jnp.float32(0.01)),
    "warmup": lambda: lrx.warmup(0.5 * cosine(), 5, init_value=0.001, mode="exponential"),
    "join": lambda: lrx.join([np.float32(0.3), cosine() * 2, lrx.warmup(0.2, 3)], [np.int64(4), 30]),
    "nested": lambda: lrx.warmup(lrx.join([lrx.warmup(0.3, 2), 0.1 * lrx.step_decay(1.0, 3)], [6]) * 3, 4),
    "number left": lambda: 0.3 * cosine(),
    "number right": lambda: cosine() * 0.3,
    "numbers both": lambda: 3 * cosine() * 0.3,
    "np number left": lambda: np.float32(0.3) * cosine(),
    "jax number left": lambda: jnp.float32(0.3) * cosine(),
    "number of a product": lambda: 0.7 * (0.3 * cosine()),
    "product of products": lambda: (cosine() * 0.3) * (0.7 * (lrx.step_decay(1.1, 3) * 0.9)),
    "two constants": lambda: lrx.constant(0.1) * lrx.constant(0.7),
    "three constants": lambda: lrx.constant(0.1) * (lrx.constant(0.7) * 0.3),
    "schedules": lambda: cosine() * lrx.warmup(1.0, 10),
    "quotient": lambda: cosine() / 3,
    "quotients": lambda: 0.7 * (cosine() * 2 / np.float32(0.3)) * (lrx.constant(0.1) / 2),
    "quotient of a rate": lambda: cosine() * plateau() / 3,
    "multiplier of a quotient": lambda: (cosine() / 2).multiplier() * plateau() / 2,
    "rate": lambda: cosine() * plateau(),
    "rate times rate": lambda: 2 * (cosine() * plateau()) * (plateau(mode="max") * 0.5),
    "controller": lambda: lrx.reduce_on_plateau(patience=np.int32(3), feedback="observed"),
    "controllers": lambda: plateau() * (plateau() * plateau()),
    "number times controller": lambda: 0.1 * plateau(),
    "multiplier": lambda: cosine().multiplier(),
    "multiplier of a product": lambda: (cosine() * 2).multiplier() * plateau(),
}


def same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    assert repr(left) == repr(right)
    if isinstance(left, Schedule):
        np.testing.assert_array_equal(left(COUNTS), right(COUNTS))
    losses = [2.0, 1.0, 1.0, 1.5, 0.5]
    states = left.init(PARAMS), right.init(PARAMS)
    for loss in losses:
        results = [tx.update(GRADS, state, PARAMS, value=loss) for tx, state in zip((left, right), states, strict=True)]
        leaves_equal(*results)
        states = tuple(lrx.observe(state, value=loss) if "observed" in repr(left) else state for _, state in results)


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS.keys())
def test_repr_rebuilds_the_object_to_the_last_bit(make: Callable[[], Any]) -> None:
    same(make(), eval(repr(make()), dict(vars(lrx))))


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS.keys())
def test_equal_calls_make_equal_objects(make: Callable[[], Any]) -> None:
    original = make()
    for again in (make(), pickle.loads(pickle.dumps(original))):
        assert again == original
        assert hash(again) == hash(original)


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS.keys())
def test_pickle_and_copies_rebuild_the_object(make: Callable[[], Any]) -> None:
    original = make()
    for again in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original), copy.copy(original)):
        same(original, again)


def test_repr_is_what_one_would_write() -> None:
    assert repr(lrx.warmup(cosine(), 500) * lrx.reduce_on_plateau(patience=5)) == (
        "warmup(cosine_decay(0.1, 20), 500) * reduce_on_plateau(patience=5)"
    )
    assert repr(0.5 * cosine()) == "0.5 * cosine_decay(0.1, 20)"
    assert repr(1e-3 * lrx.reduce_on_plateau()) == "0.001 * reduce_on_plateau()"
    assert repr(cosine() * 3 / 2) == "cosine_decay(0.1, 20) * 3 / 2"
    assert repr(3 * (cosine() / 2)) == "3 * (cosine_decay(0.1, 20) / 2)"
    assert repr(2 * (3 * cosine())) == "2 * (3 * cosine_decay(0.1, 20))"
    assert repr(Schedule(halving) * 2) == "Schedule(halving) * 2"
    assert repr(Schedule(lambda t: 0.1)) == "Schedule(<lambda>)"


def test_a_schedule_of_a_named_function_pickles() -> None:
    same(Schedule(abs), pickle.loads(pickle.dumps(Schedule(abs))))


# --- what jax and optax do with the object ---------------------------------------------------------------------------


def test_equality_is_that_of_the_arguments_and_the_hash_agrees() -> None:
    schedule = cosine()
    assert schedule == schedule
    assert schedule == cosine()
    assert not schedule != cosine()  # noqa: SIM202
    assert hash(schedule) == hash(cosine())
    assert schedule != tuple(schedule)
    assert not schedule == tuple(schedule)  # noqa: SIM201
    assert not tuple(schedule) == schedule  # noqa: SIM201
    assert schedule != 0.5 * cosine()
    assert schedule != cosine().multiplier()
    assert {schedule: 1}[cosine()] == 1
    assert plateau() * cosine() == plateau() * cosine() != cosine() * plateau()
    assert schedule != 0.1
    assert schedule is not None
    assert bool(schedule)


@pytest.mark.parametrize("make", [cosine, plateau, lambda: cosine() * plateau()])
def test_a_factor_passes_through_jax_as_a_whole(make: Callable[[], Any]) -> None:
    factor = make()
    assert jax.tree.leaves(factor) == []
    assert jax.tree.map(lambda leaf: leaf, {"tx": factor})["tx"] is factor
    assert jax.tree.map(lambda leaf: None, factor) is factor
    traces = []

    @jax.jit
    def step(tx: Any, grads: Any, state: Any) -> Any:
        traces.append(tx)
        return tx.update(grads, state, value=1.0)

    state = factor.init(GRADS)
    for _ in range(3):
        _, state = step(factor, GRADS, state)
    assert len(traces) == 1
    static = jax.jit(lambda tx, grads: tx.update(grads, tx.init(grads), value=1.0)[0], static_argnums=0)
    leaves_equal(static(factor, GRADS), factor.update(GRADS, factor.init(GRADS), value=1.0)[0], rtol=1e-6)


# In a process of its own: what is not right here may end the process, the second time it is asked for.
SCHEDULES_AS_FUNCTIONS = """
import jax, jax.numpy as jnp, lrx

first, second, step, steps = lrx.linear_decay(0.8, 8), lrx.warmup(lrx.constant(0.4), 4), jnp.int32(2), jnp.arange(3)
uses = {
    "jit": lambda: jax.jit(first)(step),
    "an equal schedule": lambda: jax.jit(lrx.linear_decay(0.8, 8))(step),
    "lower": lambda: jax.jit(first).lower(step).compile()(step),
    "eval_shape": lambda: jax.eval_shape(first, step),
    "make_jaxpr": lambda: jax.make_jaxpr(first)(step),
    "cond": lambda: jax.lax.cond(True, first, second, step),
    "cond, compiled": lambda: jax.jit(lambda p: jax.lax.cond(p, first, second, step))(True),
    "switch": lambda: jax.lax.switch(0, [first, second], step),
    "checkpoint": lambda: jax.checkpoint(first)(step),
    "vmap": lambda: jax.vmap(first)(steps)[2],
    "map": lambda: jax.lax.map(first, steps)[2],
    "pmap": lambda: jax.pmap(first)(step[None])[0],
    "callback": lambda: jax.pure_callback(first, jax.ShapeDtypeStruct((), jnp.float32), step),
    "export": lambda: jax.export.export(jax.jit(first))(step).call(step),
}
for name, use in 2 * list(uses.items()):
    result = use()
    assert name in ("eval_shape", "make_jaxpr") or abs(result - 0.6) < 1e-6, (name, result)
print("done")
"""


@pytest.mark.slow
def test_a_schedule_is_a_function_for_jax_as_often_as_one_likes() -> None:
    result = subprocess.run([sys.executable, "-c", SCHEDULES_AS_FUNCTIONS], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr


def test_a_factor_unpacks_as_every_transformation_does() -> None:
    init, update = cosine()
    updates, _ = update(GRADS, init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["b"], -0.2, rtol=1e-6)
    assert len(cosine()) == 2
    assert cosine()[0] is not None
    again = cosine()._replace(init=lambda params: init(params)._replace(scale=jnp.float32(0.5)))
    updates, _ = again.update(GRADS, again.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["b"], -0.1, rtol=1e-6)


def test_optax_s_state_functions_find_their_way() -> None:
    tx = lrx.adam(cosine() * plateau())
    state = tx.init(PARAMS)
    assert float(optax.tree.get(state, "learning_rate")) == np.float32(0.1)
    marked = optax.tree.map_params(tx, lambda leaf: leaf + 1, state, transform_non_params=lambda leaf: leaf)
    assert float(marked[0].first_moment["b"]) == 1.0
    leaves_equal(marked[1], state[1])


def test_the_updates_keep_the_types_of_the_gradients_leaf_by_leaf() -> None:
    grads = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32), "none": None}
    for tx in (cosine(), plateau(), cosine() * plateau()):
        updates, state = tx.update(grads, tx.init(grads), value=jnp.bfloat16(1.0))
        assert updates["w"].dtype == jnp.bfloat16
        assert updates["b"].dtype == jnp.float32
        assert updates["none"] is None
        assert all(leaf.dtype in (jnp.float32, jnp.int32, bool) for leaf in jax.tree.leaves(state))


def test_products_run_in_scan_and_compile_once() -> None:
    tx = lrx.heavy_ball(cosine() * plateau())
    traces = []

    @jax.jit
    def run_all(state: Any, losses: jax.Array) -> Any:
        traces.append(1)

        def body(state: Any, loss: jax.Array) -> Any:
            _, state = tx.update(GRADS, state, PARAMS, value=loss)
            return state, lrx.learning_rate(state)

        return jax.lax.scan(body, state, losses)

    state, rates = run_all(tx.init(PARAMS), jnp.ones(4))
    state, more = run_all(state, jnp.ones(4))
    assert len(traces) == 1
    np.testing.assert_allclose(np.concatenate([rates, more]), cosine()(np.arange(8)) * 0.5 ** np.arange(8.0), rtol=1e-6)


# --- importing -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_importing_lrx_imports_none_of_the_optional_packages() -> None:
    script = (
        "import sys, lrx\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'flax', 'orbax', 'matplotlib', 'rich', 'sklearn', 'typer', 'pooch', 'optuna'}))"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
