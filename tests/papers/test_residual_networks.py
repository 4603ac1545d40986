"""The networks that several papers compare: those of their paper scales, and where runs end."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import lrx
from lrx.papers.reproduction import Job
from lrx.papers.residual_networks import Network, residual_workload, train_to_ends

SMALL = Network(number=40, test=20, measured=30, batch_size=20, width=2)


@pytest.mark.slow
def test_the_networks_of_he_evaluate_what_the_small_ones_do() -> None:
    job = Job((0,), "digits")
    small = residual_workload(SMALL, 8, job, shortcuts=False)
    whole = residual_workload(SMALL._replace(width=0), 8, job, shortcuts=False)
    assert whole.name == small.name == "digits, plain, 8 layers"
    results = [
        jax.eval_shape(lambda key, each=each: each.evaluate(*each.init(key)), jax.random.key(0))
        for each in (small, whole)
    ]
    assert set(results[0]) == set(results[1]) == {"error", "training_error", "training_loss"}
    assert whole.batches.batch_size == small.batches.batch_size == 20


@pytest.mark.slow
def test_runs_end_where_lrx_train_does_and_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job((0, 1), "digits", checkpoints=tmp_path)
    workload = residual_workload(SMALL, 4, job)
    members = {"rate": [0.1, 0.01]}
    ends = train_to_ends(workload, lambda rate: lrx.sgd(rate), members, 3, job, "both")
    expected = lrx.train(workload, lrx.sgd(0.01), steps=3, seed=1).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ends[1][1][0], expected)
    monkeypatch.setattr("lrx.papers.residual_networks.advance", None)  # nothing is trained again
    again = train_to_ends(workload, lambda rate: lrx.sgd(rate), members, 3, job, "both")
    jax.tree.map(np.testing.assert_array_equal, again, ends)


@pytest.mark.slow
def test_a_run_that_diverges_is_refused() -> None:
    job = Job((0,), "digits")
    with pytest.raises(ValueError, match="digits, residual, 4 layers must train, but a run diverged"):
        train_to_ends(residual_workload(SMALL, 4, job), lambda rate: lrx.sgd(rate), {"rate": [1e30]}, 3, job, "one")
