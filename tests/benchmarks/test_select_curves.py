"""Stored curves: what is kept of them, what a file holds, and that they are those of `lrx.train`."""

from __future__ import annotations

import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.made_up_curves import curves_of
from tuning.line import line

import lrx
from lrx.benchmarks.selection import record
from lrx.benchmarks.selection.candidates import FAMILIES, METHODS, Family
from lrx.benchmarks.selection.curves import BINS, CHOOSING, TaskCurves, bin_edges, coarsen, shorten, stops_of
from lrx.benchmarks.selection.fit import KNOWN
from lrx.benchmarks.selection.record import Recorder
from lrx.schedules import constant, linear_decay
from lrx.tuning.selection.portfolio import PORTFOLIO
from lrx.workloads.suite import Task

TASK = Task(lambda data_dir: line(lambda slope: {"loss": jnp.abs(slope - 3.0)}), 54, "loss", "min")
TWO = Family(
    lambda rate, num_steps: lrx.sgd(rate),
    {"sgd, linear decay": linear_decay, "sgd": lambda rate, num_steps: constant(rate)},
    0.1,
    (-1, 0, 1),
)


def test_stops_and_bins_are_geometric_and_end_with_the_run() -> None:
    assert stops_of(270, 1) == [10, 30, 90, 156, 270]
    assert all(stop % 3 == 0 for stop in stops_of(1000, 3)[:-1])
    edges = bin_edges(270, 1)
    assert len(edges) == BINS + 1
    assert (edges[0], edges[-1]) == (0, 270)
    assert set(stops_of(270, 1)) <= set(edges.tolist())


def test_coarse_bins_are_means_and_end_where_a_run_diverged() -> None:
    fine = np.arange(90, dtype=np.float32)[None].repeat(2, axis=0)
    fine[1, 60:] = np.nan
    coarse = coarsen(fine, 270, 3)
    edges = bin_edges(270, 3) // 3
    assert coarse[0, -1] == pytest.approx(fine[0, edges[-2] :].mean())
    assert np.isfinite(coarse[1]).sum() < np.isfinite(coarse[0]).sum()
    assert np.isnan(coarse[1, -1])


def test_short_values_keep_three_digits_at_any_scale() -> None:
    values = np.array([1e-12, 3.14159, 2.7e30, np.nan, np.inf], np.float32)
    kept = shorten(values)
    np.testing.assert_allclose(kept, values, rtol=1e-3)
    assert len(set((kept[:3].view(np.uint32) & 0x1FFF).tolist())) == 1


def test_a_file_holds_all_of_the_curves(tmp_path: pathlib.Path) -> None:
    curves = curves_of({"cocob": {1.0: (0.5, 0.25)}, "sgd, linear decay": {0.1: (0.5, math.inf), 1.0: (0.125, 0.25)}})
    curves.suggestions["sgd"] = np.array([0.1, np.nan, 0.2], np.float32)
    loaded = TaskCurves.load(curves.save(tmp_path / "made up.npz"))
    assert list(loaded.methods) == ["cocob", "sgd, linear decay"]
    np.testing.assert_array_equal(loaded.suggestions["sgd"], curves.suggestions["sgd"])
    np.testing.assert_array_equal(loaded.judged("sgd, linear decay", 0.1), np.full(10, math.inf))
    np.testing.assert_array_equal(loaded.chosen_by("sgd, linear decay"), [[0.5] * 3, [0.125] * 3])
    assert loaded.methods["cocob"].losses.shape == (1, len(CHOOSING), BINS)
    assert (loaded.stops, loaded.metric, loaded.kind) == (curves.stops, "loss", "convex")


def test_the_oracle_searches_every_method_that_select_knows() -> None:
    assert set(KNOWN) <= set(METHODS)
    for name in set(METHODS) & set(PORTFOLIO):
        assert METHODS[name].default == PORTFOLIO[name].default
    for family in FAMILIES:
        assert 0 in family.places  # the default rate is on the grid


@pytest.mark.slow
def test_a_recorded_run_is_that_of_train(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(record, "FAMILIES", (TWO,))
    monkeypatch.setattr(record, "METHODS", dict.fromkeys(TWO.schedules, TWO))
    path = tmp_path / "line.npz"
    Recorder("line", TASK, path, report=str).record((TWO,))
    curves = TaskCurves.load(path)
    runs = curves.methods["sgd, linear decay"]
    workload = TASK.make(None)
    for seed in (0, 2):
        history = lrx.train(workload, lrx.sgd(linear_decay(0.1, 54)), steps=54, seed=CHOOSING[seed])
        expected = float(history.evaluations["loss"][-1])
        assert curves.chosen_by("sgd, linear decay")[runs.place(0.1), seed] == pytest.approx(expected, rel=1e-3)
    # The best rate is not at an edge of what was tried, and it was judged.
    means = curves.chosen_by("sgd").mean(axis=1)
    assert 0 < means.argmin() < len(means) - 1 or len(means) > 3 + record.STRIDE
    assert curves.methods["sgd"].judged[means.argmin()]
    # What is there is not trained again; a task that has changed is.
    again = Recorder("line", TASK, path, report=str)
    monkeypatch.setattr(again, "_record", None)
    again.record((TWO,))
    lines: list[str] = []
    longer = Recorder("line", Task(TASK.make, 60, "loss", "min"), path, report=lines.append)
    assert not longer.curves.methods
    assert lines == ["line: the task has changed, its curves are recorded again"]
