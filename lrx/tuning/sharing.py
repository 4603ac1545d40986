"""The parts of a search, made by several processes that share the storage of an Optuna study.

Each part is a trial: whoever takes it makes it, and keeps its arrays with it. Trials of a process that is killed no
longer have a heartbeat; the storage says so, and another process makes their parts.
"""

from __future__ import annotations

import base64
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lrx.training.checkpoints import list_differences
from lrx.training.identity import Identity, as_json, differences
from lrx.training.progress import say

HEARTBEAT = 30  # seconds; a process without one for twice as long is taken as killed
PAUSE = 1.0  # seconds between looks at what others have made
PART, IDENTITY, ARRAYS = "part", "identity", "arrays"  # attributes of trials and of the study

Arrays = dict[str, np.ndarray]


class SharedStudy:
    """A study whose trials are the parts of a search.

    Args:
      title: name of the study, such as "sweep, digits".
      storage: the address of a data base, "sqlite:///sweep.db", or an `optuna.storages.RDBStorage` with a heartbeat.
      identity: what determines the numbers of the search.
      parts: their number.

    Raises:
      ValueError: if the storage has no heartbeat, or holds another search of this name.
      TypeError: if it is neither an address nor a storage.
      ImportError: if optuna is not installed.
    """

    def __init__(self, title: str, storage: Any, identity: Identity, parts: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ImportError('storage needs optuna: pip install "lrx[tune]".') from error

        self._optuna, self._title, self._parts = optuna, title, parts
        self._computed = False  # whether the part of the latest trial was, so that only the storage can refuse it
        self._storage = _as_storage(storage)
        self._study = optuna.create_study(study_name=title, storage=self._storage, load_if_exists=True)
        here = as_json(identity)
        there = self._study.user_attrs.get(IDENTITY)
        if there is None:
            self._study.set_user_attr(IDENTITY, here)
        elif unlike := differences(there, here):
            raise ValueError(
                f"storage={_shown(storage)} holds another {title!r}: {list_differences(unlike)}. Give another storage, "
                "or the workload another name."
            )

    def made(self) -> int:
        """Return the number of parts that are whole."""
        return len(self._whole())

    def make(self, part: Callable[[int], tuple[float, Arrays]], about: Callable[[int], Mapping[str, Any]]) -> None:
        """Make parts until all are whole.

        Args:
          part: makes a part; returns the value of its trial, which is not NaN, and its arrays.
          about: returns what else the trial of a part shows, JSON values by name.
        """
        waits = False
        while self.made() < self._parts:
            taken = {_part_of(trial) for trial in self._trials("COMPLETE", "RUNNING", "WAITING")}
            free = [place for place in range(self._parts) if place not in taken]
            if free:
                self._enqueue(free[0], about(free[0]))
            if free or self._trials("WAITING"):
                self._make_one(part)
                continue
            if not waits:
                say(self._title, f"waits for {self._parts - self.made()} parts that other processes make")
                waits = True
            time.sleep(PAUSE)
            self._fail_those_of_killed_processes()

    def arrays(self) -> list[Arrays]:
        """Return the arrays of all parts, in order."""
        whole = self._whole()
        return [_decode(whole[place].user_attrs[ARRAYS]) for place in range(self._parts)]

    def _enqueue(self, place: int, about: Mapping[str, Any]) -> None:
        """Add a trial for a part.

        A running trial without any heartbeat is never taken for that of a killed process, so it has one beforehand.
        """
        self._study.enqueue_trial({}, user_attrs={PART: place, **about})
        study = self._storage.get_study_id_from_name(self._title)
        for trial in self._trials("WAITING"):
            if _part_of(trial) == place:
                found = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
                self._storage.record_heartbeat(found)

    def _make_one(self, part: Callable[[int], tuple[float, Arrays]]) -> None:
        self._computed = False
        try:
            self._study.optimize(lambda trial: self._try(trial, part), n_trials=1)
        except (self._optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not self._computed:
                raise
            say(self._title, "another process took this one for killed, and makes its part")

    def _try(self, trial: Any, part: Callable[[int], tuple[float, Arrays]]) -> float:
        """Make the part of a trial, unless an earlier trial has made it or is about to."""
        place = _part_of(trial)
        others = self._trials("COMPLETE", "RUNNING", "WAITING")
        if place is None or any(_part_of(each) == place and each.number < trial.number for each in others):
            raise self._optuna.TrialPruned("another process makes this part.")
        value, arrays = part(place)
        self._computed = True
        trial.set_user_attr(ARRAYS, _encode(arrays))
        return value

    def _trials(self, *states: str) -> list[Any]:
        kinds = tuple(self._optuna.trial.TrialState[state] for state in states)
        return list(self._study.get_trials(deepcopy=False, states=kinds))

    def _whole(self) -> dict[int, Any]:
        return {place: trial for trial in self._trials("COMPLETE") if (place := _part_of(trial)) is not None}

    def _fail_those_of_killed_processes(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            self._optuna.storages.fail_stale_trials(self._study)


def _as_storage(storage: Any) -> Any:
    """Return a storage that finds killed processes."""
    import optuna

    if isinstance(storage, str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(storage, heartbeat_interval=HEARTBEAT)
    if not isinstance(storage, optuna.storages.BaseStorage):
        raise TypeError(
            f"storage must be an address or a storage of Optuna, got storage={storage!r}: give 'sqlite:///sweep.db'."
        )
    if getattr(storage, "get_heartbeat_interval", lambda: None)() is None:
        raise ValueError(
            f"storage must have a heartbeat, by which killed processes are found, got {_shown(storage)} without: give "
            f"an optuna.storages.RDBStorage(..., heartbeat_interval={HEARTBEAT}), or its address."
        )
    return storage


def _shown(storage: Any) -> str:
    return repr(storage) if isinstance(storage, str) else type(storage).__name__


def _part_of(trial: Any) -> int | None:
    return trial.user_attrs.get(PART)


def _encode(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    return {
        name: [str(values.dtype), list(values.shape), base64.b64encode(values.tobytes()).decode()]
        for name, values in arrays.items()
    }


def _decode(stored: Mapping[str, list[Any]]) -> Arrays:
    return {
        name: np.frombuffer(base64.b64decode(text), dtype).reshape(shape)
        for name, (dtype, shape, text) in stored.items()
    }
