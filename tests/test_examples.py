"""The scripts that users fork run, learn, and show the rate that was applied."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the strictness that the other tests set."""
    with jax.numpy_rank_promotion("allow"):
        yield


EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


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
