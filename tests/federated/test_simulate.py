"""Rounds of federated learning: equal to transcriptions, and unharmed by clients that fail."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import COMPILED, counting

import lrx
from lrx.federated import FederatedHistory, Partition, fed_adam, random_partition, simulate
from lrx.federated.aggregation import statistic
from lrx.training.checkpoints import OtherRunError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(28, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=28)).astype(np.float32)
SIZES = (4, 2, 1, 4, 4, 2, 4, 1, 2, 4)  # each divides the batch of 4, so a step uses all examples of a client equally
ENDS = np.cumsum(SIZES)
PARTITION = Partition([np.arange(end - size, end) for size, end in zip(SIZES, ENDS, strict=True)])


def squared_error(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    del key
    x, y = batch
    return jnp.mean((x @ w - y) ** 2)


def start(key: jax.Array) -> jax.Array:
    del key
    return jnp.array([0.5, 0.0, 0.0])


def evaluate(w: jax.Array) -> dict[str, jax.Array]:
    return {"loss": squared_error(w, (jnp.asarray(X), jnp.asarray(Y)), jax.random.key(0))}


WORKLOAD = lrx.Workload.from_functions(squared_error, start, lrx.Batches((X, Y), batch_size=4), evaluate=evaluate)
USUAL: dict[str, Any] = {"num_rounds": 6, "client": lrx.sgd(0.05), "server": lrx.sgd(1.0), "local_steps": 3}


BOTH: dict[str, Any] = {"client": lrx.sgd(0.05, momentum=0.9), "server": fed_adam(0.1)}  # with a state each


def run(workload: lrx.Workload = WORKLOAD, partition: Partition = PARTITION, **changed: Any) -> FederatedHistory:
    return simulate(workload, partition, **(USUAL | changed))


def gradient(w: np.ndarray, client: int) -> np.ndarray:
    """Return the gradient of a client's loss over all its examples."""
    mine = slice(ENDS[client] - SIZES[client], ENDS[client])
    return 2 * X[mine].T @ (X[mine] @ w - Y[mine]) / SIZES[client]


