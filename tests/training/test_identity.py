"""No run is taken for another: every number that makes one is part of its identity, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training import train
from lrx.training.code import function_digest, may_act
from lrx.training.identity import differences, optimizer_identity, run_identity
from lrx.training.program_hash import program_identity

PARAMS = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}


def clipped(norm=1.0, rate=0.1, momentum=0.9):
    return optax.chain(optax.clip_by_global_norm(norm), lrx.sgd(rate, momentum=momentum))


def decayed(weight_decay=1e-4, b1=0.9, b2=0.999, eps=1e-8, rate=1e-3):
    return lrx.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def foreign(rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4):
    return optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)


def scheduled(peak=0.1, warmup_steps=5, decay_steps=100, end_value=0.01):
    return lrx.adam(lrx.warmup(lrx.cosine_decay(peak, decay_steps, end_value=end_value), warmup_steps))


def stepped(first=10, second=20, factor=0.5):
    return lrx.sgd(lrx.piecewise_constant(0.1, {first: 0.5, second: factor}))


def tabulated(first=0.1, late=0.3):
    return lrx.sgd(lrx.tabulated([first] + [0.2] * 50 + [late]))


def plateau(patience=5, factor=0.5, rtol=1e-4, cooldown=0, stop_after=20):
    rate = 0.1 * lrx.reduce_on_plateau(patience=patience, factor=factor, rtol=rtol, cooldown=cooldown)
    return lrx.adam(rate * lrx.early_stopping(patience=stop_after))


def injected(rate=1e-3, b1=0.9):
    return optax.inject_hyperparams(optax.adam)(learning_rate=rate, b1=b1)


def grouped(weight=1.0, bias=0.5, every=2):
    factors = {"w": weight, "b": bias}
    return lrx.accumulate(lrx.group_rates(lrx.heavy_ball(0.1), lambda path, leaf: path, factors), every)


def closed_over(scale=2.0, last=3.0):
    table = jnp.asarray([1.0, scale, last])

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g * table[jnp.minimum(state, 2)], updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


CHAINS = {
    clipped: {"norm": 1.5, "rate": 0.2, "momentum": 0.8},
    decayed: {"weight_decay": 2e-4, "b1": 0.8, "b2": 0.99, "eps": 1e-7, "rate": 2e-3},
    foreign: {"rate": 2e-3, "b1": 0.8, "b2": 0.99, "eps": 1e-7, "weight_decay": 0.0},
    scheduled: {"peak": 0.2, "warmup_steps": 6, "decay_steps": 101, "end_value": 0.02},
    stepped: {"first": 11, "second": 21, "factor": 0.4},
    tabulated: {"first": 0.11, "late": 0.31},
    plateau: {"patience": 6, "factor": 0.4, "rtol": 1e-3, "cooldown": 1, "stop_after": 21},
    injected: {"rate": 2e-3, "b1": 0.8},
    grouped: {"weight": 2.0, "bias": 0.4, "every": 3},
    closed_over: {"scale": 2.5, "last": 3.5},
}
CHANGES = [(make, name, value) for make, changes in CHAINS.items() for name, value in changes.items()]


@pytest.mark.parametrize("make", CHAINS, ids=lambda make: make.__name__)
def test_the_same_chain_made_anew_is_the_same_run(make):
    assert differences(optimizer_identity(make(), PARAMS), optimizer_identity(make(), PARAMS)) == []


@pytest.mark.parametrize(("make", "name", "value"), CHANGES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_chain_with_one_number_changed_is_another_run(make, name, value):
    found = differences(optimizer_identity(make(), PARAMS), optimizer_identity(make(**{name: value}), PARAMS))
    assert found
    assert all(text.startswith("tx") for text in found)


def test_a_difference_is_named_by_repr_or_by_the_numbers():
    def between(one, other):
        return differences(optimizer_identity(one, PARAMS), optimizer_identity(other, PARAMS))

    assert between(foreign(b1=0.9), foreign(b1=0.75)) == [
        "tx.update has other numbers: 0.1, 0.9 there, 0.25, 0.75 here"
    ]
    assert between(foreign(eps=1e-8), foreign(eps=1e-9))[0] in (
        "tx.update has another number: 1e-08 there, 1e-09 here",
        "tx.update computes something else: only here it has the number 1e-09",
    )
    assert between(lrx.constant(0.1), lrx.constant(0.2)) == ["tx is constant(0.1) there and constant(0.2) here"]


WORKLOAD = """
import jax, jax.numpy as jnp, numpy as np, lrx
from lrx.training import Batches, Workload

