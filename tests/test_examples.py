"""The scripts that users fork run, learn, and show the rate that was applied."""

import importlib.util
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the strictness that the other tests set."""
    with jax.numpy_rank_promotion("allow"):
        yield


ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_mlp_example_learns_and_logs_the_applied_rate(tmp_path):
    out = tmp_path / "figure.png"
    log, accuracy = _load("cifar10_mlp").train(data="digits", epochs=4, batch_size=64, out=str(out))
    losses, rates = log.T
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert rates[0] == 0.0  # the warm-up starts at 0
    assert rates.max() == np.float32(1e-3)
    assert accuracy > 0.8
    assert out.stat().st_size > 1000


@pytest.mark.slow
def test_resnet_example_learns_on_a_few_steps(capsys):
    losses, accuracies = _load("cifar10_resnet").train(data="digits", depth=8, epochs=3, batch_size=64)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    assert len(accuracies) == 3
    assert accuracies[-1] > 0.3
    assert "lr " in capsys.readouterr().out


@pytest.mark.slow
def test_learned_rate_descends_along_the_derivative_through_twenty_steps():
    example = _load("learned_rate")
    rates, losses = example.learn(outer_steps=2)
    assert rates[1] > rates[0]
    assert losses[1] < losses[0]
    rate, width = jnp.log(0.1), 1e-2
    slope = jax.grad(example.mean_loss)(rate)
    quotient = (example.mean_loss(rate + width) - example.mean_loss(rate - width)) / (2 * width)
    np.testing.assert_allclose(slope, quotient, rtol=1e-2)


def test_own_controller_halves_at_spikes_and_stops_the_run(capsys):
    example = _load("own_controller")
    example.main()
    *lines, last = capsys.readouterr().out.splitlines()
    # The second spike, at step 11 of 18, is one too many.
    assert [float(line.split()[-1]) for line in lines] == [0.01] * 5 + [0.005] * 6 + [0.0]
    assert last == "stopped: True"
    tx = lrx.sgd(0.01 * example.halve_at_spikes(max_spikes=1))
    report = lrx.monitor(tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), value=2.0)[1], scalars=True)
    assert report == {
        "learning_rate": pytest.approx(0.01),
        "scale": 1.0,
        "spikes/factor": 1.0,
        "spikes/mean": 2.0,
        "spikes/left": 1,
    }


def test_own_controller_halves_at_spikes_wherever_a_controller_may_stand():
    example = _load("own_controller")

    def factors(ratio):
        tx = lrx.heavy_ball(0.1 * example.halve_at_spikes(ratio=ratio))

        def step(state, loss):
            _, state = tx.update(jnp.ones(2), state, value=loss)
            return state, lrx.learning_rate(state)

        return jax.lax.scan(step, tx.init(jnp.zeros(2)), jnp.asarray([1.0, 2.5, jnp.nan, 9.0]))[1]

    rates = jax.jit(jax.vmap(factors))(jnp.asarray([2.0, 3.0]))
    np.testing.assert_allclose(rates, [[0.1, 0.05, 0.05, 0.025], [0.1, 0.1, 0.1, 0.05]], rtol=1e-6)
    tx = optax.chain(optax.sgd(1.0), example.halve_at_spikes(feedback="observed"))
    state = tx.init(jnp.zeros(2))
    for loss in (1.0, 9.0):
        updates, state = tx.update(jnp.ones(2), lrx.observe(state, value=loss))
    np.testing.assert_array_equal(updates, [-0.5, -0.5])


@pytest.mark.slow
def test_the_picture_of_the_applied_rate_is_drawn_from_one_epoch(tmp_path):
    example = _load("applied_rate")
    history = example.train(epochs=1)
    assert len(history.rate) == len(history.loss) == example.EPOCH
    path = tmp_path / "rate.png"
    example.save(example.plot(history), path)
    assert path.stat().st_size > 10_000


@pytest.mark.slow
def test_the_rates_of_the_guide_are_too_small_good_and_too_large():
    found = _load("effects_of_the_rate").compare(num_steps=120, num_points=3)
    assert found.best == "good"
    assert found.final_loss["good"] < 0.3 < found.final_loss["too small"]
    assert found.lengths["too large"] > 5 * found.lengths["good"]


@pytest.mark.slow
def test_data_parallel_example_trains_with_two_processes_over_loopback(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, str(EXAMPLES / "data_parallel.py"), "--fsdp", "--epochs", "3"]
    command += ["--checkpoint", str(tmp_path / "run"), "--coordinator", address, "--processes", "2", "--process"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": ROOT}
    processes = [subprocess.Popen([*command, str(place)], **pipes) for place in range(2)]
    (first, errors), (second, _) = (process.communicate(timeout=600) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], errors[-3000:]
    assert "4 devices of 2 processes, batch 128, rate 0.4" in first
    assert re.search(r"rate +0\.1 at first, .* greatest 0\.4 at step", first)
    assert "Consistency(consistent: " in first
    assert "devices" not in second  # the first process speaks for all
    assert any((tmp_path / "run").iterdir())
