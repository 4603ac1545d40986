"""A sweep that several processes share by a storage of Optuna."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optuna
import pytest
import sqlalchemy
from training.linear import start
from training.meshes import require_success
from tuning.line import LINE, VMAP, sgd

import lrx
from lrx.training import Batches, Workload
from lrx.training.progress import ProgressMeter
from lrx.tuning import Execution, SweepResult, sharing
from lrx.tuning.sharing import SharedStudy

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

RATES = [0.01, 0.1, 1e9, 0.3]
ARRAYS = ("final_loss", "initial_loss", "losses", "rates")


def sweep(storage: Any = None, rates: list[float] = RATES, **options: Any) -> SweepResult:
    return lrx.sweep(LINE, sgd, {"lr": rates}, num_steps=40, seeds=2, execution=VMAP, storage=storage, **options)


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'sweep.db'}"


def ignore(*arguments: Any) -> dict[str, Any]:
    return {}


def ones(place: int) -> tuple[float, dict[str, np.ndarray]]:
    return 1.0, {"x": np.ones(1)}


def names_in(storage: str) -> list[str]:
    return list(optuna.get_all_study_names(storage))


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


def test_each_sweep_has_its_own_study_and_says_how_it_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.create_study(study_name="sweep, line, of somebody else, 0123", storage=address(tmp_path))
    sweep(address(tmp_path))
    assert capsys.readouterr().err == ""
    other = [0.01, 0.1, 1e9, 0.2]
    require_same(sweep(address(tmp_path), other), sweep(rates=other))
    said = capsys.readouterr().err
    assert said.startswith("sweep, line: begins a new study; 1 other study of this title is in the storage. From the ")
    assert "members['lr'] is" in said
    sweep(address(tmp_path), [0.1])
    assert "2 other studies of this title are in the storage" in capsys.readouterr().err
    assert sweep(address(tmp_path)).strategy == sweep(address(tmp_path), other).strategy == "restored"
    assert capsys.readouterr().err == ""
    assert len(names_in(address(tmp_path))) == 4


def test_storages_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"storage must have a heartbeat.*got RDBStorage without"):
        sweep(optuna.storages.RDBStorage(address(tmp_path)))
    with pytest.raises(ValueError, match=r"storage must have a heartbeat.*got InMemoryStorage without"):
        sweep(optuna.storages.InMemoryStorage())
    with pytest.raises(TypeError, match=r"storage must be an address or a storage of Optuna, got storage=3"):
        sweep(3)
    rule = "storage must be the address of a data base, such as 'sqlite:///sweep.db'"
    with pytest.raises(ValueError, match=rf"{rule}, got 'sweep\.db'\.$"):
        sweep("sweep.db")
    with pytest.raises(ValueError, match=rf"{rule}, got '\.\.\.@host'\.$"):
        sweep("user:secret@host")
    with pytest.raises(ValueError, match=rf"{rule}, got 'sqlight://user:\*\*\*@host', of a kind"):
        sweep("sqlight://user:secret@host")
    missing = r"whose driver is installed, got 'oracle\+cx_oracle://user:\*\*\*@host': No module named 'cx_Oracle'"
    with pytest.raises(ValueError, match=rf"{rule}, {missing}\. Install the driver"):
        sweep("oracle+cx_oracle://user:secret@host")
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

    shared.make(part, ignore, ignore)
    assert calls == [0, 0, 1]
    np.testing.assert_array_equal(np.stack([each["x"] for each in shared.arrays()])[:, 0, 0], [0.0, 1.0])
    assert "another process took this one for killed" in capsys.readouterr().err


def test_a_process_whose_trial_fails_while_its_value_is_told_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = SharedStudy("sweep, line", address(tmp_path), {}, 1)
    tell = optuna.study._optimize._tell_with_warning

    def fail_first(study: Any, trial: Any, **options: Any) -> Any:
        if trial.number == 0:
            study._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        return tell(study=study, trial=trial, **options)

    monkeypatch.setattr(optuna.study._optimize, "_tell_with_warning", fail_first)
    shared.make(ones, ignore, ignore)
    assert shared.made() == {0}
    assert "another process took this one for killed" in capsys.readouterr().err


def test_a_process_that_is_killed_before_its_first_heartbeat_is_found(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(address(tmp_path), heartbeat_interval=1, grace_period=1)
    shared = SharedStudy("sweep, line", storage, {}, 1)
    shared._enqueue(0, {})
    with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
        optuna.load_study(study_name=None, storage=storage).ask()  # and killed at once
    shared.make(ones, ignore, ignore)
    assert shared.made() == {0}


@pytest.mark.parametrize("error", [ValueError("no part 0"), KeyboardInterrupt()])
@pytest.mark.parametrize("failed", [False, True])
def test_an_error_in_a_member_ends_the_sweep(tmp_path: Path, error: BaseException, failed: bool) -> None:
    def part(place: int) -> Any:
        if failed:  # another process takes this one for killed meanwhile
            study = optuna.load_study(study_name=None, storage=address(tmp_path))
            study.tell(study.trials[-1].number, state=optuna.trial.TrialState.FAIL)
        raise error

    shared = SharedStudy("sweep, line", address(tmp_path), {}, 2)
    with pytest.raises(type(error)) as raised:
        shared.make(part, ignore, ignore)
    assert raised.value is error


@pytest.mark.parametrize("where", ["study.Study.ask", "trial.Trial.set_user_attr"])
def test_an_error_of_the_storage_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def refuse(*arguments: Any) -> None:
        raise optuna.exceptions.StorageInternalError("no space")

    shared = SharedStudy("sweep, line", address(tmp_path), {}, 2)
    monkeypatch.setattr(f"optuna.{where}", refuse)
    with pytest.raises(optuna.exceptions.StorageInternalError, match="no space"):
        shared.make(ones, ignore, ignore)


def test_a_part_whose_value_is_nan_ends_the_sweep(tmp_path: Path) -> None:
    shared = SharedStudy("sweep, line", address(tmp_path), {}, 2)
    with pytest.raises(ValueError, match=r"part must return a value that is not NaN, got nan for part 0: give inf"):
        shared.make(lambda place: (np.nan, {"x": np.ones(1)}), ignore, ignore)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_losses_whose_sum_overflows_are_infinite(tmp_path: Path) -> None:
    great = Workload.from_functions(
        lambda params, batch, key: jnp.float32(3e38) + 0.0 * params, lambda key: jnp.zeros(()), Batches(jnp.ones(8), 8)
    )
    found = lrx.sweep(great, sgd, {"lr": [0.1]}, num_steps=40, num_points=10, storage=address(tmp_path))
    assert found.final_loss.tolist() == [[np.inf]]


def test_progress_counts_the_members_that_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the first three members and is killed when this one has made the last."""
    seen: list[Any] = []

    class Meter(ProgressMeter):
        def update(self, step: int, loss: float, rate: float) -> None:
            super().update(step, loss, rate)
            seen.append(step)

        def announce(self, what: str) -> None:
            seen.append(what)

    def report(progress: Any, title: str, **arguments: Any) -> Meter:
        seen.append((arguments["step"], arguments["total"]))
        return Meter(title, **arguments)

    make, studies = SharedStudy.make, []

    def make_beside(self: SharedStudy, part: Any, about: Callable[[int], Any], announce: Any) -> None:
        if not studies:
            studies.append(self._study)
            self._enqueue(0, about(0))
            with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
                self._study.ask()
        make(self, part, about, announce)

    monkeypatch.setattr("lrx.tuning.study.reporter", report)
    monkeypatch.setattr(SharedStudy, "make", make_beside)
    monkeypatch.setattr(sharing.time, "sleep", lambda pause: studies[0].tell(0, state=optuna.trial.TrialState.FAIL))
    execution = Execution("vmap", chunk_size=3)
    for _ in range(2):
        lrx.sweep(LINE, sgd, {"lr": RATES}, num_steps=40, seeds=2, execution=execution, storage=address(tmp_path))
    waits = seen.index("waits for 1 of 2 parts, which other processes make")
    assert seen[0] == (0, 320)
    assert seen[waits - 1] == 80  # one member, of two seeds
    assert 80 < seen[waits + 1] <= seen[-2] == 320
    assert seen[-1] == (320, 320)