def line(scale=1.0, noise=0.1, flip=1.0, start=0.5, last=1.0, batch_size=4, shuffle=True, name="line", held_out=2.0):
    x = np.linspace(-1.0, last, 16, dtype=np.float32)
    test = jnp.asarray([1.0, held_out])
    def loss_fn(params, batch, key):
        return jnp.mean(scale * (params["w"] * batch - 3.0 * batch + noise * jax.random.normal(key)) ** 2)
    return Workload.from_functions(
        loss_fn, lambda key: {"w": start * jax.random.normal(key)},
        Batches(x, batch_size, transform=lambda batch, key: flip * batch, shuffle=shuffle), name=name,
        evaluate=lambda params: {"loss": jnp.sum((params["w"] - test) ** 2)},
    )

def tx():
    return lrx.adam(lrx.warmup(lrx.cosine_decay(0.1, 50), 5) * lrx.reduce_on_plateau(patience=7))
"""
exec(WORKLOAD)
line, adam = globals()["line"], globals()["tx"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 2.0}, "loss_fn (computes something else|has (an)?other number)"),
        ({"noise": 0.2}, "loss_fn (computes something else|has (an)?other number)"),
        ({"flip": -1.0}, "transform (computes something else|has (an)?other number)"),
        ({"start": 0.6}, "init (computes something else|has (an)?other number)"),
        ({"last": 1.5}, r"data is float32\[16\], checksum \w{8} there and float32\[16\], checksum \w{8} here"),
        ({"batch_size": 8}, "batch_size is 4 there and 8 here"),
        ({"shuffle": False}, "shuffle is True there and False here"),
        ({"name": "other"}, "workload is 'line' there and 'other' here"),
        ({"held_out": 2.5}, "evaluate computes something else"),
    ],
    ids=str,
)
def test_a_workload_with_one_thing_changed_is_another_run(tmp_path, change, message):
    there, here = run_identity(line(), adam()), run_identity(line(**change), adam())
    assert differences(there, run_identity(line(), adam())) == []
    found = "; ".join(differences(there, here))
    assert re.search(message, found), found


def test_a_fresh_process_with_another_order_of_hashes_sees_the_same_run():
    program = WORKLOAD + (
        "\nimport json\nfrom lrx.training.identity import run_identity"
        "\nprint(json.dumps(run_identity(line(), tx(), seed=3)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    there = json.loads(result.stdout)
    assert differences(there, json.loads(json.dumps(run_identity(line(), adam(), seed=3)))) == []


def test_programs_differ_by_arrays_inside_of_inner_functions():
    def make(last):
        table = np.asarray([1.0, last], np.float32)

        @jax.jit
        def inner(x):
            return jax.lax.cond(x > 0, lambda: table[0] * x, lambda: table[1] * x)

        return lambda x: jax.lax.fori_loop(0, 3, lambda i, c: inner(c), x)

    one, same, other = (program_identity(make(last), 1.0) for last in (2.0, 2.0, 3.0))
    assert one == same
    assert one != other


def test_an_array_of_numpy_is_the_same_constant_as_one_of_jax():
    def identity(table):
        return program_identity(lambda x: x * table, jnp.ones(2))

    table = np.array([1.0, 2.0], np.float32)
    assert identity(table) == identity(jnp.asarray(table))
    assert identity(table) != identity(table.view(np.int32).astype(np.float32))


def test_a_rule_of_differentiation_is_part_of_the_loss():
    def make(factor):
        @jax.custom_vjp
        def f(x):
            return x

        f.defvjp(lambda x: (x, None), lambda _, g: (factor * g,))
        return lambda x: f(x) ** 2

    one, same, other = (program_identity(jax.grad(make(factor)), 1.0) for factor in (2.0, 2.0, 3.0))
    assert one == same
    assert one != other


def test_a_function_that_cannot_be_traced_has_a_digest_that_counters_do_not_change():
    def make(data):
        calls = [0]
        lock = threading.Lock()

        def evaluate(params):
            """Evaluate."""
            with lock:
                calls[0] += 1
            return {"loss": float(np.sum(params - data))}

        return evaluate

    one, other = make(np.zeros(2)), make(np.ones(2))
    before = function_digest(one)
    one(np.ones(2))
    assert function_digest(one) == before == function_digest(make(np.zeros(2)))
    assert function_digest(other) != before


def _squares(params):
    return float(np.mean(np.asarray(params["w"]) ** 2))


class _Metric:
    def __init__(self, power):
        self.power, self.calls = power, 0

    def __call__(self, params):
        self.calls += 1
        return {"loss": self.error(params)}

    def error(self, params):
        return float(np.mean(np.abs(params["w"]) ** self.power))


class _OtherMetric(_Metric):
    def error(self, params):
        return -float(np.mean(np.abs(params["w"]) ** self.power))


def _by(scale, settings, power=2):
    return lambda params, *, shift=power: {"loss": scale * float(params["w"][0]) + settings["shift"] + shift}


def _count():
    seen = 0

    def evaluate(params):
        nonlocal seen
        seen += 1
        return {"loss": float(params["w"][0])}

    return evaluate


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda params: {"loss": _squares(params)}, lambda params: {"loss": -_squares(params)}),
        (lambda params: {"loss": _squares(params)}, lambda params: {"mae": _squares(params)}),
        (lambda params: [1.0 + x for x in params], lambda params: [2.0 + x for x in params]),
        (lambda params: params["w"] > 0, lambda params: params["w"] < 0),
        (_by(1.0, {"shift": 1.0}), _by(2.0, {"shift": 1.0})),
        (_by(1.0, {"shift": 1.0}), _by(1.0, {"shift": 2.0})),
        (_by(1.0, {"shift": 1.0}), _by(1.0, {"shift": 1.0}, power=3)),
        (_Metric(1), _Metric(2)),
        (_Metric(1), _OtherMetric(1)),
        (_Metric(1).error, _Metric(2).error),
    ],
    ids=["sign", "name", "inner code", "comparison", "closure", "dict", "default", "attribute", "method", "bound"],
)
def test_untraceable_functions_that_differ_have_other_digests(one, other):
    assert function_digest(one) == function_digest(one)
    assert function_digest(one) != function_digest(other)


def test_a_call_does_not_change_the_digest_of_what_counts_its_calls():
    for function in (_Metric(1), _count()):
        before = function_digest(function)
        function({"w": np.ones(2)})
        assert function_digest(function) == before
        assert may_act(function)
    assert not may_act(_scored(lambda w: {"mse": jnp.sum(w**2)}).evaluate)


def test_an_evaluation_that_counts_its_calls_is_not_called_to_be_compared(tmp_path):
    calls = []

    def evaluate(w):
        calls.append(w)
        return {"mse": jnp.sum(w**2)}

    for steps in (4, 8):
        train(_scored(evaluate), lrx.sgd(0.1), steps=steps, checkpoint=tmp_path)
    assert len(calls) == 2


# --- train


def test_train_refuses_a_run_that_was_made_with_something_else(tmp_path):
    train(line(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"(?s)holds another run, at step 4: tx is .*0\.1.* there and .*0\.2.* here.*"):
        train(line(), lrx.sgd(0.2), steps=4, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r'on_mismatch="continue"'):
        train(line(last=1.5), lrx.sgd(0.1), steps=8, checkpoint=tmp_path)
    extended = train(line(), lrx.sgd(0.1), steps=8, checkpoint=tmp_path)
    assert extended.resumed_at == 4
    assert extended.changes == {}


def test_going_on_with_something_else_is_recorded(tmp_path, capsys):
    train(line(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path)
    history = train(line(), lrx.sgd(0.2), steps=8, checkpoint=tmp_path, on_mismatch="continue")
    np.testing.assert_allclose(history.rate, [0.1] * 4 + [0.2] * 4, rtol=1e-6)
    assert list(history.changes) == [4]
    assert "0.2" in history.changes[4][0]
    said = capsys.readouterr().err
    assert "line: resumed at step 4" in said
    assert "goes on with something else from step 4: tx is" in said
    # What the folder holds is not what a call without the change makes, nor what one with it alone makes.
    for steps in (8, 10):
        with pytest.raises(ValueError, match=r'changed on the way, at step 4: tx is .*0\.2.*on_mismatch="continue"'):
            train(line(), lrx.sgd(0.2), steps=steps, checkpoint=tmp_path)
    again = train(line(), lrx.sgd(0.2), steps=10, checkpoint=tmp_path, on_mismatch="continue")
    assert again.resumed_at == 8
    assert again.changes == history.changes
    with pytest.raises(ValueError, match="another structure, from which this run cannot go on"):
        train(line(), lrx.adam(0.1), steps=12, checkpoint=tmp_path, on_mismatch="continue")
    with pytest.raises(ValueError, match="on_mismatch must be one of"):
        train(line(), lrx.adam(0.1), steps=12, on_mismatch="go")


def test_a_run_that_is_complete_says_so(tmp_path, capsys):
    train(line(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path)
    assert capsys.readouterr().err == ""
    assert train(line(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path).resumed_at == 4
    assert "line: complete" in capsys.readouterr().err


def _scored(evaluate):
    return dataclasses.replace(line(), evaluate=lambda params, model_state: evaluate(params["w"]))


EVALUATIONS = {
    "another factor": lambda w: {"mse": 2.0 * jnp.sum((w - 3.0) ** 2)},
    "another formula": lambda w: {"mse": jnp.sum(jnp.abs(w - 3.0))},
    "another name": lambda w: {"mae": jnp.sum((w - 3.0) ** 2)},
    "untraceable": lambda w: {"mse": -float(np.sum((w - 3.0) ** 2))},
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    train(_scored(lambda w: {"mse": jnp.sum((w - 3.0) ** 2)}), lrx.sgd(0.1), steps=4, checkpoint=folder)
    return folder


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_a_run_is_not_taken_for_one_with_another_evaluation(evaluated, evaluate):
    for steps in (4, 8):
        with pytest.raises(ValueError, match=r"holds another run, at step 4: .*evaluate"):
            train(_scored(evaluate), lrx.sgd(0.1), steps=steps, checkpoint=evaluated)


def test_an_evaluation_with_a_clock_in_it_is_the_same_one_later(tmp_path):
    def make():
        return _scored(lambda w: {"mse": jnp.sum(w**2), "seconds": time.perf_counter()})

    train(make(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path)
    assert train(make(), lrx.sgd(0.1), steps=8, checkpoint=tmp_path).resumed_at == 4


def test_an_interval_that_comes_too_late_is_said(tmp_path, capsys):
    train(line(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path, evaluate_every=4)
    complete = train(line(), lrx.sgd(0.1), steps=4, checkpoint=tmp_path, evaluate_every=2, keep=[2])
    said = capsys.readouterr().err
    assert "line: was evaluated every 4 steps; evaluate_every=2 comes too late" in said
    assert "line: keep comes too late for step 2" in said
    np.testing.assert_array_equal(complete.evaluation_steps, [4])
    every_third = train(line(), lrx.sgd(0.1), steps=8, resume_from=tmp_path, evaluate_every=3)
    np.testing.assert_array_equal(every_third.evaluation_steps, [4, 6, 8])
    capsys.readouterr()
    longer = train(line(), lrx.sgd(0.1), steps=8, checkpoint=tmp_path, evaluate_every=2)
    assert "was evaluated every 4 steps until step 4, and from there every 2" in capsys.readouterr().err
    np.testing.assert_array_equal(longer.evaluation_steps, [4, 6, 8])
    assert longer.changes == {4: ["evaluate_every is 4 steps there and 2 here"]}
    again = train(line(), lrx.sgd(0.1), steps=8, checkpoint=tmp_path, evaluate_every=2)
    assert "evaluated" not in capsys.readouterr().err
    assert again.changes == longer.changes
