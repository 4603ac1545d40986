"""Runs at several rates are those of train, and their paths lie on one plane that no divergence determines."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.doctor.compare_rates import _plane_of, snapshot_times
from lrx.training.plan import choose_plan

X = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32) * np.array([[1, 4]], np.float32)
LINE = lrx.Workload.from_functions(
    lambda w, batch, key: jnp.mean((batch[0] @ w - batch[1]) ** 2),
    lambda key: jnp.zeros(2),
    lrx.Batches((X, X @ np.ones(2, np.float32)), batch_size=16),
    name="line",
)
RATES = {"too small": 1e-3, "good": 0.02, "too large": 0.3}


@pytest.fixture(scope="module")
def found():
    return lrx.compare_rates(LINE, lrx.sgd, RATES, num_steps=200, num_points=5, snapshots=12)


def test_a_run_that_diverges_keeps_its_last_parameters_also_if_runs_are_trained_one_by_one(monkeypatch):
    def one_by_one(family, hyper, seeds):
        return choose_plan(family, hyper, seeds, strategy="map")

    monkeypatch.setitem(_plane_of.__globals__, "choose_plan", one_by_one)
    found = lrx.compare_rates(LINE, lrx.sgd, RATES, num_steps=200, num_points=2, snapshots=4)
    assert found.diverged["too large"]
    assert 1e6 < found.distances["too large"][-1] < np.inf


@pytest.mark.slow
def test_a_run_is_that_of_train_and_its_path_lies_on_the_plane(found):
    history = lrx.train(LINE, lrx.sgd(RATES["good"]), steps=200)
    np.testing.assert_allclose(found.losses["good"], history.loss, rtol=1e-3, atol=1e-7)
    assert found.final_loss["good"] == pytest.approx(float(history.loss[-20:].mean()), rel=1e-2)
    assert found.distances["good"][-1] == pytest.approx(np.linalg.norm(history.params), rel=1e-4)
    # The two parameters span the plane, so nothing is lost by the projection.
    one, other = map(np.asarray, found.plane.directions)
    np.testing.assert_allclose(np.zeros(2), history.params + found.paths["good"][0] @ np.stack([one, other]), atol=1e-4)
    corner = np.asarray(history.params) + found.plane.first[0] * one + found.plane.second[0] * other
    on_all = np.mean((X @ corner - X @ np.ones(2)) ** 2)  # 48 examples, not the 16 of a minibatch
    assert found.plane.losses[0, 0] == pytest.approx(on_all, rel=1e-4)
    away = found.distances["too small"]
    start = found.paths["too small"][0]
    np.testing.assert_allclose(np.linalg.norm(found.paths["too small"] - start, axis=1), away, rtol=1e-3)


def test_a_run_that_diverges_is_named_frozen_and_does_not_determine_the_plane(found):
    assert found.best == "good"
    assert found.diverged == {"too small": False, "good": False, "too large": True}
    assert found.final_loss["too large"] == np.inf
    assert np.isnan(found.losses["too large"][-1])
    assert found.distances["too large"][-1] > 1e6
    assert found.plane.first[-1] - found.plane.first[0] < 6
    assert found.plane.centre < 1e-3
    assert found.lengths["good"] >= found.distances["good"][-1] * (1 - 1e-6)


def test_the_table_and_the_picture_show_every_run(found, tmp_path):
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(RATES)
    assert f"diverged {np.isfinite(found.losses['too large']).sum()}" in lines[3]
    assert "lowest final loss: good" in repr(found)
    figure = found.plot(title="line: sgd")
    above, below = figure.axes[:2]
    labels = above.get_legend_handles_labels()[1]
    assert labels == ["too small: 0.001", "good: 0.02", "too large: 0.3, diverged", "start"]
    low, high = below.get_ylim()
    assert high <= 3.601 * found.losses["good"][0]
    assert 0.8 * found.losses["good"].min() < low < found.losses["good"].min()
    figure.savefig(tmp_path / "rates.png")


def test_each_path_counts_the_same_and_one_is_cut_off_where_it_goes_far():
    long = [np.array([i, 0.3 * i * (-1) ** i, 0, 0], np.float32) for i in range(5)]
    short = [np.array([0, 0, 0.01 * i, 0], np.float32) for i in range(5)]
    far = [np.array([0, 0, 0, 0], np.float32), np.array([0, 0, 0, 9], np.float32), np.array([0, 0, 0, 1], np.float32)]
    directions, variance, shown = _plane_of([long, short, far], best=0)
    np.testing.assert_array_equal(shown[2], [True, False, False])
    assert abs(directions[0][2]) + abs(directions[1][2]) > 0.9  # the short path is seen
    assert np.max(np.abs([direction[3] for direction in directions])) < 1e-6
    assert 0.8 < variance.sum() <= 1


def test_snapshots_follow_each_other_at_first_and_reach_the_end():
    times = snapshot_times(300, 60)
    assert times[:4].tolist() == [0, 1, 2, 3]
    assert times[-1] == 300
    assert len(times) <= 60
    assert np.diff(times)[-1] > 5
    assert snapshot_times(3, 60).tolist() == [0, 1, 2, 3]


def test_the_plane_takes_a_loss_of_the_user_and_minibatches_made_elsewhere():
    stacked = lrx.Workload.from_functions(
        lambda w, x, key: jnp.mean((x @ w - x @ jnp.ones(2)) ** 2),
        lambda key: jnp.zeros(2),
        lrx.Batches.stack(X.reshape(6, 8, 2)),
        name="stacked",
    )
    params = lrx.train(stacked, lrx.sgd(0.002), steps=4).params
    for loss, expected in ((lambda w: jnp.sum(w) + 7, np.sum(params) + 7), (None, stacked.loss_at(0)(params))):
        found = lrx.compare_rates(
            stacked, lrx.sgd, {"a": 0.001, "b": 0.002}, num_steps=4, num_points=2, snapshots=2, loss=loss
        )
        assert found.plane.centre == pytest.approx(float(expected), rel=1e-5)


SMALL = lrx.Workload.from_functions(
    lambda w, x, key: w**2 * x.mean(), lambda key: jnp.ones(()), lrx.Batches(X[:, 0], 8)
)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"workload": 3}, TypeError, "workload must be an lrx.Workload"),
        ({"rates": {"one": 0.1}}, ValueError, "rates must map at least two names to rates, got rates={'one': 0.1}"),
        ({"rates": [0.1, 0.2]}, ValueError, "rates must map at least two names to rates"),
        ({"rates": {"a": 0.1, "b": 0.0}}, ValueError, r"rates\['b'\] must be a finite number > 0"),
        ({"num_steps": 0}, ValueError, "num_steps must be a whole number of steps >= 1"),
        ({"num_points": 1}, ValueError, "num_points must be a whole number of points along each side >= 2"),
        ({"snapshots": 1}, ValueError, "snapshots must be a whole number of points >= 2"),
        ({"seed": -1}, ValueError, "seed must be a whole number from 0"),
        ({"tx": lrx.sgd(0.1)}, TypeError, "tx must be a function of a rate"),
        ({"tx": lambda rate: lrx.constant(rate).multiplier()}, ValueError, "tx must"),
        ({"loss": lambda w: w}, ValueError, r"loss must return a scalar, got one of shape \(2,\)"),
        ({"workload": SMALL}, ValueError, "params must hold at least two numbers, which span a plane, got 1"),
        ({"rates": {"a": 1e6, "b": 1e7}, "num_steps": 60}, ValueError, "rates must hold one that does not diverge"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"workload": LINE, "tx": lrx.sgd, "rates": RATES, "num_steps": 3, **change}
    with pytest.raises(error, match=message):
        lrx.compare_rates(arguments.pop("workload"), arguments.pop("tx"), arguments.pop("rates"), **arguments)
