"""Sweeps: every member is the run that `train` makes, however the members are compiled."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.training import Batches, Workload, many, train
from lrx.training import plan as plans
from lrx.tuning import log_uniform, sweep, uniform
from lrx.tuning.space import make_space
from lrx.workloads import make_workload

RATES = [0.01, 0.1, 1e9]  # the last one diverges


def line(evaluate: Any = None) -> Workload:
    x = jnp.linspace(-1.0, 1.0, 40)

    def loss_fn(slope: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        noise = 0.1 * jax.random.normal(key, batch[0].shape)
        return jnp.mean((slope * batch[0] - batch[1] + noise) ** 2)

    return Workload.from_functions(
        loss_fn, lambda key: jax.random.normal(key), Batches((x, 3.0 * x), 8), name="line", evaluate=evaluate
    )


LINE = line(lambda slope: {"error": jnp.abs(slope - 3.0)})


def sgd(lr: Any) -> Any:
    return lrx.sgd(lr)


def swept(**arguments: Any) -> lrx.tuning.SweepResult:
    settings = {"tx": sgd, "grid": {"lr": RATES}, "num_steps": 23, "seeds": 2, "strategy": "vmap"}
    return sweep(LINE, **(settings | arguments))


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_every_member_is_the_run_that_train_makes(strategy: str) -> None:
    found = swept(strategy=strategy)
    assert found.final_loss.shape == (3, 2)
    assert found.losses.shape == (3, 2, 23)
    for index, rate in enumerate(RATES[:2]):
        for seed in range(2):
            history = train(LINE, sgd(rate), steps=23, seed=seed)
            np.testing.assert_allclose(found.losses[index, seed], history.loss, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.final_loss[index, seed], history.loss[-3:].mean(), rtol=1e-4, atol=1e-6)
            error = found.evaluations["error"][index, seed]
            np.testing.assert_allclose(error, history.evaluations["error"][-1], rtol=1e-3, atol=1e-5)


def test_rates_are_those_that_train_records() -> None:
    def tx(lr: Any) -> Any:
        return lrx.hypergradient_sgd(lr, hyper_rate=1e-2)

    found = swept(tx=tx, num_points=6)  # of four steps each, the last of three
    history = train(LINE, tx(RATES[1]), steps=23, seed=1)
    means = [history.rate[first : first + 4].mean() for first in range(0, 23, 4)]
    np.testing.assert_allclose(found.rates[1, 1], means, rtol=1e-4)
    assert found.rates[1, 1, -1] != found.rates[1, 1, 0]
    assert np.isnan(found.rates[2, :, -1]).all()  # diverged


def test_rates_of_a_state_without_one_are_nan() -> None:
    found = swept(tx=lambda lr: optax.sgd(lr), grid={"lr": RATES[:2]}, num_steps=3)
    assert np.isnan(found.rates).all()
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_member_that_diverges_is_frozen_alone(strategy: str) -> None:
    found = swept(strategy=strategy, num_steps=40)
    assert np.isinf(found.final_loss[2]).all()
    assert np.isfinite(found.final_loss[:2]).all()
    assert np.isnan(found.losses[2, :, -1]).all()
    assert np.isfinite(found.losses[2, :, 0]).all()
    assert np.isnan(found.evaluations["error"][2]).all()
    assert found.best() == {"lr": 0.1}
    assert found.best("error") == {"lr": 0.1}


def test_rates_betas_decays_and_durations_can_be_swept() -> None:
    def tx(lr: Any, b1: Any, weight_decay: Any, warmup_steps: Any) -> Any:
        rate = lrx.warmup(lrx.constant(lr), warmup_steps)
        return lrx.adamw(rate, b1=b1, weight_decay=weight_decay)

    axes = {"lr": [0.01, 0.1], "b1": [0.5, 0.9], "weight_decay": [0.0, 0.1], "warmup_steps": [0, 1, 8]}
    found = swept(tx=tx, grid=axes, num_steps=12, seeds=1)
    assert found.final_loss.shape == (2, 2, 2, 3, 1)
    history = train(LINE, tx(0.1, 0.5, 0.1, 8), steps=12)
    np.testing.assert_allclose(found.losses[1, 0, 1, 2, 0], history.loss, rtol=1e-4)


def test_samples_are_drawn_from_their_ranges() -> None:
    found = swept(
        tx=lambda lr, momentum: lrx.sgd(lr, momentum=momentum),
        grid=None,
        sample={"lr": log_uniform(1e-4, 1e-1), "momentum": uniform(0.0, 0.9)},
        num_samples=7,
    )
    assert found.final_loss.shape == (7, 2)
    assert set(found.best()) == {"lr", "momentum"}
    drawn = make_space(None, {"lr": log_uniform(1e-4, 1.0)}, 10_000, seed=0).members["lr"]
    assert drawn.min() >= 1e-4
    assert drawn.max() <= 1.0
    np.testing.assert_allclose(np.quantile(np.log10(drawn), [0.25, 0.5, 0.75]), [-3, -2, -1], atol=0.1)


def test_chunks_change_nothing_and_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"lr": np.linspace(0.01, 0.1, 5)}
    whole, chunked = swept(grid=grid, strategy="vmap"), swept(grid=grid, strategy="vmap", chunk_size=2)
    assert (whole.chunk_size, chunked.chunk_size) == (5, 2)
    np.testing.assert_allclose(chunked.losses, whole.losses, rtol=1e-5, atol=1e-7)
    family = many.RunFamily(LINE, lambda hyper, count: sgd(hyper["lr"]), 23, 23)
    plan = plans.choose_plan(family, grid, np.arange(2), strategy="vmap")
    needed = plan.bytes_needed()
    monkeypatch.setattr(plans, "_free_memory", lambda device: 0.6 * needed / plans.MEMORY_SHARE)
    small = swept(grid=grid, strategy="vmap")
    assert 1 <= small.chunk_size <= 3
    np.testing.assert_allclose(small.losses, whole.losses, rtol=1e-5, atol=1e-7)


def test_both_strategies_are_measured_and_the_faster_is_taken() -> None:
    found = swept(strategy="auto")
    assert set(found.seconds) == {"vmap", "map"}
    assert found.strategy == min(found.seconds, key=lambda name: found.seconds[name])
    assert swept(strategy="map", num_steps=2).seconds == {}


def test_evaluations_are_made_on_the_way(tmp_path: Path) -> None:
    found = swept(evaluate_every=10, num_points=7, chunk_size=1)
    assert found.evaluation_steps.tolist() == [10, 20, 23]
    assert found.evaluation_curves["error"].shape == (3, 2, 3)
    assert found.losses.shape == (3, 2, 6)  # of four steps each
    history = train(LINE, sgd(RATES[1]), steps=23, seed=1, evaluate_every=10)
    np.testing.assert_allclose(
        found.evaluation_curves["error"][1, 1], history.evaluations["error"], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(found.losses[1, 1, 0], history.loss[:4].mean(), rtol=1e-4)
    np.testing.assert_array_equal(found.evaluations["error"], found.evaluation_curves["error"][..., -1])
    at_once = swept(evaluate_every=10, num_points=7)
    np.testing.assert_allclose(at_once.final_loss, found.final_loss, rtol=1e-4)


def test_a_chunk_of_which_nothing_is_left_is_not_lost() -> None:
    found = swept(chunk_size=1, num_steps=40, grid={"lr": [1e9, 0.1, 1e9]})
    assert np.isnan(found.evaluations["error"][[0, 2]]).all()
    assert np.isfinite(found.evaluations["error"][1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"evaluate_every": 0},
            r"evaluate_every must be a whole number of steps >= 1 and < 2\^31, got evaluate_every=0",
        ),
        ({"num_points": 0}, r"num_points must be a whole number of points >= 1 and < 2\^31, got num_points=0"),
    ],
)
def test_numbers_of_points_and_evaluations_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swept(**arguments)


def test_evaluations_need_something_that_evaluates() -> None:
    with pytest.raises(ValueError, match="evaluate_every needs a workload that evaluates, got evaluate_every=5"):
        sweep(line(), tx=sgd, grid={"lr": [0.1]}, num_steps=10, evaluate_every=5)


def test_an_interrupted_sweep_goes_on_after_its_last_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"grid": {"lr": [0.01, 0.02, 0.05, 0.1, 0.2]}, "chunk_size": 2, "strategy": "vmap"}
    started: list[list[float]] = []
    original = plans.Plan.start

    def start(self: Any, hyper: Any, seeds: Any) -> Any:
        started.append(hyper["lr"].tolist())
        if len(started) == 2:
            raise KeyboardInterrupt
        return original(self, hyper, seeds)

    monkeypatch.setattr(plans.Plan, "start", start)
    with pytest.raises(KeyboardInterrupt):
        swept(checkpoint=tmp_path / "run", **arguments)
    resumed = swept(checkpoint=tmp_path / "run", **arguments)
    assert started == [[0.01, 0.02], [0.05, 0.1], [0.05, 0.1], [0.2]]
    at_once = swept(**arguments)
    np.testing.assert_array_equal(resumed.losses, at_once.losses)
    np.testing.assert_array_equal(resumed.evaluations["error"], at_once.evaluations["error"])
    started.clear()
    again = swept(checkpoint=tmp_path / "run", **arguments)
    assert not started
    np.testing.assert_array_equal(again.final_loss, at_once.final_loss)
    with pytest.raises(ValueError, match=r"holds another run.*steps is 23 there and 24 here"):
        swept(checkpoint=tmp_path / "run", **{**arguments, "num_steps": 24})
    with pytest.raises(ValueError, match=r"holds another run.*opt_state.*is absent there"):
        swept(checkpoint=tmp_path / "run", **{**arguments, "tx": lambda lr: lrx.adam(lr)})


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_members_are_split_over_devices(strategy: str) -> None:
    code = f"""
        import jax, numpy as np, lrx
        from lrx.workloads import make_workload
        assert jax.device_count() == 4
        found = lrx.sweep(
            make_workload("digits", "mlp", batch_size=32, widths=(8,)), tx=lambda lr: lrx.sgd(lr),
            grid={{"lr": [0.01, 0.03, 0.1, 0.3, 1.0, 1e9]}}, num_steps=20, seeds=2, strategy="{strategy}",
        )
        assert found.chunk_size == 8
        print(repr(found.final_loss.tolist()))
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    split = np.array(eval(done.stdout, {"inf": np.inf}))
    alone = sweep(
        make_workload("digits", "mlp", batch_size=32, widths=(8,)),
        tx=sgd,
        grid={"lr": [0.01, 0.03, 0.1, 0.3, 1.0, 1e9]},
        num_steps=20,
        seeds=2,
    )
    np.testing.assert_allclose(split, alone.final_loss, rtol=1e-3)


