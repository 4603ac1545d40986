"""Checkpoints: a run that was stopped or killed continues bit for bit."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import optax
import pytest
from tiers import first_tier_has
from training.linear import LINEAR, SGD, assert_identical, linear, start, traced_workload

import lrx
from lrx.training import (
    Batches,
    Workload,
    train,
)

TRANSFORMATIONS = {
    "sgd": lambda: lrx.sgd(lrx.cosine_decay(0.1, 30), momentum=0.9),
    "plateau": lambda: lrx.adam(0.1 * lrx.reduce_on_plateau(patience=1)),
    "random keys": lambda: optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), SGD),
    "two types": lambda: optax.adam(0.1, mu_dtype=jnp.bfloat16),
    "wrapped": lambda: optax.MultiSteps(optax.apply_if_finite(lrx.nesterov(0.01), 3), 2),
}


@pytest.mark.parametrize("name", first_tier_has(["sgd", "two types"], TRANSFORMATIONS))
def test_a_longer_run_extends_a_checkpoint_bit_for_bit(tmp_path, name):
    tx = TRANSFORMATIONS[name]()
    first = train(linear(), tx, steps=10, checkpoint=tmp_path)
    assert first.evaluation_steps.tolist() == [7, 10]
    extended = train(linear(), tx, steps=23, checkpoint=tmp_path)
    assert_identical(extended, train(linear(), tx, steps=23))


def test_a_model_state_is_kept_and_empty_leaves_too(tmp_path):
    def init(key: jax.Array) -> Any:
        return {"w": jnp.ones(()), "none": jnp.zeros((0, 3))}, {"steps": jnp.int32(0)}

    def loss_fn(params: Any, state: Any, batch: jax.Array, key: jax.Array) -> Any:
        return jnp.mean(batch) * params["w"] ** 2, {"steps": state["steps"] + 1}

    workload = Workload("empty", init, loss_fn, Batches(jnp.ones(4), 2))
    train(workload, SGD, steps=3, checkpoint=tmp_path)
    history = train(workload, SGD, steps=5, checkpoint=tmp_path)
    assert history.params["none"].shape == (0, 3)
    assert int(history.model_state["steps"]) == 5


def test_a_complete_run_gives_its_history_without_training(tmp_path):
    whole = train(linear(), SGD, epochs=2, checkpoint=tmp_path)
    traces: list[int] = []
    plain = linear()
    watched = traced_workload(traces)
    watched = Workload("linear", plain.init, watched.loss_fn, plain.batches, plain.evaluate)
    assert_identical(train(watched, SGD, epochs=2, checkpoint=tmp_path), whole)
    assert len(traces) == 2  # to see that it is the same run, and for the key of its program


def test_the_newest_three_checkpoints_are_kept(tmp_path):
    train(linear(), SGD, epochs=5, checkpoint=tmp_path, checkpoint_every=1)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [21, 28, 35]


def test_a_checkpoint_that_does_not_fit_is_refused_and_the_difference_named(tmp_path):
    train(linear(), SGD, steps=2, checkpoint=tmp_path)

    def refused(message: str, workload: Workload, tx: Any, **arguments: Any) -> None:
        with pytest.raises(ValueError, match=f"(?s){message}.*Give another folder") as error:
            train(workload, tx, steps=4, checkpoint=tmp_path, **arguments)
        assert re.escape(str(tmp_path)) in re.escape(str(error.value))

    refused("seed is 0 there and 1 here", linear(), SGD, seed=1)
    refused("batch_size is 8 there and 4 here", linear(batch_size=4), SGD)
    refused("workload is 'linear' there and 'other' here", linear(name="other"), SGD)
    refused(r"float32\[60, 3\], checksum \w+ there and float32\[61, 3\]", linear(examples=61), SGD)
    refused(r"params\['w'\] is float32\[3\] there and float32\[4\] here", linear(features=4), SGD)
    refused(r"tx is sgd\(0\.1\) there and adam\(0\.1\) here", linear(), lrx.adam(0.1))
    opaque = optax.chain(SGD, optax.add_noise(0.1, 0.5, jax.random.key(1)))
    refused(r"opt_state.*count is absent there and int32\[\] here", linear(), opaque)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_resume_false_overwrites_nothing(tmp_path):
    train(linear(), SGD, steps=2, checkpoint=tmp_path, resume=False)
    with pytest.raises(ValueError, match="resume=False would overwrite: give another folder"):
        train(linear(), SGD, steps=2, checkpoint=tmp_path, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_a_shorter_run_than_the_checkpoint_is_refused(tmp_path):
    train(linear(), SGD, steps=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="holds a run that has made 5 steps, got a length of 4"):
        train(linear(), SGD, steps=4, checkpoint=tmp_path)


def test_folders_that_are_no_run_or_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"checkpoint must be a folder that can be written"):
        train(linear(), SGD, steps=1, checkpoint=tmp_path / "file" / "run")
    (tmp_path / "years" / "2024").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds a folder 2024 that is no checkpoint"):
        train(linear(), SGD, steps=1, checkpoint=tmp_path / "years")
    assert (tmp_path / "years" / "2024").is_dir()


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r'pip install "lrx\[papers\]"'):
        train(linear(), SGD, steps=1, checkpoint=tmp_path)


SLOW_RUN = (
    LINEAR
    + """
def slowly(params):
    time.sleep(0.04)
    return norm(params)

def run(folder):
    tx = lrx.adam(lrx.cosine_decay(0.1, 600) * lrx.reduce_on_plateau(patience=20))
    return train(linear(evaluate=slowly), tx, steps=600, evaluate_every=20, checkpoint=folder, checkpoint_every=20)
"""
)


def newest_in(folder: Path) -> int:
    """Return the step of the newest checkpoint that is whole by its name, 0 if there is none."""
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_then_killed_goes_on_bit_for_bit(tmp_path):
    for number in (signal.SIGINT, signal.SIGKILL):
        before = newest_in(tmp_path / "run")
        process = start(SLOW_RUN + "\nimport sys\nrun(sys.argv[1])\n", str(tmp_path / "run"))
        deadline = time.monotonic() + 60
        while newest_in(tmp_path / "run") < before + 40:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        if number == signal.SIGINT:
            assert re.search(r"TrainingInterrupted: stopped by Ctrl-C after \d+ of 600 steps. Saved in", errors)
        else:
            assert f"resumed at step {before}" in errors
    assert 80 <= newest_in(tmp_path / "run") < 600
    namespace: dict[str, Any] = {}
    exec(SLOW_RUN, namespace)
    resumed = namespace["run"](tmp_path / "run")
    assert resumed.resumed_at >= 80
    assert_identical(resumed, namespace["run"](None))
