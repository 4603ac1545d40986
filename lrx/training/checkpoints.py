"""Folders of checkpoints from which a run continues bit for bit.

A checkpoint holds the whole state, the history so far, and a description of the run, which distinguishes it from other
runs. Orbax writes it under a temporary name and renames it when it is complete, so a process killed at any time leaves
only whole checkpoints.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrx import _checks
from lrx._paths import leaves_by_key
from lrx.training.identity import Identity, as_json, differences

KEPT = 3
SHOWN_DIFFERENCES = 4


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _implementation(leaf: Any) -> str:
    """Return the name of the generator of keys, given only their type."""
    known = ("threefry2x32", "rbg", "unsafe_rbg")
    return next(name for name in known if jax.random.key(0, impl=name).dtype == leaf.dtype)


class OtherRunError(ValueError):
    """A folder holds a different run.

    Attributes:
      path: the folder.
      unlike: what differs, in words.
    """

    def __init__(self, message: str, path: Path, unlike: list[str]) -> None:
        super().__init__(message)
        self.path, self.unlike = path, unlike


class CheckpointFolder:
    """The checkpoints of one run, or of one search.

    Args:
      path: the folder; created if it does not exist.
      keep: how many of the newest checkpoints are kept; or steps whose checkpoints are kept permanently, besides the
        newest three.
      read_only: whether nothing is to be written, in a folder that must exist.
      unit: what checkpoints are counted in: "step", or "trial", "rung" and the like for a search.

    Raises:
      ValueError: if it cannot be created or written, or `keep` is not such a number or numbers.
      ImportError: if orbax is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        keep: int | Sequence[int] = KEPT,
        read_only: bool = False,
        unit: str = "step",
    ) -> None:
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError('checkpoints need orbax-checkpoint: pip install "lrx[papers]".') from error
        self.path = path = Path(path).expanduser().absolute()
        self.newest, self.pinned = _read_keep(keep)
        self.unit = unit
        if not read_only:
            _require_writable(path)
        self._args = ocp.args
        self._manager = ocp.CheckpointManager(
            path,
            item_names=("state", "history", "run"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None,
                read_only=read_only,
                enable_async_checkpointing=False,
                # What Orbax sets itself for reading, with a warning for each.
                **({"save_interval_steps": 0, "create": False} if read_only else {}),
            ),
        )

    def latest(self) -> int | None:
        """Return the number of steps of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Return the numbers of steps of all checkpoints, the newest last."""
        return sorted(self._manager.all_steps())

    def identity(self, step: int | None = None) -> Identity:
        """Read what made the checkpoint of `step`, by default the newest."""
        step = self.latest() if step is None else step
        try:
            found = self._manager.restore(step, args=self._args.Composite(run=self._args.JsonRestore()))["run"]
        except Exception as error:
            raise ValueError(
                f"checkpoint={str(self.path)!r} holds a folder {step} that is no checkpoint of lrx: "
                "give another folder."
            ) from error
        return dict(found)

    def require_same_run(self, run: Identity) -> None:
        """Check that the newest checkpoint belongs to the run `run`."""
        unlike = differences(self.identity(), as_json(run))
        if unlike:
            raise OtherRunError(
                f"checkpoint={str(self.path)!r} holds another run, at {self.unit} {self.latest()}: "
                f"{list_differences(unlike)}. Give another folder, or delete this one if that run is not wanted any "
                "more.",
                self.path,
                unlike,
            )

    def save(self, step: int, state: Any, history: dict[str, np.ndarray], run: Identity) -> None:
        """Write a checkpoint, and delete those that are not kept."""
        leaves = {
            name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
            for name, leaf in leaves_by_key(state).items()
        }
        self._manager.save(
            step,
            args=self._args.Composite(
                state=self._args.StandardSave(_not_empty(leaves) or {"none": np.zeros(1)}),  # never an empty dict
                history=self._args.StandardSave(_not_empty(history)),
                run=self._args.JsonSave(as_json(run)),
            ),
            force=True,
        )
        self._manager.wait_until_finished()
        for old in self.steps()[: -self.newest]:
            if old not in self.pinned:
                self._manager.delete(old)

    def restore(self, state: Any, step: int | None = None) -> tuple[int, Any, dict[str, np.ndarray]]:
        """Read a checkpoint, by default the newest, into a state of the shapes of `state`.

        Returns:
          Step, state and history.
        """
        step = self.latest() if step is None else step
        assert step is not None
        args = self._args.Composite(state=self._args.StandardRestore(), history=self._args.StandardRestore())
        found = self._manager.restore(step, args=args)
        leaves = []
        for name, leaf in leaves_by_key(state).items():
            if _is_key(leaf):
                leaves.append(jax.random.wrap_key_data(found["state"][name], impl=_implementation(leaf)))
            elif name not in found["state"] and leaf.size:
                raise ValueError(
                    f"checkpoint={str(self.path)!r} lacks {name} at {self.unit} {step}: give another folder."
                )
            else:
                leaves.append(found["state"].get(name, np.zeros(leaf.shape, leaf.dtype)))
        history = {name: np.asarray(values) for name, values in found["history"].items()}
        return step, jax.tree.unflatten(jax.tree.structure(state), leaves), history

    def discard(self, step: int) -> None:
        """Delete the checkpoint of `step` if there is an older one."""
        steps = self._manager.all_steps()
        if step in steps and len(steps) > 1:
            self._manager.delete(step)

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which another run has made."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Release what Orbax holds."""
        self._manager.close()


def _read_keep(keep: Any) -> tuple[int, set[int]]:
    """Return how many of the newest checkpoints to keep, and the steps whose checkpoints are kept permanently."""
    if isinstance(keep, Iterable) and not isinstance(keep, str):
        steps = list(keep)
        for step in steps:
            _checks.steps("keep", step)
        return KEPT, {int(step) for step in steps}
    _checks.steps("keep", keep, unit="checkpoints")
    return int(keep), set()


def _require_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"checkpoint must be a folder that can be written, got checkpoint={str(path)!r} "
            f"({error.strerror}): give another."
        ) from error


def split_path(path: str | os.PathLike[str]) -> tuple[Path, int | None]:
    """Return the folder and the step of the path of a checkpoint; no step if it is the folder of a run."""
    path = Path(path).expanduser().absolute()
    return (path.parent, int(path.name)) if path.name.isdigit() else (path, None)


def open_checkpoint(path: str | os.PathLike[str]) -> tuple[CheckpointFolder, int]:
    """Open a checkpoint to read from: of a run's folder the newest, or the one of a step, "runs/stable/1000".

    Raises:
      ValueError: if there is none.
    """
    path = Path(path).expanduser().absolute()
    folder, step = split_path(path)
    if folder.is_dir():
        run = CheckpointFolder(folder, read_only=True)
        steps = run.steps()
        if steps and (step is None or step in steps):
            return run, steps[-1] if step is None else step
        run.close()
        there = f", but of {', '.join(map(str, steps))}" if steps else ""
    else:
        there = ""
    raise ValueError(f"resume_from must be a checkpoint, got {str(path)!r}, where there is none{there}.")


def list_differences(unlike: list[str]) -> str:
    """Join the first few of a list of differences."""
    more = len(unlike) - SHOWN_DIFFERENCES
    return "; ".join(unlike[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _not_empty(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leave out arrays without elements, which Orbax cannot write."""
    return {name: array for name, array in arrays.items() if array.size}
