"""Sweeps: every member is the run that `train` makes, however the members are compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.line import LINE, MAP, NOISY_LINE, RATES, VMAP, line, sgd, swept

import lrx
from lrx.training import Batches, Workload, many, train
from lrx.training import plan as plans
from lrx.tuning import Execution, sweep
from lrx.tuning.space import FromHyperparameters


def adam(lr: Any) -> Any:
    return lrx.adam(lr)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_every_member_is_the_run_that_train_makes(strategy: str) -> None:
    found = swept(NOISY_LINE, execution=Execution(strategy))
    assert found.final_loss.shape == (3, 2)
    assert found.losses.shape == (3, 2, 23)
    for index, rate in enumerate(RATES[:2]):
        for seed in range(2):
            history = train(NOISY_LINE, sgd(rate), steps=23, seed=seed)
            np.testing.assert_allclose(found.losses[index, seed], history.loss, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.final_loss[index, seed], history.loss[-3:].mean(), rtol=1e-4, atol=1e-6)
            error = found.evaluations["error"][index, seed]
            np.testing.assert_allclose(error, history.evaluations["error"][-1], rtol=1e-3, atol=1e-5)


def hypergradient_sgd(lr: Any) -> Any:
    return lrx.hypergradient_sgd(lr, hyper_rate=1e-2)


def test_rates_are_those_that_train_records() -> None:
    found = swept(tx=hypergradient_sgd, num_points=6)  # of four steps each, the last of three
    history = train(LINE, hypergradient_sgd(RATES[1]), steps=23, seed=1)
    means = [history.rate[first : first + 4].mean() for first in range(0, 23, 4)]
    np.testing.assert_allclose(found.rates[1, 1], means, rtol=1e-4)
    assert found.rates[1, 1, -1] != found.rates[1, 1, 0]
    assert np.isnan(found.rates[2, :, -1]).all()  # diverged


def test_rates_of_a_state_without_one_are_nan() -> None:
    found = swept(tx=lambda lr: optax.sgd(lr), space={"lr": RATES[:2]}, num_steps=3)
    assert np.isnan(found.rates).all()
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_member_that_diverges_is_frozen_alone(strategy: str) -> None:
    found = swept(execution=Execution(strategy), num_steps=40)
    assert np.isinf(found.final_loss[2]).all()
    assert np.isfinite(found.final_loss[:2]).all()
    assert np.isnan(found.losses[2, :, -1]).all()
    assert np.isfinite(found.losses[2, :, 0]).all()
    assert np.isnan(found.evaluations["error"][2]).all()
    assert found.best() == {"lr": 0.1}
    assert found.best("error") == {"lr": 0.1}


def rolled_back(lr: Any, most: Any) -> Any:
    return lrx.rollback_on_divergence(lrx.sgd(lr), factor=1e-8, max_rollbacks=most)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_member_that_recovers_from_a_loss_that_is_not_finite_goes_on(strategy: str) -> None:
    space = {"lr": [0.3, 1e30], "most": [1, 20]}
    found = swept(tx=rolled_back, space=space, num_steps=40, execution=Execution(strategy))
    history = train(LINE, rolled_back(1e30, 20), steps=40, seed=1)
    assert not np.isfinite(history.loss).all()
    assert int(history.opt_state.rollbacks) > 1
    np.testing.assert_allclose(found.final_loss[1, 1, 1], history.loss[-4:].mean(), rtol=1e-4)
    np.testing.assert_array_equal(np.isfinite(found.final_loss).all(axis=-1), [[True, True], [False, True]])


@pytest.mark.slow
def test_rates_betas_decays_and_durations_can_be_swept() -> None:
    def tx(lr: Any, b1: Any, weight_decay: Any, warmup_steps: Any) -> Any:
        rate = lrx.warmup(lrx.constant(lr), warmup_steps)
        return lrx.adamw(rate, b1=b1, weight_decay=weight_decay)

    axes = {"lr": [0.01, 0.1], "b1": [0.5, 0.9], "weight_decay": [0.0, 0.1], "warmup_steps": [0, 1, 8]}
    found = swept(tx=tx, space=axes, num_steps=12, seeds=1)
    assert found.final_loss.shape == (2, 2, 2, 3, 1)
    history = train(LINE, tx(0.1, 0.5, 0.1, 8), steps=12)
    np.testing.assert_allclose(found.losses[1, 0, 1, 2, 0], history.loss, rtol=1e-4)


@pytest.mark.slow
def test_chunks_change_nothing_and_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"lr": np.linspace(0.01, 0.1, 5)}
    whole, chunked = swept(space=grid), swept(space=grid, execution=Execution("vmap", 2))
    assert (whole.chunk_size, chunked.chunk_size) == (5, 2)
    np.testing.assert_allclose(chunked.losses, whole.losses, rtol=1e-5, atol=1e-7)
    family = many.RunFamily(LINE, FromHyperparameters(sgd), 23, 23)
    plan = plans.choose_plan(family, grid, np.arange(2), strategy="vmap")
    needed = plan.bytes_needed()
    monkeypatch.setattr(plans, "_free_memory", lambda device: 0.6 * needed / plans.MEMORY_SHARE)
    small = swept(space=grid)
    assert 1 <= small.chunk_size <= 3
    np.testing.assert_allclose(small.losses, whole.losses, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_both_strategies_are_measured_and_the_faster_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (swept(execution=Execution("auto")).strategy, swept(execution=Execution("auto")).seconds) == ("vmap", {})
    monkeypatch.setattr(plans, "SMALL_WORK", 0.0)
    found = swept(execution=Execution("auto"), num_steps=24)
    assert set(found.seconds) == {"vmap", "map"}
    assert found.strategy == min(found.seconds, key=lambda name: found.seconds[name])
    assert swept(execution=MAP, num_steps=2).seconds == {}


def test_evaluations_are_made_on_the_way(tmp_path: Path) -> None:
    found = swept(evaluate_every=10, num_points=7, execution=Execution("vmap", 1))
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
    found = swept(execution=Execution("vmap", 1), num_steps=40, space={"lr": [1e9, 0.1, 1e9]})
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
        swept(line(), evaluate_every=5)


def test_an_interrupted_sweep_goes_on_after_its_last_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"space": {"lr": [0.01, 0.02, 0.05, 0.1, 0.2]}, "execution": Execution("vmap", 2)}
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
        swept(checkpoint=tmp_path / "run", **{**arguments, "tx": adam})


def test_what_is_not_a_mesh_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^mesh must be a jax.sharding.Mesh, got mesh=4: make one"):
        lrx.tuning.Execution(mesh=4)
    with pytest.raises(TypeError, match=r"^mesh must be a jax.sharding.Mesh, got mesh='all'"):
        lrx.range_test(LINE, lrx.sgd, mesh="all")


@pytest.mark.slow
def test_convolutions_and_the_state_of_a_model_are_swept_too() -> None:
    def loss_fn(kernel: jax.Array, mean: jax.Array, x: jax.Array, key: jax.Array) -> Any:
        out = jax.lax.conv(x, kernel, (1, 1), "SAME")
        return jnp.mean((out - mean - 1.0) ** 2), 0.9 * mean + 0.1 * jnp.mean(out)

    def init(key: jax.Array) -> Any:
        return 0.1 * jax.random.normal(key, (2, 3, 3, 3)), jnp.zeros(())

    x = 1.0 + np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)
    workload = Workload("convolution", init, loss_fn, Batches(x, 4), None)
    found = sweep(workload, tx=sgd, space={"lr": [0.01, 0.05]}, num_steps=3, execution=MAP)
    history = train(workload, sgd(0.05), steps=3)
    np.testing.assert_allclose(found.losses[1, 0], history.loss, rtol=1e-4)
    assert history.model_state > 0


@pytest.mark.slow
def test_a_member_that_its_controller_stops_has_not_diverged() -> None:
    found = sweep(
        LINE,
        lambda lr: lrx.sgd(lrx.constant(lr) * lrx.early_stopping(patience=5)),
        {"lr": [0.1, 1e9]},
        num_steps=300,
        execution=VMAP,
    )
    assert np.isfinite(found.final_loss[:, 0]).tolist() == [True, False]
    assert np.isfinite(found.losses[0, 0]).sum() < 150, "the example is one that stops"
    assert found.evaluations["error"][0, 0] < 0.5


def advanced(tx: Any, strategy: str) -> many.Runs:
    """Return two runs after 20 steps, or where they ended before."""
    hyper, seeds = {"lr": np.array([0.1, 1e-9])}, np.arange(1)
    plan = plans.choose_plan(many.RunFamily(LINE, FromHyperparameters(tx), 20, 20), hyper, seeds, strategy=strategy)
    return plan.advance(plan.start(hyper, seeds), hyper, seeds, 0, 20)


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_run_that_has_ended_keeps_its_state_while_others_go_on(strategy: str) -> None:
    def stopping(lr: Any) -> Any:
        return lrx.sgd(lrx.constant(lr) * lrx.early_stopping(patience=5, accumulation_size=1))

    def counting(lr: Any) -> Any:
        return optax.chain(optax.scale_by_schedule(lambda _: 1.0), stopping(lr))

    after = advanced(counting, strategy)
    assert after.alive.tolist() == [[True, False]]
    assert after.diverged.tolist() == [[False, False]]
    assert after.steps[0, 0] == 20
    assert 5 <= after.steps[0, 1] < 20
    assert after.state.opt_state[0].count.tolist() == after.steps.tolist()


def test_the_options_of_the_compiler_are_known_and_an_unknown_one_is_left_out() -> None:
    lowered = jax.jit(jnp.sin).lower(jnp.float32(1.0))
    for options in (plans.IN_PLACE, plans.QUICK):
        lowered.compile(options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile({"xla_no_such_option": True})
    assert plans._compile(lowered, {"xla_no_such_option": True})(jnp.float32(0.0)) == 0.0


@pytest.mark.slow
def test_a_run_that_a_controller_ends_makes_no_more_steps() -> None:
    def tx(lr: Any) -> Any:
        return lrx.sgd(lrx.constant(lr) * lrx.early_stopping(patience=2, accumulation_size=1))

    found = swept(tx=tx, space={"lr": [1e-9]}, num_steps=40, seeds=1)
    made = int(np.isfinite(found.losses).sum())
    history = train(LINE, tx(1e-9), steps=40)
    assert made == len(history.loss) < 40
