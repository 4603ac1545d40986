"""The parts of a search, made by several processes that share the storage of an Optuna study.

Each part is a trial: whoever takes it makes it, and keeps its arrays with it. Trials of a process that is killed no
longer have a heartbeat; the storage says so, and another process makes their parts.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from lrx.training.checkpoints import list_differences
from lrx.training.identity import Identity, as_json, differences
from lrx.training.program_hash import digest_of
from lrx.training.progress import say

HEARTBEAT = 30  # seconds; a process without one for twice as long is taken as killed
PAUSE = 1.0  # seconds between looks at what others have made
CREATION_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between attempts to create what others create at the same time
DIGEST_LENGTH = 12  # hexadecimal digits that tell the studies of one title apart
PART, IDENTITY, ARRAYS = "part", "identity", "arrays"  # attributes of trials and of the study

Arrays = dict[str, np.ndarray]
T = TypeVar("T")


class SharedStudy:
    """A study whose trials are the parts of a search.

    Its name ends with a digest of the identity, so that a storage holds any number of searches. If others of the same
    title are there when a study begins, a line on stderr says how the newest of them differs.

    Args:
      title: title of the study, such as "sweep, digits".
      storage: the address of a data base, "sqlite:///sweep.db", or an `optuna.storages.RDBStorage` with a heartbeat.
      identity: what determines the numbers of the search.
      parts: their number.

    Raises:
      ValueError: if the storage has no heartbeat, or its address cannot be used.
      TypeError: if it is neither an address nor a storage.
      ImportError: if optuna is not installed.
    """

    def __init__(self, title: str, storage: Any, identity: Identity, parts: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ImportError('storage needs optuna: pip install "lrx[tune]".') from error

        self._optuna, self._title, self._parts = optuna, title, parts
        self._number: int | None = None  # of the latest trial whose part was computed here
        self._error: BaseException | None = None  # of the latest trial, unless the storage refused its results
        here = as_json(identity)
        self._name = f"{title}, {digest_of(json.dumps(here, sort_keys=True).encode())[:DIGEST_LENGTH]}"
        with _quiet_optuna():
            self._storage = _as_storage(storage)
            names = _repeat(lambda: optuna.get_all_study_names(self._storage))
            self._study = _repeat(lambda: self._create(here))
        others = [name for name in names if name.rpartition(", ")[0] == title]
        if others and self._name not in names:
            self._say_how_it_differs(others, here)

    def made(self) -> set[int]:
        """Return the parts that are whole."""
        return set(self._whole())

    def make(
        self,
        part: Callable[[int], tuple[float, Arrays]],
        about: Callable[[int], Mapping[str, Any]],
        announce: Callable[[str], None],
    ) -> None:
        """Make parts until all are whole.

        Args:
          part: makes a part; returns the value of its trial and its arrays.
          about: returns what else the trial of a part shows, JSON values by name.
          announce: shows a line beside the progress of the search.

        Raises:
          ValueError: if the value of a part is NaN.
        """
        waits = False
        with _quiet_optuna():
            while missing := self._parts - len(self.made()):
                taken = {_part_of(trial) for trial in self._trials("COMPLETE", "RUNNING", "WAITING")}
                free = [place for place in range(self._parts) if place not in taken]
                if free:
                    self._enqueue(free[0], about(free[0]))
                if free or self._trials("WAITING"):
                    self._make_one(part)
                    continue
                if not waits:
                    announce(f"waits for {missing} of {self._parts} parts, which other processes make")
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
        study = self._storage.get_study_id_from_name(self._name)
        for trial in self._trials("WAITING"):
            if _part_of(trial) == place:
                found = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
                self._storage.record_heartbeat(found)

    def _make_one(self, part: Callable[[int], tuple[float, Arrays]]) -> None:
        self._number = self._error = None
        try:
            self._study.optimize(lambda trial: self._try(trial, part), n_trials=1)
        except Exception:
            if self._error is None and not self._taken_for_killed():
                raise
        else:
            return
        # Optuna raises an error of its own instead of the part's if the trial was failed meanwhile.
        if self._error is not None:
            raise self._error
        say(self._title, "another process took this one for killed, and makes its part")

    def _try(self, trial: Any, part: Callable[[int], tuple[float, Arrays]]) -> float:
        """Make the part of a trial, unless an earlier trial has made it or is about to."""
        place = _part_of(trial)
        others = self._trials("COMPLETE", "RUNNING", "WAITING")
        if place is None or any(_part_of(each) == place and each.number < trial.number for each in others):
            raise self._optuna.TrialPruned("another process makes this part.")
        try:
            value, arrays = part(place)
            if math.isnan(value):  # Optuna would fail the trial without an error, and the part be made for ever
                raise ValueError(f"part must return a value that is not NaN, got nan for part {place}: give inf.")
            self._number = trial.number
            trial.set_user_attr(ARRAYS, _encode(arrays))
        except BaseException as error:
            if not (isinstance(error, Exception) and self._taken_for_killed()):
                self._error = error
            raise
        return value

    def _taken_for_killed(self) -> bool:
        """Return whether the latest trial has failed in the storage, although its part was computed here."""
        return self._number is not None and any(trial.number == self._number for trial in self._trials("FAIL"))

    def _create(self, identity: Identity) -> Any:
        study = self._optuna.create_study(study_name=self._name, storage=self._storage, load_if_exists=True)
        if IDENTITY not in study.user_attrs:
            study.set_user_attr(IDENTITY, identity)
        return study

    def _say_how_it_differs(self, others: list[str], identity: Identity) -> None:
        """Say that a study begins beside others of the same title, the newest of them last."""
        newest = self._optuna.load_study(study_name=others[-1], storage=self._storage).user_attrs.get(IDENTITY, {})
        are, studies = ("is", "study") if len(others) == 1 else ("are", "studies")
        what = f"begins a new study; {len(others)} other {studies} of this title {are} in the storage"
        unlike = list_differences(differences(newest, identity)) if newest else ""
        say(self._title, f"{what}. From the newest it differs: {unlike}" if unlike else what)

    def _trials(self, *states: str) -> list[Any]:
        kinds = tuple(self._optuna.trial.TrialState[state] for state in states)
        return list(self._study.get_trials(deepcopy=False, states=kinds))

    def _whole(self) -> dict[int, Any]:
        return {place: trial for trial in self._trials("COMPLETE") if (place := _part_of(trial)) is not None}

    def _fail_those_of_killed_processes(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            self._optuna.storages.fail_stale_trials(self._study)


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence Optuna's lines about each trial, which would tear a progress bar, and its tracebacks."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _repeat(create: Callable[[], T]) -> T:
    """Call a function that creates what it does not find, until no other process creates the same meanwhile."""
    import optuna
    import sqlalchemy.exc

    for pause in CREATION_PAUSES:
        try:
            return create()
        except sqlalchemy.exc.ArgumentError:  # of the address
            raise
        # Optuna asserts that what it has just looked for is there.
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, AssertionError):
            time.sleep(pause * random.Random().uniform(0.5, 1.0))  # so that two processes do not meet again
    return create()


def _as_storage(storage: Any) -> Any:
    """Return a storage that finds killed processes."""
    import optuna

    if isinstance(storage, str):
        return _open(storage)
    if not isinstance(storage, optuna.storages.BaseStorage):
        raise TypeError(
            f"storage must be an address or a storage of Optuna, got storage={storage!r}: give 'sqlite:///sweep.db'."
        )
    if getattr(storage, "get_heartbeat_interval", lambda: None)() is None:
        raise ValueError(
            f"storage must have a heartbeat, by which killed processes are found, got {type(storage).__name__} "
            f"without: give an optuna.storages.RDBStorage(..., heartbeat_interval={HEARTBEAT}), or its address."
        )
    return storage


def _open(address: str) -> Any:
    """Return the storage at an address."""
    import optuna
    import sqlalchemy.exc

    rule = "storage must be the address of a data base, such as 'sqlite:///sweep.db'"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return _repeat(lambda: optuna.storages.RDBStorage(address, heartbeat_interval=HEARTBEAT))
    except sqlalchemy.exc.NoSuchModuleError:
        raise ValueError(f"{rule}, got {_shown(address)}, of a kind that SQLAlchemy does not know.") from None
    except sqlalchemy.exc.ArgumentError:  # without its cause, which may show the password
        raise ValueError(f"{rule}, got {_shown(address)}.") from None
    except ImportError as error:
        missing = error.__cause__ or error
        raise ValueError(
            f"{rule}, whose driver is installed, got {_shown(address)}: {missing}. Install the driver."
        ) from error


def _shown(address: str) -> str:
    """Return an address without its password."""
    import sqlalchemy

    try:
        return repr(sqlalchemy.make_url(address).render_as_string(hide_password=True))
    except sqlalchemy.exc.ArgumentError:
        _, at, rest = address.rpartition("@")
        return repr(f"...@{rest}" if at else address)


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