@pytest.mark.slow
def test_convolutions_are_swept_too() -> None:
    workload = make_workload("digits", "resnet8", batch_size=16)
    found = sweep(workload, tx=sgd, grid={"lr": [0.01, 0.05]}, num_steps=3, strategy="map")
    history = train(workload, sgd(0.05), steps=3)
    np.testing.assert_allclose(found.losses[1, 0], history.loss, rtol=1e-3)


def test_the_pictures_show_what_diverged() -> None:
    found = swept(grid={"lr": [0.001, 0.01, 0.1, 1e9]})
    axes = found.plot().axes[0]
    assert axes.get_xscale() == "log"
    assert [line.get_label() for line in axes.get_lines()].count("diverged") == 1
    two = swept(
        tx=lambda lr, momentum: lrx.sgd(lr, momentum=momentum), grid={"lr": RATES, "momentum": [0.0, 0.5]}, num_steps=40
    )
    figure = two.plot()
    assert [text.get_text() for text in figure.axes[0].texts].count("x") == 2
    assert figure.axes[0].get_ylabel() == "lr"
    assert two.plot(names=["momentum"]).axes[0].get_xlabel() == "momentum"
    assert two.plot("error", names=["momentum", "lr"]).axes[0].get_ylabel() == "momentum"
    with pytest.raises(ValueError, match=r"^names must be one or two of \['lr', 'momentum'\], got names=\['b1'\]"):
        two.plot(names=["b1"])


