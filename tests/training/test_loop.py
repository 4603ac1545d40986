"""The training loop: exact, compiled once, and with errors that say what went wrong."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.linear import SGD, counting, linear, traced_workload

import lrx
from lrx.training import (
    Batches,
    DivergenceError,
    Workload,
    train,
)
from lrx.training.program import SEGMENT_STEPS, program_of
from lrx.training.sampling import keys_of

# --- the steps


def test_history_equals_a_plain_python_loop():
    workload, tx, seed = linear(), lrx.adam(lrx.linear_decay(0.1, 20)), 3
    history = train(workload, tx, steps=17, seed=seed)

    @jax.jit
    def update(params, opt_state, batch, loss_key):
        (loss, _), grads = jax.value_and_grad(workload.loss_fn, has_aux=True)(params, (), batch, loss_key)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss)
        return optax.apply_updates(params, updates), opt_state, loss, lrx.learning_rate(opt_state)

    init_key, key = jax.random.split(jax.random.key(seed))
    shuffle_key, step_key = jax.random.split(key)
    params, _ = workload.init(init_key)
    opt_state, losses, rates = tx.init(params), [], []
    for step in range(17):
        epoch, position = divmod(step, 60 // 8)
        order = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), 60)[8 * position : 8 * position + 8]
        transform_key, loss_key = jax.random.split(jax.random.fold_in(step_key, step))
        minibatch = jax.tree.map(operator.itemgetter(order), workload.batches.arrays)
        batch = workload.batches.transform(minibatch, transform_key)
        params, opt_state, loss, rate = update(params, opt_state, batch, loss_key)
        losses.append(loss)
        rates.append(rate)
    # Compiled as one program the sums are rounded in another order: a few units in the last place in 17 steps.
    np.testing.assert_allclose(history.loss, losses, rtol=1e-5)
    np.testing.assert_allclose(history.rate, rates, rtol=1e-6)
    np.testing.assert_allclose(history.params["w"], params["w"], rtol=1e-5)


def test_an_epoch_sees_each_example_once_and_each_epoch_another_order():
    history = train(counting(12, 3), lrx.sgd(0.0), epochs=3)
    np.testing.assert_array_equal(history.model_state["seen"], np.full(12, 3))
    first_of_each_batch = np.asarray(history.loss).reshape(3, 4)
    assert len({tuple(row) for row in first_of_each_batch}) == 3
    other = train(counting(12, 3), lrx.sgd(0.0), epochs=3, seed=1)
    assert not np.array_equal(other.loss, history.loss)


def test_dropped_examples_are_others_in_each_epoch():
    seen = train(counting(10, 4), lrx.sgd(0.0), epochs=20).model_state["seen"]
    assert int(seen.sum()) == 20 * 8
    assert int(seen.min()) > 0


def test_without_shuffling_batches_come_in_order():
    history = train(counting(10, 3, shuffle=False), lrx.sgd(0.0), epochs=2)
    np.testing.assert_allclose(history.loss - np.sin(1.0), [0, 3, 6, 0, 3, 6], atol=1e-6)
    np.testing.assert_array_equal(history.model_state["seen"], [2] * 9 + [0])


@pytest.mark.slow
def test_line_searches_get_what_they_need():
    def loss_fn(w: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.mean((x @ w - jnp.sum(x, axis=1)) ** 2)

    x = jax.random.normal(jax.random.key(0), (16, 3))
    workload = Workload.from_functions(loss_fn, lambda key: jnp.zeros(3), Batches(x, 16), name="exact")
    assert train(workload, optax.lbfgs(), steps=10).loss[-1] < 1e-6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_loss_is_float32_whatever_the_model_is(dtype):
    x = jnp.linspace(-1.0, 1.0, 32, dtype=dtype)
    workload = Workload.from_functions(
        lambda w, x, key: jnp.mean((w * x) ** 2), lambda key: jnp.ones((), dtype), Batches(x, 8), name="low"
    )
    history = train(workload, SGD, steps=3)
    assert history.loss.dtype == history.rate.dtype == np.float32
    assert history.params.dtype == dtype


def test_rate_and_metrics_by_step():
    history = train(linear(), lrx.adam(0.1 * lrx.reduce_on_plateau(factor=0.5, patience=0)), steps=12)
    factor = history.metrics["reduce_on_plateau/factor"]
    np.testing.assert_allclose(history.rate, np.float32(0.1) * factor, rtol=1e-6)
    assert factor[-1] < 1.0
    # The loss reaches the controller.
    np.testing.assert_allclose(history.metrics["reduce_on_plateau/best_value"][0], history.loss[0], rtol=1e-6)
    np.testing.assert_allclose(history.metrics["adam/b1"], np.full(12, 0.9), rtol=1e-6)


def test_rate_is_nan_where_there_is_none_or_several():
    assert np.isnan(train(linear(), optax.adam(0.1), steps=2).rate).all()
    groups = optax.partition({"a": lrx.sgd(0.1), "b": lrx.sgd(0.2)}, {"w": "b"})
    history = train(linear(), groups, steps=2)
    assert np.isnan(history.rate).all()
    np.testing.assert_allclose(history.metrics["learning_rate/b"], 0.2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"epochs": 3}, [7, 14, 21]),
        ({"epochs": 4, "evaluate_every": 3}, [21, 28]),
        ({"steps": 20}, [7, 14, 20]),
        ({"steps": 20, "evaluate_every": 8}, [8, 16, 20]),
        ({"steps": 3, "evaluate_every": 8}, [3]),
    ],
)
def test_evaluations_come_at_every_interval_and_at_the_end(arguments, expected):
    history = train(linear(), SGD, **arguments)
    assert history.evaluation_steps.tolist() == expected
    assert history.evaluations["norm"].shape == (len(expected),)
    assert history.evaluations["norm"].dtype == np.float32
    np.testing.assert_allclose(history.evaluations["norm"][-1], np.sum(history.params["w"] ** 2), rtol=1e-6)


def test_a_workload_without_evaluation_trains():
    x = jnp.ones(8)
    workload = Workload.from_functions(
        lambda w, x, key: jnp.mean(w * x), lambda key: jnp.ones(()), Batches(x, 4), name="one"
    )
    history = train(workload, SGD, epochs=2)
    assert history.loss.shape == (4,)
    assert history.evaluations == {}
    assert history.evaluation_steps.shape == (0,)


def test_epochs_segments_and_seeds_do_not_trace_again():
    traces: list[int] = []
    workload, tx = traced_workload(traces), lrx.sgd(0.1)
    train(workload, tx, steps=1)
    assert len(traces) == 2  # for the program; and for its key, since a loss that counts its calls may change
    train(workload, tx, epochs=5, seed=1)
    train(workload, tx, steps=300, evaluate_every=17)
    assert len(traces) == 2 + 2  # for the key of each call


def test_a_run_longer_than_a_segment_can_be_is_recorded_whole():
    steps = SEGMENT_STEPS + 5
    workload, tx = counting(4, 2), lrx.sgd(0.0)
    program, keys = program_of(workload, tx, stop_on_nonfinite=True), keys_of(0)
    state = program.initialize(keys.init)
    assert int(program.segment(state, jnp.arange(4), keys, 0, SEGMENT_STEPS, -1)[1]) == SEGMENT_STEPS
    history = train(workload, lrx.sgd(lrx.linear_decay(1.0, steps)), steps=steps, evaluate_every=steps)
    np.testing.assert_allclose(history.rate, 1 - np.arange(steps) / steps, atol=1e-6)
    assert int(history.model_state["steps"]) == steps


def test_states_that_share_buffers_with_the_parameters_are_no_trouble():
    history = train(linear(), optax.contrib.prodigy(), epochs=2)
    assert np.isfinite(history.loss).all()


# --- what goes wrong before training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one of epochs and steps"),
        ({"epochs": 1, "steps": 1}, ValueError, "exactly one of epochs and steps"),
        ({"epochs": 0}, ValueError, "epochs must be"),
        ({"epochs": 1.5}, ValueError, "epochs must be"),
        ({"epochs": 2**30}, ValueError, "epochs"),
        ({"steps": -1}, ValueError, "steps must be"),
        ({"steps": 2, "evaluate_every": 0}, ValueError, "evaluate_every must be"),
        ({"steps": 2, "checkpoint_every": 0.5}, ValueError, "checkpoint_every must be"),
        ({"steps": 2, "seed": -1}, ValueError, "seed must be"),
        ({"steps": 2, "seed": 2**31}, ValueError, "seed must be"),
        ({"steps": 2, "seed": True}, ValueError, "seed must be"),
        ({"steps": 2, "resume": 1}, TypeError, "resume must be True or False"),
        ({"steps": 2, "progress": 1}, TypeError, "progress must be True, False, None or a title"),
        ({"steps": 2, "stop_on_nonfinite": "no"}, TypeError, "stop_on_nonfinite must be True or False"),
    ],
)
def test_bad_arguments_raise(arguments, error, message):
    with pytest.raises(error, match=message):
        train(linear(), SGD, **arguments)


def test_other_types_raise():
    with pytest.raises(
        TypeError, match=r"workload must be an lrx\.Workload, got workload=\{\}: give lrx\.Workload\.from_functions"
    ):
        train({}, SGD, steps=1)
    with pytest.raises(TypeError, match="tx must be an optax transformation, with init and update, got a float"):
        train(linear(), 0.1, steps=1)


def test_functions_that_return_something_else_are_named():
    batches = Batches(jnp.ones((8, 2)), 4)
    good_init, good_loss = lambda key: (jnp.ones(2), ()), lambda w, s, x, key: (jnp.mean(x @ w), s)
    with pytest.raises(TypeError, match=r"init must return \(params, model_state\)"):
        train(Workload("w", lambda key: jnp.ones(2), good_loss, batches), SGD, steps=1)
    with pytest.raises(TypeError, match=r"loss_fn must return \(loss, model_state\)"):
        train(Workload("w", good_init, lambda w, s, x, key: jnp.mean(x @ w), batches), SGD, steps=1)
    with pytest.raises(ValueError, match=r"loss_fn must return a scalar loss, got one of shape \(4,\)"):
        train(Workload("w", good_init, lambda w, s, x, key: (x @ w, s), batches), SGD, steps=1)
    growing = Workload(
        "w", lambda key: (jnp.ones(2), jnp.int32(0)), lambda w, s, x, k: (jnp.mean(x @ w), s + 0.5), batches
    )
    with pytest.raises(
        TypeError, match=r"loss_fn must keep the types of model_state.* int32\[\] before.* float32\[\] after"
    ):
        train(growing, SGD, steps=1)


def test_evaluations_that_are_no_scalars_or_change_their_names_are_named():
    with pytest.raises(ValueError, match=r"evaluate must return scalars, got 'w' of shape \(3,\)"):
        train(linear(evaluate=lambda params: params), SGD, steps=1)
    calls: list[int] = []

    def fickle(params: Any) -> dict[str, Any]:
        calls.append(1)
        return {"a" if len(calls) == 1 else "b": jnp.float32(0.0)}

    with pytest.raises(ValueError, match=r"evaluate must always return the same names, got \['b'\] after \['a'\]"):
        train(linear(evaluate=fickle), SGD, epochs=2)


# --- a loss that is not finite


def test_a_nonfinite_loss_stops_at_its_step_with_the_state_before_it():
    schedule = lrx.linear_decay(1.0, 100)
    with pytest.raises(
        DivergenceError, match=r"the loss is nan at step 7 \(epoch 2.3\), at a learning rate of 0.93"
    ) as e:
        train(counting(fail_at=7), lrx.sgd(schedule), steps=50)
    assert isinstance(e.value, FloatingPointError)
    assert e.value.step == 7
    assert np.isnan(e.value.loss)
    assert e.value.rate == pytest.approx(0.93)
    before = train(counting(), lrx.sgd(schedule), steps=7)
    failed = e.value.history
    np.testing.assert_array_equal(failed.loss, before.loss)
    np.testing.assert_array_equal(failed.params["w"], before.params["w"])
    np.testing.assert_array_equal(failed.model_state["seen"], before.model_state["seen"])
    assert int(failed.opt_state[0].count if isinstance(failed.opt_state, tuple) else 7) == 7


def test_nothing_is_computed_after_a_nonfinite_loss():
    calls: list[int] = []
    workload = counting(fail_at=5)

    def transform(batch: jax.Array, key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return batch

    batches = Batches(workload.batches.arrays, 3, transform)
    watched = Workload("watched", workload.init, workload.loss_fn, batches)
    with pytest.raises(DivergenceError):
        train(watched, SGD, steps=1000)
    jax.effects_barrier()
    assert len(calls) == 6


def test_infinity_stops_too():
    workload = Workload.from_functions(
        lambda w, x, key: jnp.mean(x) * w**2, lambda key: jnp.ones(()), Batches(jnp.ones(4), 2), name="explodes"
    )
    with pytest.raises(DivergenceError, match="the loss is inf") as e:
        train(workload, lrx.sgd(100.0), epochs=100)
    assert np.isfinite(e.value.history.loss).all()
    assert len(e.value.history.loss) == e.value.step


def test_stop_on_nonfinite_false_lets_transformations_recover():
    tx = optax.apply_if_finite(lrx.sgd(0.1), max_consecutive_errors=3)
    history = train(counting(fail_at=4), tx, steps=10, stop_on_nonfinite=False)
    assert np.isnan(history.loss[4])
    assert np.isfinite(np.delete(history.loss, 4)).all()
    assert int(history.model_state["steps"]) == 10


def test_divergence_keeps_the_good_checkpoints_and_a_lower_rate_goes_on_from_there(tmp_path):
    def steep(threshold: float) -> Workload:
        def loss_fn(w: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
            return jnp.where(jnp.abs(w) > threshold, jnp.nan, jnp.mean(x) * w**2)

        return Workload.from_functions(loss_fn, lambda key: jnp.ones(()), Batches(jnp.ones(4), 2), name="steep")

    def rate(then: float) -> Any:  # w is halved six times; then it triples and turns, or goes on to be halved
        return lrx.sgd(lrx.join([0.25, then], [6]))

    with pytest.raises(DivergenceError, match=r"at step 11 .* The checkpoint of step 10 in .* is good"):
        train(steep(2.0), rate(2.0), steps=40, checkpoint=tmp_path, checkpoint_every=1)
    # The loss of the state of step 11 was not finite: that checkpoint is gone, those before it are not.
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [9, 10]
    history = train(steep(2.0), rate(0.25), steps=40, checkpoint=tmp_path, on_mismatch="continue")
    assert history.loss.shape == (40,)
    assert np.isfinite(history.loss).all()
