"""Successive halving: survivors continue from where they were, and the best one is found at a fraction of the cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tuning.line import LINE, MAP, VMAP, line, sgd

import lrx
from lrx.training import Batches, Workload, train
from lrx.training import plan as plans
from lrx.tuning import Execution, Random, log_uniform, study, successive_halving
from lrx.tuning.rungs import plan_rungs

RATES = [1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1e9, 1e8, 1e7]


def halved(**arguments: Any) -> lrx.tuning.HalvingResult:
    settings = {"tx": sgd, "space": {"lr": RATES}, "num_steps": 54, "execution": VMAP}
    return successive_halving(LINE, **(settings | arguments))


def test_the_better_third_goes_on_from_where_it_was() -> None:
    found = halved(seeds=2)
    assert sorted(found.steps_made) == [6] * 6 + [18] * 2 + [54]
    assert found.cost == pytest.approx((6 * 6 + 2 * 18 + 54) / 54)
    (place,) = np.flatnonzero(found.steps_made == 54)
    assert found.best == {"lr": RATES[place]}
    for seed in range(2):
        history = train(LINE, sgd(found.best["lr"]), steps=54, seed=seed)
        np.testing.assert_allclose(found.losses[place, seed], history.loss, rtol=1e-4, atol=1e-6)
    history = train(LINE, sgd(found.best["lr"]), steps=54)
    np.testing.assert_allclose(found.params, history.params, rtol=1e-5)
    assert np.isinf(found.final_loss[6]).all() or found.steps_made[6] == 6


@pytest.mark.slow
def test_the_best_by_an_evaluation_is_found() -> None:
    by_error = halved(metric="error")
    assert by_error.best["lr"] in (0.03, 0.1, 0.3)
    worst = halved(metric=("error", "max"), space={"lr": RATES[:6]})
    assert worst.best["lr"] == 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_chunks_change_nothing(chunk_size: int | None) -> None:
    found = halved(execution=Execution("vmap", chunk_size))
    np.testing.assert_allclose(found.losses, halved(execution=MAP).losses, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["min", "max"])
def test_hyperband_begins_its_brackets_later(mode: str) -> None:
    found = halved(
        space=Random({"lr": log_uniform(1e-4, 1.0)}, num_samples=9),
        min_steps=6,
        brackets=3,
        metric=("error", mode),
        execution=MAP,
    )
    assert np.bincount(found.bracket).tolist() == [9, 5, 3]  # Hyperband's table for R = 9, eta = 3
    assert found.steps_made[found.bracket == 0].min() == 6
    assert found.steps_made[found.bracket == 1].min() == 18
    assert found.steps_made[found.bracket == 2].min() == 54
    finished = np.flatnonzero(found.steps_made == 54)
    best = finished[np.argmin(found.metric[finished] if mode == "min" else -found.metric[finished])]
    assert found.best == {"lr": found.members["lr"][best]}
    history = train(LINE, sgd(found.best["lr"]), steps=54)
    np.testing.assert_allclose(found.params, history.params, rtol=1e-4)


def test_rungs_are_those_of_the_paper() -> None:
    rungs = plan_rungs(81, 81, 1, 3, 5)
    table: dict[int, list[tuple[int, int]]] = {}
    for rung in rungs:
        table.setdefault(rung.bracket, []).append((rung.size, rung.stop))
    assert table[0] == [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]  # Li et al., table 1
    assert [rows[0] for rows in table.values()] == [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]


@pytest.mark.slow
@pytest.mark.parametrize("fail_at", [2, 3])
def test_an_interrupted_search_loses_at_most_a_rung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    arguments: dict[str, Any] = {"execution": MAP, "seeds": 2}
    made: list[tuple[int, int]] = []
    original = plans.Plan.advance

    def advance(self: Any, runs: Any, hyper: Any, seeds: Any, start: int, stop: int) -> Any:
        made.append((start, stop))
        if len(made) == fail_at:
            raise KeyboardInterrupt
        return original(self, runs, hyper, seeds, start, stop)

    monkeypatch.setattr(plans.Plan, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        halved(checkpoint=tmp_path / "run", **arguments)
    resumed = halved(checkpoint=tmp_path / "run", **arguments)
    rungs = [(0, 6), (6, 18), (18, 54)]
    assert made == [*rungs[:fail_at], *rungs[fail_at - 1 :]]
    at_once = halved(**arguments)
    np.testing.assert_array_equal(resumed.losses, at_once.losses)
    np.testing.assert_array_equal(resumed.params, at_once.params)
    assert resumed.best == at_once.best
    made.clear()
    again = halved(checkpoint=tmp_path / "run", **arguments)
    assert not made
    np.testing.assert_array_equal(again.params, at_once.params)


@pytest.mark.slow
def test_the_state_of_a_model_and_averages_are_carried() -> None:
    def loss_fn(slope: jax.Array, mean: jax.Array, batch: jax.Array, key: jax.Array) -> Any:
        product = slope * batch
        return jnp.mean((product - mean - 3.0 * batch) ** 2), 0.9 * mean + 0.1 * jnp.mean(product)  # as a batch norm

    workload = Workload(
        "centred",
        lambda key: (jax.random.uniform(key), jnp.zeros(())),
        loss_fn,
        Batches(jnp.linspace(0.0, 2.0, 64), 16),
        lambda slope, mean: {"error": jnp.abs(slope - 3.0) + 0.0 * mean},
    )
    found = successive_halving(
        workload,
        lambda lr: lrx.schedule_free_sgd(lr),
        {"lr": [0.001, 0.01, 0.1]},
        num_steps=30,
        metric="error",
        execution=MAP,
    )
    assert sorted(found.steps_made) == [10, 10, 30]
    history = train(workload, lrx.schedule_free_sgd(found.best["lr"]), steps=30)
    averaged = lrx.eval_params(history.opt_state, history.params)
    assert abs(averaged - history.params) > 1e-3
    np.testing.assert_allclose(found.params, averaged, rtol=1e-4)


def test_the_picture_has_a_line_for_each_member() -> None:
    figure = halved(space={"lr": RATES[:6]}).plot()
    assert len(figure.axes[0].get_lines()) == 12  # and a point at its end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_steps": 60}, "min_steps must be <= num_steps, got min_steps=60, num_steps=54: there would be no rung"),
        ({"eta": 1}, "eta must be a whole number of members >= 2"),
        ({"brackets": 2}, "brackets must be 1 with a grid"),
        ({"metric": ("error", "best")}, 'the mode of metric must be "min" or "max"'),
        ({"metric": "f1"}, "metric must say whether the least or the greatest is best, got metric='f1'"),
        ({"metric": "accuracy"}, r"metric must be one of \['error'\], got metric='accuracy'"),
        ({"space": {"lr": [1e9, 1e10, 1e11]}}, "every member diverged within"),
        ({"space": {"lr": []}}, r"space\['lr'\] must be a list of at least one finite number"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        halved(**arguments)


def test_a_metric_that_no_evaluation_gives_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans.Plan, "advance", None)
    with pytest.raises(ValueError, match=r"^metric must be one of \['error'\], got metric='accuracy'"):
        halved(metric="accuracy", execution=MAP)


def test_a_member_whose_metric_is_nan_is_the_worst() -> None:
    partly = line(lambda slope: {"error": jnp.where(jnp.abs(slope - 3.0) < 0.5, jnp.nan, jnp.abs(slope - 3.0))})
    found = successive_halving(partly, sgd, {"lr": [0.3, 1e-4, 1e-3]}, num_steps=54, metric="error", execution=VMAP)
    assert found.best["lr"] == 1e-3
    # What is last in the first bracket has no metric; the second bracket's best is the winner.
    gone = line(lambda slope: {"error": jnp.where(jnp.abs(slope - 3.0) < 0.2, jnp.nan, jnp.abs(slope - 3.0))})
    found = successive_halving(
        gone,
        sgd,
        Random({"lr": log_uniform(0.01, 1.0)}, num_samples=9),
        num_steps=54,
        brackets=2,
        metric="error",
        execution=VMAP,
    )
    assert np.isfinite(found.metric[found.members["lr"] == found.best["lr"]]).all()
    nowhere = line(lambda slope: {"error": jnp.nan * slope})
    with pytest.raises(ValueError, match="the error of every member is not finite within 6 steps, though not all"):
        successive_halving(nowhere, sgd, {"lr": RATES}, num_steps=54, metric="error", execution=VMAP)


def test_a_resumed_search_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begins: list[int] = []
    original = study.reporter

    def reporter(*arguments: Any, step: int, **others: Any) -> Any:
        begins.append(step)
        return original(*arguments, step=step, **others)

    monkeypatch.setattr(study, "reporter", reporter)
    for _ in range(2):
        halved(checkpoint=tmp_path / "run", seeds=2)
    assert begins == [0, 2 * (9 * 6 + 3 * 12 + 1 * 36)]


def test_brackets_need_rungs_to_leave_out() -> None:
    with pytest.raises(ValueError, match=r"^brackets must be at most the number of rungs, 2, got brackets=3"):
        halved(space=Random({"lr": log_uniform(1e-3, 1)}, num_samples=3), brackets=3)
    with pytest.raises(
        ValueError, match=r"^metric needs a workload that evaluates, got metric='error' and one without"
    ):
        successive_halving(line(), sgd, {"lr": RATES}, num_steps=54, metric="error")


@pytest.mark.parametrize("metric", [None, "error"])
def test_the_best_of_a_search_has_learnt_something(metric: str | None) -> None:
    with pytest.raises(ValueError, match=r"^no member has learnt anything: the best one has a final loss of \d"):
        halved(space={"lr": [1e-9, 1e-8, 1e-7]}, num_steps=9, metric=metric)
