"""A sweep that several processes share by a storage of Optuna."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from training.linear import start
from training.meshes import require_success
from tuning.line import LINE, VMAP, sgd

import lrx
from lrx.tuning import Execution, SweepResult
from lrx.tuning.sharing import SharedStudy

optuna.logging.set_verbosity(optuna.logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

RATES = [0.01, 0.1, 1e9, 0.3]
ARRAYS = ("final_loss", "initial_loss", "losses", "rates")


def sweep(storage: Any = None, rates: list[float] = RATES, **options: Any) -> SweepResult:
    return lrx.sweep(LINE, sgd, {"lr": rates}, num_steps=40, seeds=2, execution=VMAP, storage=storage, **options)


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'sweep.db'}"


def require_same(one: SweepResult, other: SweepResult) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_shared_members_have_the_numbers_of_a_sweep_and_are_trained_once(tmp_path: Path) -> None:
    first = sweep(address(tmp_path))
    require_same(first, sweep())
    assert first.chunk_size == 1
    again = sweep(address(tmp_path))
    require_same(again, first)
    assert again.strategy == "restored"
    trials = optuna.load_study(study_name=None, storage=address(tmp_path)).trials
    assert [trial.user_attrs["lr"] for trial in trials] == [[np.float32(rate)] for rate in RATES]
    assert trials[2].value == np.inf


def test_members_are_shared_in_chunks(tmp_path: Path) -> None:
    execution = Execution("vmap", chunk_size=3)
    found = lrx.sweep(LINE, sgd, {"lr": RATES}, num_steps=40, seeds=2, execution=execution, storage=address(tmp_path))
    np.testing.assert_allclose(found.final_loss, sweep().final_loss, rtol=1e-6)
    assert len(optuna.load_study(study_name=None, storage=address(tmp_path)).trials) == 2


def test_another_sweep_and_storages_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    sweep(address(tmp_path))
    with pytest.raises(ValueError, match=r"holds another 'sweep, line': .*Give another storage"):
        sweep(address(tmp_path), [0.01, 0.1, 1e9, 0.2])
    with pytest.raises(ValueError, match=r"storage must have a heartbeat.*got RDBStorage without"):
        sweep(optuna.storages.RDBStorage(address(tmp_path)))
    with pytest.raises(ValueError, match=r"storage must have a heartbeat.*got InMemoryStorage without"):
        sweep(optuna.storages.InMemoryStorage())
    with pytest.raises(TypeError, match=r"storage must be an address or a storage of Optuna, got storage=3"):
        sweep(3)
    with pytest.raises(ValueError, match=r"storage must be given without checkpoint"):
        sweep(address(tmp_path), checkpoint=tmp_path / "kept")


def test_a_process_that_was_taken_for_killed_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = SharedStudy("sweep, line", address(tmp_path), {}, 2)
    calls = []

    def part(place: int) -> tuple[float, dict[str, np.ndarray]]:
        calls.append(place)
        if len(calls) == 1:
            study = optuna.load_study(study_name=None, storage=address(tmp_path))
            study.tell(study.trials[-1].number, state=optuna.trial.TrialState.FAIL)
        return 1.0, {"x": np.full((1, 2), place, np.float32)}

    shared.make(part, lambda place: {})
    assert calls == [0, 0, 1]
    np.testing.assert_array_equal(np.stack([each["x"] for each in shared.arrays()])[:, 0, 0], [0.0, 1.0])
    assert "another process took this one for killed" in capsys.readouterr().err


def test_a_process_that_is_killed_before_its_first_heartbeat_is_found(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(address(tmp_path), heartbeat_interval=1, grace_period=1)
    shared = SharedStudy("sweep, line", storage, {}, 1)
    shared._enqueue(0, {})
    with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
        optuna.load_study(study_name=None, storage=storage).ask()  # and killed at once
    shared.make(lambda place: (1.0, {"x": np.ones(1)}), lambda place: {})
    assert shared.made() == 1


def test_an_error_in_a_member_ends_the_sweep(tmp_path: Path) -> None:
    def part(place: int) -> Any:
        raise ValueError(f"no part {place}")

    with pytest.raises(ValueError, match="no part 0"):
        SharedStudy("sweep, line", address(tmp_path), {}, 2).make(part, lambda place: {})


SHARED = """
import sys, jax, jax.numpy as jnp, numpy as np, lrx, optuna
from lrx.tuning import log_uniform, optuna_objective
from lrx.training import Batches, Workload