def test_optuna_is_silent_and_then_as_loud_as_before(tmp_path: Path) -> None:
    lines: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("optuna")
    handler.emit = lines.append  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        sweep(address(tmp_path))
        with pytest.raises(ValueError, match="not NaN"):
            SharedStudy("other", address(tmp_path), {}, 1).make(lambda place: (np.nan, {}), ignore, ignore)
        assert lines == []
        optuna.create_study()
        assert len(lines) == 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_creation_is_repeated_if_another_process_creates_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [
        sqlalchemy.exc.OperationalError("CREATE TABLE studies", {}, ValueError("table studies already exists")),
        optuna.exceptions.StorageInternalError("database is locked"),
        AssertionError(),
    ]
    create = optuna.storages.RDBStorage.__init__

    def fail_first(*arguments: Any, **options: Any) -> None:
        if errors:
            raise errors.pop()
        create(*arguments, **options)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", fail_first)
    monkeypatch.setattr(sharing, "CREATION_PAUSES", (0.0,) * 3)
    shared = SharedStudy("sweep, line", address(tmp_path), {}, 1)
    assert errors == []
    assert shared.made() == set()


SHARED = """
import sys, jax, jax.numpy as jnp, numpy as np, lrx, optuna
from lrx.tuning import log_uniform, optuna_objective
from lrx.training import Batches, Workload

def loss_fn(params, batch, key):
    turned = jax.lax.fori_loop(0, 20_000, lambda i, x: jnp.sin(x + batch), batch)  # a step takes a while
    return jnp.mean((params - turned) ** 2)

x = np.linspace(-1.0, 1.0, 512, dtype=np.float32)
slow = Workload.from_functions(loss_fn, lambda key: jnp.zeros(()), Batches(x, 128), name="slow")
"""
SWEEPING = (
    SHARED
    + """
from lrx.tuning import sharing

sharing.HEARTBEAT = 5
found, alone = (
    lrx.sweep(slow, lrx.sgd, {"learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5]}, num_steps=int(sys.argv[2]), **given)
    for given in ({"storage": sys.argv[1]}, {})
)
np.testing.assert_array_equal(found.losses, alone.losses)
"""
)
OPTIMIZING = (
    SHARED
    + """
callback = optuna.storages.RetryHeartbeatStaleTrialCallback()
storage = optuna.storages.RDBStorage(
    sys.argv[1], heartbeat_interval=1, grace_period=10, heartbeat_stale_trial_callback=callback
)
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
    except (KeyError, ValueError, AssertionError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError):
        return []  # the processes are just creating it


def both_in_the_middle(trials: list[Any]) -> bool:
    ages = [datetime.datetime.now() - t.datetime_start for t in trials if t.state.name == "RUNNING"]
    return len(ages) == 2 and min(ages) > datetime.timedelta(seconds=0.3)


def share_and_kill(code: str, folder: Path) -> dict[str, list[Any]]:
    """Start two processes, kill the first in the middle of its trial, and return the trials by state."""
    storage = address(folder)
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
@pytest.mark.skipif(
    not hasattr(optuna.storages, "RetryHeartbeatStaleTrialCallback"), reason="Optuna repeats such trials since 4.9"
)
def test_a_trial_of_a_killed_process_is_repeated(tmp_path: Path) -> None:
    optuna.storages.RDBStorage(address(tmp_path))  # two processes at once cannot create it without lrx
    found = share_and_kill(OPTIMIZING, tmp_path)
    (failed,) = found["FAIL"]
    repeated = [trial for trial in found["COMPLETE"] if trial.params == failed.params]
    assert len(repeated) == 1
