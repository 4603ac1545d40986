"""Folders of checkpoints from which a run continues bit for bit.

A checkpoint holds the whole state, the history so far, and a description of the run, which distinguishes it from other
runs. Orbax writes it under a temporary name and renames it when it is complete, so a process killed at any time leaves
only whole checkpoints. If a run belongs to several processes, each writes what its devices hold, and the first renames
the whole; it can be restored on another number of devices and processes.
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
      background: whether `save` returns as soon as the state is copied, and writes while the run goes on.

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
        background: bool = False,
    ) -> None:
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError('checkpoints need orbax-checkpoint: pip install "lrx[papers]".') from error
        self.path = path = Path(path).expanduser().absolute()
        self.newest, self.pinned = _read_keep(keep)
        self.unit, self._background = unit, background
        self._has_saved = False
        if not read_only:
            _require_writable(path)
        self._args = ocp.args
        self._manager = ocp.CheckpointManager(
            path,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "history": ocp.StandardCheckpointHandler(),
                "run": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None,
                read_only=read_only,
                enable_async_checkpointing=background,
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

    def missed(self, step: int) -> list[int]:
        """Return the pinned steps before `step` of which there is no checkpoint."""
        return [pinned for pinned in sorted(self.pinned - set(self.steps())) if pinned < step]

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
        """Write a checkpoint, and delete those that are not kept.

        In the background an error is raised by the next call, and old checkpoints are deleted when the next one is
        written: at no time is there none that is whole.
        """
        self.wait()
        self._has_saved = True
        leaves = {name: _to_save(leaf) for name, leaf in leaves_by_key(state).items()}
        self._manager.save(
            step,
            args=self._args.Composite(
                state=self._args.StandardSave(_not_empty(leaves) or {"none": np.zeros(1)}),  # never an empty dict
                history=self._args.StandardSave(_not_empty(history)),
                run=self._args.JsonSave(as_json(run)),
            ),
            force=True,
        )
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Wait until the latest checkpoint is whole, and delete those that are not kept any more."""
        self._manager.wait_until_finished()
        for old in self.steps()[: -self.newest] if self._has_saved else ():
            if old not in self.pinned:
                self._manager.delete(old)

    def restore(
        self, state: Any, step: int | None = None, shardings: Any = None
    ) -> tuple[int, Any, dict[str, np.ndarray]]:
        """Read a checkpoint, by default the newest, into a state of the shapes of `state`.

        Args:
          state: a pytree of arrays, or of their shapes.
          step: which checkpoint.
          shardings: where each leaf is put, a pytree like `state`; without it arrays come as those of NumPy, keys
            excepted.

        Returns:
          Step, state and history.
        """
        step = self.latest() if step is None else step
        assert step is not None
        wanted = leaves_by_key(state)
        lie = dict.fromkeys(wanted) if shardings is None else dict(zip(wanted, jax.tree.leaves(shardings), strict=True))
        written = self._manager.item_metadata(step)["state"].tree.keys()
        targets = {name: _to_restore(leaf, lie[name]) for name, leaf in wanted.items() if name in written}
        items = {"history": self._args.StandardRestore()}
        if targets:
            items["state"] = self._args.StandardRestore(targets, strict=False)
        found = self._manager.restore(step, args=self._args.Composite(**items))
        leaves = []
        for name, leaf in wanted.items():
            if name in written:
                value = found["state"][name]
                leaves.append(jax.random.wrap_key_data(value, impl=_implementation(leaf)) if _is_key(leaf) else value)
            elif leaf.size:
                raise ValueError(
                    f"checkpoint={str(self.path)!r} lacks {name} at {self.unit} {step}: give another folder."
                )
            else:
                leaves.append(np.zeros(leaf.shape, leaf.dtype))
        history = {name: np.asarray(values) for name, values in found["history"].items()}
        return step, jax.tree.unflatten(jax.tree.structure(state), leaves), history

    def discard(self, step: int) -> None:
        """Delete the checkpoint of `step` if there is an older one."""
        self.wait()
        steps = self._manager.all_steps()
        if step in steps and len(steps) > 1:
            self._manager.delete(step)

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which another run has made."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Wait until the latest checkpoint is whole, and release what Orbax holds."""
        try:
            self.wait()
        finally:
            self._manager.close()


def _to_save(leaf: Any) -> Any:
    """Return a leaf as it is written: of a mesh in parts, otherwise an array of NumPy."""
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    is_on_one = not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1
    return np.array(leaf) if is_on_one else leaf


def _to_restore(leaf: Any, sharding: Any) -> Any:
    """Return the target of a leaf, from its shape and where it is put."""
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    if sharding is None:
        return np.empty(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


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
