"""An evaluation is compiled once, takes its data as an argument, and knows no trace."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.training import Batches, Evaluation, Workload
from lrx.training.identity import differences, run_identity


def loss_fn(w, batch):
    return jnp.mean((w * batch[0] - batch[1]) ** 2)


def line(evaluate):
    x = jnp.linspace(-1.0, 1.0, 8)
    return Workload.from_functions(
        lambda w, batch, key: loss_fn(w, batch), lambda key: jnp.float32(2.0), Batches((x, 3 * x), 4), evaluate=evaluate
    )


def held_out(shift=0.0):
    x = np.linspace(-1, 1, 6, dtype=np.float32) + np.float32(shift)
    return x, 3 * x


class Target:
    """An object of the user's own, of which only a trace shows what it computes with."""

    value = 1.0


def test_a_new_evaluation_sees_what_an_object_holds_now():
    def function(w, arrays):
        return {"target": target.value + 0.0 * w}

    target = Target()
    for value in (1.0, 2.0, 1.0):
        target.value = value
        assert float(Evaluation(function, held_out())(jnp.float32(0.0))["target"]) == value


def test_an_evaluation_is_traced_once_and_takes_its_data_as_an_argument():
    traced = []

    def function(w, arrays):
        traced.append(arrays[0])
        return {"loss": loss_fn(w, arrays)}

    workload = line(Evaluation(function, held_out()))
    for w in (2.0, 4.0):
        found = workload.evaluate(jnp.float32(w), ())
        assert float(found["loss"]) == pytest.approx(np.mean(held_out()[0] ** 2), rel=1e-6)
    assert len(traced) == 1
    assert isinstance(traced[0], jax.core.Tracer)
    history = lrx.train(workload, lrx.sgd(0.1), steps=4, evaluate_every=2)
    assert history.evaluations["loss"][-1] < history.evaluations["loss"][0]
    assert len(traced) == 1


def test_the_first_call_may_be_in_a_trace():
    evaluation = Evaluation(lambda w, state, arrays: {"loss": loss_fn(w, arrays) + state}, held_out())
    inside = jax.jit(jax.vmap(evaluation))(jnp.array([2.0, 3.0]), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(inside["loss"], [np.mean(held_out()[0] ** 2), 1.0], rtol=1e-6)
    assert float(evaluation(jnp.float32(3), jnp.float32(1))["loss"]) == 1.0


def test_later_changes_of_an_array_do_not_reach_it():
    arrays = held_out()
    evaluation = Evaluation(lambda w, arrays: {"loss": loss_fn(w, arrays)}, arrays)
    arrays[0][:] = 7
    assert float(evaluation(jnp.float32(3))["loss"]) < 1e-12


def test_a_run_with_other_held_out_data_is_another_run():
    def identity(shift):
        return run_identity(
            line(Evaluation(lambda w, arrays: {"loss": loss_fn(w, arrays)}, held_out(shift))), lrx.sgd(0.1)
        )

    assert differences(identity(0.0), identity(0.0)) == []
    assert differences(identity(0.0), identity(0.5)) == ["evaluate computes something else"]


def test_it_prints_in_a_line_and_refuses_what_is_not_a_function():
    assert repr(Evaluation(loss_fn, held_out())) == "Evaluation(loss_fn, (float32[6], float32[6]))"
    with pytest.raises(TypeError, match=r"function must be a function \(params, arrays\) -> .*, got function=3"):
        Evaluation(3, held_out())


SCALE = 1.0


def test_a_global_that_is_changed_is_not_missed(monkeypatch):
    evaluate = Evaluation(lambda slope, x: {"error": SCALE * jnp.mean(slope * x)}, jnp.ones(2))
    assert float(evaluate(jnp.float32(1.0))["error"]) == 1.0
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert float(evaluate(jnp.float32(1.0))["error"]) == 2.0