def test_a_member_that_its_controller_stops_has_not_diverged() -> None:
    found = sweep(
        LINE,
        tx=lambda lr: lrx.sgd(lrx.constant(lr) * lrx.early_stopping(patience=5)),
        grid={"lr": [0.1, 1e9]},
        num_steps=300,
    )
    assert np.isfinite(found.final_loss[:, 0]).tolist() == [True, False]
    assert np.isfinite(found.losses[0, 0]).sum() < 150, "the example is one that stops"
    assert found.evaluations["error"][0, 0] < 0.5


def test_the_best_of_nothing_is_refused() -> None:
    found = swept(grid={"lr": [1e9]}, num_steps=40)
    with pytest.raises(ValueError, match=r"^every member of the sweep diverged with some seed"):
        found.best()
    with pytest.raises(ValueError, match=r"^metric must be one of \['error'\]"):
        swept().best("accuracy")
    with pytest.raises(ValueError, match=r"^mode='max' needs a metric"):
        swept().best(mode="max")
    nowhere = sweep(line(lambda slope: {"error": jnp.nan * slope}), tx=sgd, grid={"lr": RATES}, num_steps=9)
    infinite = sweep(
        line(lambda slope: {"score": jnp.where(jnp.abs(slope - 3.0) < 0.5, 1.0, jnp.inf)}),
        tx=lambda lr, momentum: lrx.sgd(lr, momentum=momentum),
        grid={"lr": [1e-6, 0.3], "momentum": [0.0, 0.1]},
        num_steps=40,
    )
    assert infinite.best("score", mode="max")["lr"] == 0.3
    drawn = infinite.plot("score", names=["momentum"], mode="max").axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(drawn, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"^the error of no member is finite with every seed, though not all diverged"):
        nowhere.best("error")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"grid": None}, ValueError, "exactly one of grid and sample must be given"),
        ({"sample": {"lr": log_uniform(0.1, 1)}}, ValueError, "exactly one of grid and sample must be given"),
        ({"grid": {}}, TypeError, r"grid must be a dict from names of hyperparameters, got grid=\{\}"),
        ({"grid": {"lr": []}}, ValueError, r"grid\['lr'\] must be a list of at least one finite number"),
        ({"grid": {"lr": [np.nan]}}, ValueError, r"grid\['lr'\] must be a list of at least one finite number"),
        ({"grid": {"lr": "high"}}, TypeError, r"grid\['lr'\] must be a list of numbers, got 'high'"),
        ({"grid": {"rate": [0.1]}}, TypeError, r"tx must be a function of rate, but tx\(rate=0.1\) failed: "),
        (
            {"grid": {"lr": [0.1, -1.0]}},
            ValueError,
            "learning_rate must be a finite number >= 0, got learning_rate=-1.0",
        ),
        ({"num_samples": 3}, ValueError, "num_samples belongs to sample, got num_samples=3 with a grid"),
        ({"grid": None, "sample": {"lr": 1.0}}, TypeError, r"sample\['lr'\] must be a range, got 1.0: give"),
        ({"grid": None, "sample": {"lr": uniform(0, 1)}}, ValueError, "num_samples must be given with sample"),
        ({"num_steps": 0}, ValueError, "num_steps must be a whole number of steps >= 1"),
        ({"strategy": "pmap"}, ValueError, "strategy must be one of 'auto', 'vmap', 'map', got strategy='pmap'"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be a whole number of members >= 1"),
        ({"tx": 0.1}, TypeError, "tx must be a function of lr, got tx=0.1"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        swept(**arguments)


@pytest.mark.parametrize(
    ("make", "bounds", "message"),
    [
        (log_uniform, (0.0, 1.0), "low must be a finite number > 0, got low=0.0: its logarithm is taken"),
        (log_uniform, (1.0, 0.1), "high must be a finite number > 1.0, got high=0.1"),
        (uniform, (1.0, 1.0), "high must be a finite number > 1.0, got high=1.0"),
        (uniform, (-np.inf, 1.0), "low must be a finite number, got low=-inf"),
    ],
)
def test_ranges_have_two_bounds(make: Any, bounds: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(*bounds)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_frozen_run_keeps_the_state_from_before(strategy: str) -> None:
    hyper, seeds = {"lr": np.array([0.1, 1e9])}, np.arange(1)
    family = many.RunFamily(LINE, lambda hyper, count: sgd(hyper["lr"]), 40, 40)
    plan = plans.choose_plan(family, hyper, seeds, strategy=strategy)
    after = plan.advance(plan.start(hyper, seeds), hyper, seeds, 0, 40)
    assert after.alive.tolist() == [[True, False]]
    assert 0 < after.steps[0, 1] < 40
    assert np.isfinite(after.state.params[0, 1])


def test_a_run_that_a_controller_ends_makes_no_more_steps() -> None:
    def tx(lr: Any) -> Any:
        return lrx.sgd(lrx.constant(lr) * lrx.early_stopping(patience=2, accumulation_size=1))

    found = swept(tx=tx, grid={"lr": [1e-9]}, num_steps=40, seeds=1)
    made = int(np.isfinite(found.losses).sum())
    history = train(LINE, tx(1e-9), steps=40)
    assert made == len(history.loss) < 40


def noise_alone(params: jax.Array, batch: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.sum(batch) + 0.0 * jnp.sum(params)


NOISE = 1.0 + 0.1 * np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)


def test_the_best_of_a_sweep_has_learnt_something() -> None:
    arguments: dict[str, Any] = {"tx": lambda lr: lrx.sgd(lr), "num_steps": 30, "strategy": "vmap"}
    flat = sweep(noise_alone, lambda key: jnp.ones(2), batches=NOISE, grid={"lr": [1e-3, 0.1]}, **arguments)
    assert flat.final_loss.mean() < np.mean(flat.losses[0, 0, :3]), "the example is one whose loss falls by chance"
    np.testing.assert_allclose(flat.initial_loss, flat.final_loss, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"^no member of the sweep has learnt anything: the lowest final loss is 0\.\d+"
    ):
        flat.best()
    low = sweep(LINE, grid={"lr": [1e-9, 1e-8]}, **arguments)
    for metric in (None, "error"):
        with pytest.raises(ValueError, match="Sweep higher rates"):
            low.best(metric)
    found = sweep(LINE, grid={"lr": [1e-9, 0.1]}, **arguments)
    assert found.best() == found.best("error") == {"lr": 0.1}
    # By a metric that says the contrary, what has not moved is not the best one either.
    lucky = dataclasses.replace(found, evaluations={"error": np.array([[0.0], [1.0]])})
    assert lucky.best("error") == {"lr": 0.1}


def test_the_map_shows_numbers_and_the_best_and_says_where_a_better_one_may_lie() -> None:
    found = sweep(
        LINE,
        tx=lambda lr, b1: lrx.adam(lr, b1=b1),
        grid={"lr": [1e-3, 1e-2, 0.1], "b1": [0.5, 0.8, 0.9]},
        num_steps=20,
        strategy="vmap",
    )
    best = found.best()
    axes = found.plot().axes[0]
    written = sorted(text.get_text() for text in axes.texts)
    assert written == sorted(f"{value:.3g}" for value in found.final_loss.ravel())
    (frame,) = axes.patches
    row, column = (list(found.axes[name]).index(best[name]) for name in ("lr", "b1"))
    assert (frame.get_x(), frame.get_y()) == (column - 0.5, row - 0.5)
    assert found.at_edge()["lr"] == "highest"
    words = "the highest lr"
    assert words in axes.get_title("left").replace("\n", " ")
    assert words in found.plot(names=["lr"]).axes[0].get_title("left").replace("\n", " ")
    assert words in str(found)
    assert "best: lr=0.1" in str(found)


def test_results_are_printed_in_a_few_lines_that_fit() -> None:
    found = swept(grid={"lr": np.geomspace(1e-4, 0.1, 40)}, num_steps=4, seeds=1)
    assert repr(found) == "SweepResult(40 lr, 1 seed, 4 steps)"
    lines = str(found).splitlines()
    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    assert "and 20 more" in lines


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = swept(num_steps=4, seeds=1)
    square = swept(tx=lambda lr, b: lrx.sgd(lr), grid={"lr": RATES, "b": [0.1, 0.2]}, num_steps=4, seeds=1)
    halved = lrx.successive_halving(LINE, tx=sgd, grid={"lr": [0.05, 0.1, 0.2]}, num_steps=9, strategy="vmap")
    tried = lrx.halve_until_trains(LINE, tx=lrx.sgd, start_rate=0.2, num_steps=20)
    for result in (found, square, halved, tried, lrx.range_test(LINE, tx=lrx.sgd)):
        with pytest.raises(ImportError, match=r'^plots need matplotlib: pip install "lrx\[papers\]"\.$'):
            result.plot()
        assert len(repr(result)) < 200
