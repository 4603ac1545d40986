"""Runs of a job: they are those of `lrx.sweep` and `lrx.train`, kept in its folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.papers.reproduction import Job
from lrx.papers.runs import summarize_histories, sweep_seeds, train_seeds
from lrx.papers.small_images import Images, replace_divergence
from lrx.training import Batches, Moment, Workload


def bowl() -> Workload:
    """A quadratic around examples that are drawn at random."""
    examples = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    return Workload.from_functions(
        lambda x, batch, key: 0.5 * jnp.mean((x[None] - batch) ** 2),
        lambda key: jnp.ones(2),
        Batches(jnp.asarray(examples), batch_size=2),
        name="bowl",
    )


def test_a_sweep_has_the_seeds_of_the_job_and_a_folder_of_its_name(tmp_path: Path) -> None:
    job = Job((3, 5), checkpoints=tmp_path)
    found = sweep_seeds(bowl(), lambda lr: lrx.sgd(lr), {"lr": (0.1, 0.2)}, job, "SGD, small", num_steps=6)
    assert found.final_loss.shape == (2, 2)
    history = lrx.train(bowl(), lrx.sgd(0.2), steps=6, seed=5)
    assert found.final_loss[1, 1] == pytest.approx(history.loss[-1], rel=1e-5)
    assert (tmp_path / "SGD-small").is_dir()


def test_each_seed_has_a_run_a_folder_and_a_callback(tmp_path: Path) -> None:
    seen: dict[int, list[int]] = {3: [], 5: []}

    def watch(seed: int) -> object:
        def callback(moment: Moment) -> None:
            seen[seed].append(moment.step)

        return callback

    job = Job((3, 5), checkpoints=tmp_path)
    found = train_seeds(bowl(), lrx.sgd(0.1), job, "SGD, seed", steps=4, callbacks=[watch(seed) for seed in seen])
    for seed, history in zip(job.seeds, found, strict=True):
        np.testing.assert_allclose(history.loss, lrx.train(bowl(), lrx.sgd(0.1), steps=4, seed=seed).loss, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SGD-seed-3", "SGD-seed-5"]
    assert seen[3]
    assert seen[3] == seen[5]


def test_curves_of_histories_are_means_of_steps_and_evaluations_of_all_seeds() -> None:
    loss = np.arange(6.0)
    histories = [
        SimpleNamespace(loss=factor * loss, evaluation_steps=[3, 6], evaluations={"error": factor * np.ones(2)})
        for factor in (1.0, 10.0)
    ]
    found = summarize_histories(histories, 3)
    np.testing.assert_array_equal(found["loss"], [[0.5, 2.5, 4.5], [5, 25, 45]])
    np.testing.assert_array_equal(found["steps"], [1.5, 3.5, 5.5])
    np.testing.assert_array_equal(found["evaluations"]["error"], [[1, 1], [10, 10]])
    assert found["evaluation_steps"] == [3, 6]


def test_a_run_that_diverged_guesses_and_a_perceptron_is_mapped() -> None:
    np.testing.assert_array_equal(replace_divergence(np.array([3.0, np.nan, np.inf])), [3, 90, 90])
    assert Images("perceptron", 1, 1, 1, (1,)).strategy == "vmap"