def loss_fn(params, batch, key):
    turned = jax.lax.fori_loop(0, 20_000, lambda i, x: jnp.sin(x + batch), batch)  # a step takes a while
    return jnp.mean((params - turned) ** 2)

x = np.linspace(-1.0, 1.0, 512, dtype=np.float32)
slow = Workload.from_functions(loss_fn, lambda key: jnp.zeros(()), Batches(x, 128), name="slow")
callback = optuna.storages.RetryHeartbeatStaleTrialCallback()
storage = optuna.storages.RDBStorage(
    sys.argv[1], heartbeat_interval=1, grace_period=10, heartbeat_stale_trial_callback=callback
)
"""
SWEEPING = (
    SHARED.replace("heartbeat_stale_trial_callback=callback", "")
    + """
found, alone = (
    lrx.sweep(slow, lrx.sgd, {"learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5]}, num_steps=int(sys.argv[2]), **given)
    for given in ({"storage": storage}, {})
)
np.testing.assert_array_equal(found.losses, alone.losses)
"""
)
OPTIMIZING = (
    SHARED
    + """
space = {"lr": log_uniform(0.01, 0.5)}
objective = optuna_objective(slow, lambda lr: lrx.sgd(lr), space, num_steps=int(sys.argv[2]))
study = optuna.create_study(study_name="rates", storage=storage, pruner=optuna.pruners.NopPruner(), load_if_exists=True)

def stop(study, trial):
    if trial.state.name == "COMPLETE" and callback.retried_trial_number(trial) is not None:
        study.stop()

study.optimize(objective, callbacks=[stop], timeout=100)
"""
)
STEPS = 60


def trials_in(storage: str) -> list[Any]:
    try:
        return list(optuna.load_study(study_name=None, storage=storage).trials)
    except (KeyError, ValueError):
        return []


def both_in_the_middle(trials: list[Any]) -> bool:
    ages = [datetime.datetime.now() - t.datetime_start for t in trials if t.state.name == "RUNNING"]
    return len(ages) == 2 and min(ages) > datetime.timedelta(seconds=0.3)


def share_and_kill(code: str, folder: Path) -> dict[str, list[Any]]:
    """Start two processes, kill the first in the middle of its trial, and return the trials by state."""
    storage = address(folder)
    optuna.storages.RDBStorage(storage)
    first, second = (start(code, storage, str(STEPS)) for _ in range(2))
    deadline = time.monotonic() + 120
    while not (both_in_the_middle(found := trials_in(storage)) and any(t.state.name == "COMPLETE" for t in found)):
        assert time.monotonic() < deadline, [process.poll() for process in (first, second)]
        time.sleep(0.05)
    first.kill()
    first.communicate()
    require_success(second)
    by_state: dict[str, list[Any]] = {}
    for trial in trials_in(storage):
        by_state.setdefault(trial.state.name, []).append(trial)
    return by_state


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_its_member(tmp_path: Path) -> None:
    found = share_and_kill(SWEEPING, tmp_path)
    assert sorted(trial.user_attrs["part"] for trial in found["COMPLETE"]) == [0, 1, 2, 3, 4]
    assert len(found["FAIL"]) == 1
    assert not found.keys() - {"COMPLETE", "FAIL", "PRUNED"}
    assert all("arrays" not in trial.user_attrs for trial in found.get("PRUNED", []))  # nothing was trained


@pytest.mark.slow
def test_a_trial_of_a_killed_process_is_repeated(tmp_path: Path) -> None:
    found = share_and_kill(OPTIMIZING, tmp_path)
    (failed,) = found["FAIL"]
    repeated = [trial for trial in found["COMPLETE"] if trial.params == failed.params]
    assert len(repeated) == 1
