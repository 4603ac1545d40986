"""The scripts that users fork run, learn, and show the rate that was applied; and the README says what runs."""

import importlib.util
import pathlib
import re

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


def migrations() -> list[str]:
    """What the README's table says to write in lrx, call by call."""
    lines = (ROOT / "README.md").read_text().split("## Coming from elsewhere")[1].splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    return [call for row in rows[1:] for call in re.findall(r"`([a-z_]+\([^`]*|schedule \* [^`]*)`", row[1])]


def test_the_table_of_migrations_is_found():
    assert len(migrations()) > 30


@pytest.mark.parametrize("call", migrations())
def test_what_the_readme_says_to_write_runs(call):
    numbers = {"a": 0.1, "p": 0.3, "e": 0.01, "r": 0.9, "s": 10, "f": 0.5, "m": 2, "b": 20, "P": 10, "T": 100, "W": 10}
    numbers |= {"lr": 0.1, "gamma": 0.5, "power": 2.0, "eta_min": 0.01, "T_0": 10, "T_mult": 2, "max_lr": 0.3}
    numbers |= {"base": 0.1, "max": 0.3, "up": 10, "down": 5, "mode": "exp_range", "alpha": 0.1, "t_mul": 2}
    numbers |= {"m_mul": 0.9, "v": 0.1, "w": 0.05, "k": 2, "factor": 0.5, "patience": 3, "batch_size": 512, "last": 1}
    numbers |= {"n": 3}
    if call.startswith("piecewise_constant(lr"):
        numbers |= {"a": 10, "b": 20}
    if call.startswith("heavy_ball"):
        numbers |= {"m": 0.9, "s": lrx.constant(0.1)}
    transformations = {"schedule": lrx.constant(0.1), "schedules": [0.1, 0.2], "boundaries": [5], "tx": lrx.sgd(0.1)}
    groups = {
        "labels": lambda path, leaf: path,
        "factors": {"a": 1.0, "b": 0.5},
        "layer_of": lambda path, leaf: path == "b",
    }
    made = eval(call.replace("...", "False"), {**vars(lrx), **numbers, **transformations, **groups})
    if isinstance(made, float):
        return
    params = {"a": jnp.ones(2), "b": jnp.ones(1)}
    updates, _ = made.update(params, made.init(params), params, value=jnp.float32(1.0))
    assert all(bool(jnp.all(leaf <= 0)) for leaf in jax.tree.leaves(updates))