def transcription(
    *, weighted: bool = True, momentum: float = 0.0, proximal: float = 0.0, server: str = "sgd", rounds: int = 6
) -> np.ndarray:
    """Return the parameters after some rounds in which all clients take part, in float64."""
    w, m, v = np.array([0.5, 0.0, 0.0]), np.zeros(3), np.full(3, 1e-6)
    for _ in range(rounds):
        changes = []
        for client in range(len(SIZES)):
            local, velocity = w.copy(), np.zeros(3)
            for _ in range(3):
                velocity = momentum * velocity + gradient(local, client) + proximal * (local - w)
                local = local - 0.05 * velocity
            changes.append(local - w)
        change = np.average(changes, axis=0, weights=SIZES if weighted else None)
        if server == "sgd":
            w = w + change
        else:
            m, v = 0.9 * m + 0.1 * change, 0.99 * v + 0.01 * change**2
            w = w + 0.1 * m / (np.sqrt(v) + 1e-3)
    return w


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"weighting": "uniform"}, {"weighted": False}),
        ({"proximal": 2.0}, {"proximal": 2.0}),
        pytest.param(BOTH, {"momentum": 0.9, "server": "adam"}, marks=pytest.mark.slow),
        ({"client": lrx.sgd, "client_rate": 0.05, "chunk_size": 3}, {}),
    ],
)
def test_rounds_are_those_of_a_transcription(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(run(**arguments).params, transcription(**expected), rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_one_client_with_all_examples_is_gradient_descent() -> None:
    alone = Partition([np.arange(28)])
    workload = dataclasses.replace(WORKLOAD, batches=lrx.Batches((X, Y), batch_size=28))
    history = run(workload, alone, local_steps=1)
    expected = lrx.train(workload, lrx.sgd(0.05), steps=6).params
    np.testing.assert_allclose(history.params, expected, rtol=1e-5)


@pytest.mark.slow
def test_epochs_are_passes_over_each_clients_own_examples() -> None:
    partition = Partition([np.arange(16), np.arange(16, 18), np.arange(18, 27)])
    assert (run(partition=partition, local_steps=None, num_rounds=2).steps == 4 + 1 + 3).all()
    assert (run(partition=partition, local_steps=None, num_rounds=2, local_epochs=2.0).steps == 8 + 1 + 5).all()


@pytest.mark.slow
def test_clients_of_a_round_are_drawn_anew_without_replacement() -> None:
    history = run(**BOTH, clients_per_round=4, num_rounds=5)
    assert (history.counted == 4).all()
    assert (history.steps == 12).all()
    assert len(np.unique(history.start_loss)) == 5
    other = run(**BOTH, clients_per_round=4, num_rounds=5, seed=1)
    assert not np.array_equal(history.start_loss, other.start_loss)


@pytest.mark.slow
def test_schedules_of_clients_count_local_steps_rounds_or_all_their_steps() -> None:
    once = lrx.piecewise_constant(0.05, {1: 0.0})  # one step, then none
    np.testing.assert_allclose(run(client=lrx.sgd(once)).params, run(local_steps=1).params, rtol=1e-6)
    kept = run(client=lrx.sgd(once), keep_client_states=True)
    np.testing.assert_allclose(kept.params, run(local_steps=1, num_rounds=1).params, rtol=1e-6)
    by_round = run(client=lrx.sgd, client_rate=lrx.linear_decay(0.06, 6))
    np.testing.assert_allclose(by_round.client_rate, 0.06 * (1 - np.arange(6) / 6), rtol=1e-6)
    assert np.isnan(run().client_rate).all()


@pytest.mark.slow
def test_server_and_clients_follow_the_losses_of_the_clients() -> None:
    plateau = lrx.reduce_on_plateau(patience=1, factor=0.5)
    far = run(num_rounds=8, server=lrx.sgd(1.0 * plateau), client=lrx.sgd, client_rate=1e-9 * plateau)
    assert far.server_rate[0] == 1.0
    assert far.server_rate[-1] < 1.0
    assert far.client_rate[-1] < far.client_rate[0]
    np.testing.assert_allclose(far.start_loss, far.start_loss[0], rtol=1e-5)


@pytest.mark.slow
def test_the_loss_before_the_steps_is_that_of_the_servers_parameters() -> None:
    history = run(num_rounds=1, feedback_batches=2)
    errors = (X @ np.float32([0.5, 0.0, 0.0]) - Y) ** 2
    losses = [errors[end - size : end].mean() for size, end in zip(SIZES, ENDS, strict=True)]
    np.testing.assert_allclose(history.start_loss, np.average(losses, weights=SIZES), rtol=1e-5)
    np.testing.assert_allclose(run(num_rounds=1, feedback="median").start_loss, np.median(losses), rtol=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("mean", (5 + 3.5 + 3) / 6), ("median", 2.0), ("trimmed", 8 / 3)])
def test_statistics_leave_out_who_does_not_count(kind: str, expected: float) -> None:
    losses = jnp.float32([5.0, 1.0, jnp.nan, 2.0, 100.0])
    weights = jnp.float32([1.0, 3.5, 1.0, 1.5, 0.0])
    assert statistic(losses, weights, kind) == pytest.approx(expected)
    assert jnp.isnan(statistic(losses, jnp.zeros(5), kind))


def test_trimming_leaves_out_a_tenth_at_each_end() -> None:
    losses = jnp.arange(20.0).at[7].set(1e6)
    assert statistic(losses, jnp.ones(20), "trimmed") == pytest.approx(np.mean(sorted(losses.tolist())[2:18]))


def test_clients_that_fail_are_counted_and_do_no_harm() -> None:
    x = X.copy()
    x[:4] = np.nan  # all examples of the first client
    sick = dataclasses.replace(WORKLOAD, batches=lrx.Batches((x, Y), batch_size=4))
    history = run(sick)
    assert (history.rejected == 1).all()
    assert (history.counted == 9).all()
    assert np.isfinite(history.params).all()
    others = Partition([np.arange(end - size, end) for size, end in zip(SIZES[1:], ENDS[1:], strict=True)])
    np.testing.assert_allclose(history.params, run(partition=others).params, rtol=1e-5)
    large = X.copy()
    large[:4] *= 1e3
    huge = dataclasses.replace(WORKLOAD, batches=lrx.Batches((large, Y), batch_size=4))
    bounded = run(huge, max_norm=10.0)
    assert (bounded.rejected == 1).all()
    np.testing.assert_allclose(bounded.params, history.params, rtol=1e-5)


def test_a_round_without_clients_changes_nothing() -> None:
    history = run(clients_per_round=1, dropout=0.6, num_rounds=20, evaluate_every=1)
    empty = history.counted == 0
    assert 5 < empty.sum() < 18
    losses = history.evaluations["loss"]
    np.testing.assert_array_equal(losses[1:][empty], losses[:-1][empty])
    assert (losses[1:][~empty] != losses[:-1][~empty]).all()
    np.testing.assert_array_equal(history.dropped, empty)


@pytest.mark.slow
def test_stragglers_make_a_part_of_their_steps() -> None:
    history = run(stragglers=0.5, local_steps=20, num_rounds=10)
    assert 0.5 < history.steps.sum() / (20 * 10 * 10) < 0.95
    assert (history.counted == 10).all()


@pytest.mark.slow
def test_the_state_of_a_model_is_averaged() -> None:
    def loss(w: jax.Array, seen: jax.Array, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return squared_error(w, batch, key), seen + jnp.mean(batch[1])

    workload = lrx.Workload.from_functions(
        loss, lambda key: (start(key), jnp.float32(0)), lrx.Batches((X, Y), batch_size=4), has_state=True
    )
    history = simulate(workload, PARTITION, num_rounds=1, client=lrx.sgd(0.05), server=lrx.sgd(1.0), local_steps=1)
    np.testing.assert_allclose(history.model_state, np.mean(Y), rtol=1e-5)
    assert history.evaluations == {}


def test_an_equal_simulation_and_one_with_other_numbers_compile_nothing() -> None:
    run()
    with counting() as compiled:
        run(client=lrx.sgd(0.05), server=lrx.sgd(1.0), dropout=0.1, proximal=1.0, weighting="uniform", local_steps=2)
    assert compiled.names(COMPILED) == []


@pytest.mark.slow
def test_an_interrupted_simulation_continues_bit_for_bit(tmp_path: Path) -> None:
    arguments = BOTH | {"evaluate_every": 2, "clients_per_round": 4}
    whole = run(**arguments)
    run(**arguments, num_rounds=4, checkpoint=tmp_path)
    history = run(**arguments, checkpoint=tmp_path)
    np.testing.assert_array_equal(history.params, whole.params)
    np.testing.assert_array_equal(history.loss, whole.loss)
    np.testing.assert_array_equal(history.evaluations["loss"], whole.evaluations["loss"])
    np.testing.assert_array_equal(history.evaluation_rounds, [0, 2, 4, 6])
    with pytest.raises(OtherRunError, match="holds a run that has made 6 rounds, got a length of 5"):
        run(**arguments, num_rounds=5, checkpoint=tmp_path)
    for changed in ({"seed": 1}, {"partition": random_partition(28, 10)}, {"client": lrx.sgd(0.04)}, {"dropout": 0.1}):
        with pytest.raises(OtherRunError, match="holds another run, at round 6"):
            run(**(arguments | changed), checkpoint=tmp_path)


def test_a_history_is_read_printed_and_drawn() -> None:
    history = run(evaluate_every=1, server=lrx.sgd(lrx.linear_decay(1.0, 12)))
    target = float(history.evaluations["loss"][3])
    assert history.rounds_to("loss", target, mode="min") == 3
    assert history.rounds_to("loss", -1.0, mode="min") is None
    assert "FederatedHistory of 6 rounds, 180 local steps" in repr(history)
    assert "server rate  1 at first" in repr(history)
    figure = history.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate"]
    with pytest.raises(ValueError, match="name must be one of loss, got name='accuracy'"):
        history.rounds_to("accuracy", 0.9)
    with pytest.raises(ValueError, match="mode must be 'max' or 'min'"):
        history.rounds_to("loss", 0.9, mode="least")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_rounds": 0}, ValueError, "num_rounds must be"),
        ({"clients_per_round": 11}, ValueError, "clients_per_round must be at most the number of clients, 10, got"),
        ({"partition": Partition([[28]])}, ValueError, "partition must name examples of the workload, 0 to 27, got 28"),
        ({"partition": [[0]]}, TypeError, "partition must be a Partition, got list"),
        ({"client": lrx.sgd}, ValueError, "client_rate must be given, since client is a function of the rate"),
        ({"client_rate": 0.1}, ValueError, "client_rate must be left out, since client has a rate of its own"),
        ({"client": 0.1}, TypeError, "client must be a transformation or a function of the rate"),
        ({"server": 1.0}, TypeError, "transformation"),
        ({"local_steps": 0}, ValueError, "local_steps must be"),
        ({"local_epochs": 0.0}, ValueError, "local_epochs must be"),
        ({"weighting": "size"}, ValueError, "weighting must be"),
        ({"feedback": "max"}, ValueError, "feedback must be"),
        ({"dropout": 1.0}, ValueError, "dropout must be in"),
        ({"stragglers": -0.1}, ValueError, "stragglers must be in"),
        ({"proximal": -1.0}, ValueError, "proximal must be"),
        ({"max_norm": 0.0}, ValueError, "max_norm must be"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be"),
        ({"feedback_batches": 0}, ValueError, "feedback_batches must be"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every must be"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with counting() as compiled, pytest.raises(error, match=message):
        run(**changed)
    assert compiled.names(COMPILED) == []


ON_DEVICES: dict[str, dict[str, Any]] = {
    "all": {},
    "chunks": {**BOTH, "chunk_size": 2, "keep_client_states": True},
    "few": {"clients_per_round": 3, "num_rounds": 8},  # fewer than devices
    "some fail": {"dropout": 0.3, "stragglers": 0.5, "feedback": "median", "max_norm": 0.5, "proximal": 1.0},
    "driven": {"client": lrx.sgd, "client_rate": lrx.constant(0.05) * lrx.pid(), "server": fed_adam(0.1)},
}
FOUR_DEVICES = """
import sys
import jax, numpy as np
from compilations import COMPILED, counting
from federated.test_simulate import ON_DEVICES, WORKLOAD, X, Y, run, squared_error, start
import lrx
assert jax.device_count() == 4
for name, arguments in ON_DEVICES.items():
    history = run(**arguments)
    assert history.params.devices() == {jax.devices()[0]}
    np.savez(f"{sys.argv[1]}/{name}", w=history.params, loss=history.loss, norm=history.norm, steps=history.steps,
             counted=history.counted, client_rate=history.client_rate)
with counting() as seen:
    again = run(**arguments)
assert seen.names(COMPILED) == []
with jax.set_mesh(jax.make_mesh((2, 2), ("a", "b"))):  # of the caller's, for other work
    try:
        run()
    except ValueError as error:
        assert str(error).startswith("simulate must be called outside of jax.set_mesh"), error
    else:
        raise AssertionError("not refused")
held_out = jax.device_put((X, Y), jax.devices()[0])
evaluation = lrx.training.Evaluation(lambda w, held: {"loss": squared_error(w, held, None)}, held_out)
there = lrx.Workload.from_functions(squared_error, start, WORKLOAD.batches, evaluate=evaluation)
np.testing.assert_allclose(run(there).evaluations["loss"], run().evaluations["loss"], rtol=1e-5)
run(checkpoint=sys.argv[1] + "/kept", num_rounds=4, evaluate_every=2)
run(checkpoint=sys.argv[2], evaluate_every=2)  # begun on one device
with jax.default_device(jax.devices()[2]):
    assert run().params.devices() == {jax.devices()[2]}
"""


@pytest.mark.slow
def test_clients_are_split_over_devices(tmp_path: Path) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    begun = tmp_path / "begun"
    run(checkpoint=begun, num_rounds=4, evaluate_every=2)
    process = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES, str(tmp_path), str(begun)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    for name, arguments in ON_DEVICES.items():
        found, expected = np.load(tmp_path / f"{name}.npz"), run(**arguments)
        for of in ("steps", "counted"):
            np.testing.assert_array_equal(found[of], getattr(expected, of), err_msg=f"{name}: {of}")
        for of in ("loss", "norm", "client_rate"):
            np.testing.assert_allclose(found[of], getattr(expected, of), rtol=1e-4, err_msg=f"{name}: {of}")
        np.testing.assert_allclose(found["w"], expected.params, rtol=1e-4, err_msg=name)
    for kept in (tmp_path / "kept", begun):
        resumed = run(checkpoint=kept, evaluate_every=2)
        np.testing.assert_allclose(resumed.params, run(evaluate_every=2).params, rtol=1e-5)


@pytest.mark.slow
def test_a_simulation_without_an_evaluation_goes_on(tmp_path: Path) -> None:
    bare = dataclasses.replace(WORKLOAD, evaluate=None)
    run(bare, checkpoint=tmp_path, num_rounds=3, evaluate_every=3)
    resumed = run(bare, checkpoint=tmp_path, evaluate_every=3)
    assert len(resumed.evaluation_rounds) == 0
    np.testing.assert_array_equal(resumed.params, run().params)
