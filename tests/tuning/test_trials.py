"""Short trials, and trials of Optuna."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from tuning.line import LINE, line, sgd

import lrx
from lrx.training import plan as plans
from lrx.training import train
from lrx.training.progress import reporter
from lrx.tuning import halve_until_trains, log_uniform, optuna_objective, study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_the_rate_is_halved_until_the_loss_falls() -> None:
    found = halve_until_trains(LINE, lrx.sgd, start_rate=64.0, num_steps=40)
    assert found.rate == found.rates[-1] == 64.0 / 2 ** (len(found.rates) - 1)
    assert found.verdicts[0] == "diverges"
    assert found.verdicts[-1] == "trains"
    assert "trains" not in found.verdicts[:-1]
    history = train(LINE, lrx.sgd(found.rate), steps=40)
    np.testing.assert_allclose(found.losses[-1], history.loss, rtol=1e-4, atol=1e-6)
    assert np.isinf(found.final_loss[0])


def test_a_loss_that_falls_too_little_stalls() -> None:
    found = halve_until_trains(LINE, lrx.sgd, start_rate=0.1, num_steps=40, trials=1, min_fall=2.0)
    assert found.verdicts == ["stalls"]
    assert found.final_loss[0] < found.first_loss[0]


def test_noise_is_not_training() -> None:
    batches = 1.0 - 0.01 * np.arange(40, dtype=np.float32)[:, None]  # falls, whatever is done
    workload = lrx.Workload.from_functions(
        lambda params, batch, key: jnp.sum(batch) + 0.0 * jnp.sum(params),
        lambda key: jnp.ones(2),
        lrx.Batches(batches, batch_size=1, shuffle=False),
    )
    found = halve_until_trains(workload, lrx.sgd, start_rate=1.0, trials=2, num_steps=40)
    assert found.rate is None
    assert found.verdicts == ["stalls", "stalls"]


def test_what_never_trains_is_said() -> None:
    found = halve_until_trains(LINE, lrx.sgd, start_rate=1e-9, trials=3)
    assert found.rate is None
    assert set(found.verdicts) <= {"stalls", "rises"}
    rows = str(found).splitlines()
    assert len(rows) == 4
    assert rows[1].split()[0] == "1e-09"
    assert len(found.plot().axes[0].get_lines()) == 6


@pytest.mark.parametrize("fail_at", [1, 3])
def test_interrupted_trials_lose_at_most_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    arguments: dict[str, Any] = {"tx": lrx.sgd, "start_rate": 16.0, "num_steps": 40, "seeds": 2}
    made: list[float] = []
    original = plans.Plan.advance

    def advance(self: Any, runs: Any, hyper: Any, seeds: Any, start: int, stop: int) -> Any:
        made.append(float(hyper["rate"][0]))
        if len(made) == fail_at:
            raise KeyboardInterrupt
        return original(self, runs, hyper, seeds, start, stop)

    at_once = halve_until_trains(LINE, **arguments)
    monkeypatch.setattr(plans.Plan, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        halve_until_trains(LINE, checkpoint=tmp_path / "trials", **arguments)
    few = halve_until_trains(LINE, checkpoint=tmp_path / "trials", trials=3, **arguments)
    assert few.rate is None
    resumed = halve_until_trains(LINE, checkpoint=tmp_path / "trials", **arguments)
    assert made[:fail_at] + made[fail_at:] == [*at_once.rates[:fail_at], *at_once.rates[fail_at - 1 :]]
    made.clear()
    begins: list[int] = []

    def seen(*arguments: Any, step: int, **others: Any) -> Any:
        begins.append(step)
        return reporter(*arguments, step=step, **others)

    monkeypatch.setattr(study, "reporter", seen)
    again = halve_until_trains(LINE, checkpoint=tmp_path / "trials", **arguments)
    assert not made
    assert begins == [len(at_once.rates) * 40 * 2]
    for found in (resumed, again):
        assert (found.rate, found.verdicts) == (at_once.rate, at_once.verdicts)
        for name in ("rates", "first_loss", "final_loss", "losses"):
            np.testing.assert_array_equal(getattr(found, name), getattr(at_once, name))
    with pytest.raises(ValueError, match=r"holds another run, at trial .*: min_fall is 0.05 there and 0.1 here"):
        halve_until_trains(LINE, checkpoint=tmp_path / "trials", min_fall=0.1, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_rate": 0.0}, "start_rate must be a finite number > 0"),
        ({"factor": 1.0}, r"factor must be in \(0, 1\), got factor=1.0: it multiplies the rate after each trial"),
        ({"trials": 0}, "trials must be a whole number of trials >= 1"),
        ({"num_steps": 1}, "num_steps must be a whole number of steps >= 2"),
        ({"min_fall": -1.0}, "min_fall must be a finite number >= 0"),
    ],
)
def test_bad_trials_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        halve_until_trains(LINE, **({"tx": lrx.sgd, "start_rate": 1.0} | arguments))


def objective(**arguments: Any) -> Any:
    settings = {"workload": LINE, "tx": sgd, "space": {"lr": log_uniform(1e-4, 10.0)}, "num_steps": 40}
    return optuna_objective(**(settings | arguments))


def test_a_trial_gives_the_loss_of_a_training_run() -> None:
    trial = optuna.trial.FixedTrial({"lr": 0.05})
    history = train(LINE, sgd(0.05), steps=40)
    np.testing.assert_allclose(objective()(trial), history.loss[-4:].mean(), rtol=1e-4)
    np.testing.assert_allclose(objective(metric="error")(trial), history.evaluations["error"][-1], rtol=1e-3)


def test_pruned_trials_are_ended() -> None:
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=4),
    )
    study.optimize(objective(report_every=4), n_trials=15)
    states = [trial.state for trial in study.trials]
    pruned = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert optuna.trial.TrialState.COMPLETE in states
    told = [trial for trial in pruned if "diverged" not in trial.user_attrs]
    assert any(0 < max(trial.intermediate_values, default=0) < 40 for trial in told)
    assert set(study.trials[0].intermediate_values) == set(range(4, 41, 4))


def test_a_trial_that_diverges_is_pruned_and_marked() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"lr": 1e8})
    study.enqueue_trial({"lr": 0.1})
    study.optimize(objective(space={"lr": log_uniform(1e-4, 1e9)}), n_trials=2)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    assert study.trials[0].user_attrs == {"diverged": True}
    assert study.best_params == {"lr": 0.1}


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(study_name="shared", storage=storage)
    code = textwrap.dedent(f"""
        import jax, jax.numpy as jnp, lrx, optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        x = jnp.linspace(-1.0, 1.0, 64)
        line = lrx.Workload.from_functions(
            lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2), lambda key: jax.random.normal(key),
            lrx.Batches((x, 3.0 * x), batch_size=16),
        )
        space = {{"lr": lrx.tuning.log_uniform(1e-4, 1.0)}}
        objective = lrx.optuna_objective(line, lambda lr: lrx.sgd(lr), space, num_steps=20)
        optuna.load_study(study_name="shared", storage={storage!r}).optimize(objective, n_trials=5)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as other:
        exec(code, {})  # this process is one of them
        _, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors
    study = optuna.load_study(study_name="shared", storage=storage)
    assert sorted(trial.number for trial in study.trials) == list(range(10))
    assert all(trial.state.is_finished() for trial in study.trials)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"space": {}}, TypeError, "space must be a dict of ranges"),
        ({"space": {"lr": (1e-4, 1.0)}}, TypeError, "space must be a dict of ranges"),
        ({"space": {"rate": log_uniform(1e-4, 1.0)}}, TypeError, "tx must be a function of rate, but"),
        ({"num_steps": 0}, ValueError, "num_steps must be a whole number of steps >= 1"),
        ({"metric": "error", "workload": line()}, ValueError, "metric needs a workload that evaluates, got metric="),
        ({"report_every": 0}, ValueError, "report_every must be a whole number of steps >= 1"),
    ],
)
def test_bad_objectives_are_refused(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        objective(**arguments)
