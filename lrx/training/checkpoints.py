"""A folder that keeps a training run: written whole or not at all, and checked before anything is taken from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_KEPT = 2  # the latest, and the one before in case somebody removes the latest


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
      path: the folder; made when it is not there.
      about: what the run is, name to number or text; a folder of another run is refused.
      resume: whether a folder that holds a run is gone on with; otherwise it is refused.

    Raises:
      ValueError: if the folder holds a run and `resume` is False, or another run.
      OSError: if the folder cannot be written.
      ImportError: if orbax-checkpoint is not installed.
    """

    def __init__(self, path: Path, about: dict[str, Any], *, resume: bool) -> None:
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError('checkpoints need orbax-checkpoint: pip install "lrx[papers]".') from error
        self._ocp = ocp
        self.path, self._about = path.absolute(), about
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"checkpoint must be a folder that can be written, got checkpoint={str(path)!r}: {error}."
            ) from error
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.path, options=options)
        if not resume and self._manager.latest_step() is not None:
            raise ValueError(
                f"checkpoint must be an empty folder with resume=False, got {str(path)!r}, which holds a run: "
                "use another folder, or remove this one yourself."
            )

    def save(self, step: int, state: Any, history: dict[str, np.ndarray]) -> None:
        """Write the state and the history after `step` steps."""
        leaves = [np.asarray(leaf) for leaf in jax.device_get(jax.tree.leaves(state))]
        arrays = {f"state {index}": leaf for index, leaf in enumerate(leaves)}
        arrays |= {f"history {name}": values for name, values in history.items()}
        # The names go beside the arrays by number: a name may hold what a file's name may not. Nothing is not stored.
        names = [name for name, array in arrays.items() if array.size]
        about = {
            "run": self._about,
            "state": _describe(state),
            "arrays": {name: [list(array.shape), str(array.dtype)] for name, array in arrays.items()},
            "stored": names,
        }
        ocp = self._ocp
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave({f"{i:04d}": arrays[name] for i, name in enumerate(names)}),
                about=ocp.args.JsonSave(about),
            ),
            force=True,
        )
        self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[Any, dict[str, np.ndarray]] | None:
        """Give the latest state, in the structure of `like`, and the history; None for an empty folder.

        Raises:
          ValueError: if the folder holds another run; names what differs.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        ocp = self._ocp
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        expected = _describe(like)
        differences = [
            f"{name} is {about['run'].get(name)!r} there and {value!r} here"
            for name, value in self._about.items()
            if about["run"].get(name) != value
        ]
        differences += [
            f"{name} is {about['state'].get(name, 'absent')} there and {expected.get(name, 'absent')} here"
            for name in sorted(about["state"].keys() | expected.keys())
            if about["state"].get(name) != expected.get(name)
        ]
        if differences:
            more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise ValueError(
                f"checkpoint must hold this run, got {str(self.path)!r}, which holds another: "
                f"{'; '.join(differences[:3])}{more}. Use another folder."
            )
        arrays = {name: np.zeros(shape, jnp.dtype(dtype)) for name, (shape, dtype) in about["arrays"].items()}
        stored = {f"{i:04d}": arrays[name] for i, name in enumerate(about["stored"])}
        found = self._manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(stored)))["arrays"]
        arrays |= {name: np.asarray(found[f"{i:04d}"]) for i, name in enumerate(about["stored"])}
        leaves = [jnp.asarray(arrays[f"state {index}"]) for index in range(len(jax.tree.leaves(like)))]
        history = {
            name.removeprefix("history "): array for name, array in arrays.items() if name.startswith("history ")
        }
        return jax.tree.unflatten(jax.tree.structure(like), leaves), history


def _describe(tree: Any) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
