"""What is trained: models, data and losses, and what is refused of them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from training.linear import SGD, assert_identical, counting, linear, start

import lrx
from lrx.training import (
    Batches,
    Workload,
    train,
)
from lrx.training.sampling import keys_of


def test_batches_put_arrays_on_the_device_and_drop_the_incomplete_batch():
    batches = Batches({"x": np.zeros((10, 2), np.uint8), "y": np.zeros(10)}, batch_size=np.int64(3))
    assert (batches.num_examples, batches.steps_per_epoch) == (10, 3)
    assert isinstance(batches.arrays["x"], jax.Array)
    assert batches.arrays is batches.arrays
    assert batches.arrays["x"].dtype == jnp.uint8


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((np.zeros(4), np.zeros(5)), 2), ValueError, r"same leading axis.*arrays\[0\] has 4.*arrays\[1\] has 5"),
        (((), 2), ValueError, "at least one array"),
        (({"x": np.float32(1.0)}, 2), ValueError, r"arrays\['x'\] must be an array with a leading axis"),
        ((np.zeros(4), 5), ValueError, "at most the number of examples, 4, got batch_size=5"),
        ((np.zeros(4), 0), ValueError, "batch_size must be a whole number"),
        ((np.zeros(4), 1.5), ValueError, "batch_size must be a whole number"),
        (({"x": np.array(["a", "b"])}, 1), TypeError, r"arrays\['x'\] must hold numbers, got an array of <U1"),
        ((np.zeros(4), 2, "flip"), TypeError, "transform must be a function"),
        ((np.zeros(4), 2, lambda batch, key: batch, 1), TypeError, "shuffle must be True or False"),
    ],
)
def test_batches_refuse_what_cannot_be_drawn_from(arguments, error, message):
    with pytest.raises(error, match=message):
        Batches(*arguments)


def test_workload_refuses_what_it_cannot_call():
    batches = Batches(np.zeros(4), 2)
    with pytest.raises(TypeError, match="name must be a string"):
        Workload(3, len, len, batches)
    with pytest.raises(TypeError, match="init must be a function"):
        Workload("w", None, len, batches)
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        Workload("w", len, 0.5, batches)
    with pytest.raises(TypeError, match=r"batches must be an lrx\.training\.Batches, got a tuple"):
        Workload("w", len, len, (np.zeros(4),))
    with pytest.raises(TypeError, match="evaluate must be a function"):
        Workload("w", len, len, batches, evaluate=0.5)
    for wrong in ({"init_fn": None}, {"loss_fn": None}, {"evaluate": 3}, {"has_state": 1}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            Workload.from_functions(**{"loss_fn": len, "init_fn": len, "batches": batches, "name": "w", **wrong})


def test_from_functions_refuses_another_order_by_showing_its_own():
    batches, order = Batches(np.zeros(4), 2), r"the order is Workload\.from_functions\(loss_fn, init_fn, batches, name="
    with pytest.raises(TypeError, match=f"loss_fn must be a function, got loss_fn='line': {order}"):
        Workload.from_functions("line", len, len, batches)
    with pytest.raises(TypeError, match=order):
        Workload.from_functions("line", len, batches)
    with pytest.raises(TypeError, match=f"loss_fn must take the parameters, a batch and a key, .*{order}"):
        Workload.from_functions(lambda key: 0.0, lambda params, batch, key: 0.0, batches)
    with pytest.raises(TypeError, match=order):
        Workload.from_functions(lambda key: 0.0, lambda w, state, batch, key: 0.0, batches, has_state=True)
    Workload.from_functions(lambda *arguments: 0.0, lambda *arguments: 0.0, batches)
    Workload.from_functions(lambda params, batch=None, key=None: 0.0, lambda key, *rest: 0.0, batches)


def test_from_functions_with_state_takes_the_functions_as_they_are():
    plain = counting()
    lifted = Workload.from_functions(
        plain.loss_fn, plain.init, plain.batches, name="counting", evaluate=plain.evaluate, has_state=True
    )
    assert_identical(train(plain, lrx.sgd(0.0), steps=2), train(lifted, lrx.sgd(0.0), steps=2))


@pytest.mark.slow
def test_importing_training_imports_no_optional_package():
    code = "import sys, lrx.training; print([m for m in ('flax', 'orbax', 'rich', 'sklearn') if m in sys.modules])"
    out, errors = start(code).communicate(timeout=60)
    assert out.strip() == "[]", errors


def test_batches_start_no_backend_before_they_are_used():
    program = """
import jax, numpy as np, lrx
from jax._src import xla_bridge
values = np.ones((4, 2))
batches = lrx.Batches((values, np.zeros(4, np.int32)), batch_size=2)
workload = lrx.Workload.from_functions(lambda w, batch, key: w, lambda key: 0.0, batches, name="w")
values[:] = 2.0
print(workload, batches.steps_per_epoch, batches.num_examples)
assert not xla_bridge.backends_are_initialized()
inside = jax.jit(lambda: batches.arrays[0].sum())()
assert float(inside) == float(batches.arrays[0].sum()) == 8.0
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Batches((float32[4,2], int32[4]), batch_size=2)" in result.stdout


def test_batches_survive_copies_and_pickles():
    for used in (False, True):
        batches = Batches(np.ones((4, 2), np.float32), batch_size=2)
        if used:
            batches.arrays  # noqa: B018
        for same in (copy.copy(batches), pickle.loads(pickle.dumps(batches)), dataclasses.replace(batches)):
            np.testing.assert_array_equal(same.arrays, np.ones((4, 2)))
            assert same.batch_size == 2


@pytest.mark.parametrize("seed", [0, 3])
def test_the_loss_at_a_seed_is_that_of_the_first_step_of_its_run(seed):
    workload = linear()
    history = lrx.train(workload, SGD, steps=1, seed=seed)
    params, _ = workload.init(keys_of(seed).init)
    loss = workload.loss_at(seed)
    assert float(jax.jit(loss)(params)) == pytest.approx(float(history.loss[0]), rel=1e-6)
    assert float(jax.jit(lambda loss, params: loss(params))(loss, params)) == float(jax.jit(loss)(params))


def test_the_loss_at_a_batch_takes_the_model_state_that_is_given():
    workload = counting()
    assert float(workload.loss_at(jnp.array([7, 2]))({"w": jnp.zeros(())})) == 7.0
    _, state = workload.init(jax.random.key(0))
    given = workload.loss_at(jnp.array([7, 2]), model_state=jax.tree.map(lambda x: x + 5, state))
    assert int(given.model_state["steps"]) == 5
    stream = Batches.stream(lambda: iter(np.float32([[1.0, 3.0], [5.0, 5.0]])), steps_per_epoch=2)
    bowl = Workload.from_functions(lambda w, x, key: jnp.mean((w - x) ** 2), lambda key: jnp.ones(()), stream)
    assert float(bowl.loss_at(0)(jnp.float32(2.0))) == 1.0
    with pytest.raises(ValueError, match=r"^seed must be a whole number from 0"):
        bowl.loss_at(-1)
