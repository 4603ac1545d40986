"""The history of a run: its curves and its final state, which can be read, drawn, saved and continued."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrx.brief import brief
from lrx.figures import BLUE, LIGHT, VERMILION, panels, scale_axis
from lrx.records import write_atomically
from lrx.states import shows
from lrx.training.workload import ModelState, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAIL = 0.1  # of the steps, over which the last loss is averaged
SMOOTHED = 300  # steps from which on the mean of a window is drawn over the losses


@shows()
class Best(NamedTuple):
    """The best of a run: what an `early_stopping` saw, or `train(keep_best=...)` kept."""

    step: jax.Array  # () int32: completed updates
    params: Params  # where the loss was measured: what is evaluated
    model_state: ModelState  # the model state that belongs to them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class History:
    """The history of a run: curves as NumPy arrays, and the final state on the device.

    Attributes:
      loss: (steps,) float32, of each step's minibatch, before its update.
      rate: (steps,) float32, the learning rate of each update; NaN if the optimizer's state holds no rate, or one
        for each of several groups (then they are in `metrics`).
      metrics: name to (steps,) array, what `lrx.monitor` finds in the optimizer's state after each update.
      evaluations: name to (k,) float32, what the workload's `evaluate` returned, at the parameters that
        `lrx.eval_params(opt_state, params)` returns.
      evaluation_steps: (k,) int32, the number of completed steps at each evaluation.
      params: the final parameters.
      model_state: the final model state, () if the model has none.
      opt_state: the final optimizer state.
      best: a `Best` with `step`, `params` and `model_state` of the best result that `train(keep_best=...)` names, or
        without it of the lowest loss that an `early_stopping` has seen; None if there is neither.
      resumed_at: the step at which the call that returned this resumed an earlier run; None if it began at step 0.
      changes: step to notes in words: what differed from then on, by `on_mismatch="continue"` or a callback, and at 0
        what `init` could not take over.
      ended: "complete" if all steps were made; "stopped" if a controller or a callback ended the run; "diverged" and
        "interrupted" in the histories that `DivergenceError` and `TrainingInterrupted` carry.
    """

    loss: np.ndarray
    rate: np.ndarray
    metrics: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    evaluation_steps: np.ndarray
    params: Params
    model_state: ModelState
    opt_state: Any
    best: Best | None = None
    resumed_at: int | None = None
    changes: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    ended: str = "complete"

    def __repr__(self) -> str:
        parts = [f"{len(self.loss):,} steps"]
        if len(self.loss):
            parts.append(f"train loss {self.loss[0]:.4g} to {self._last_loss():.4g}")
            if np.isfinite(self.rate[-1]):
                parts.append(f"rate {self.rate[-1]:.3g}")
        evaluated = [f"{name} {values[-1]:.4g}" for name, values in self.evaluations.items() if len(values)]
        parts += [f"evaluation {', '.join(evaluated)}"] if evaluated else []
        if self.best is not None:
            parts.append(f"best at step {int(self.best.step):,}")
        return f"History({', '.join(parts)}; params {brief(self.params)})"

    def _last_loss(self) -> float:
        return float(np.mean(self.loss[-max(1, int(TAIL * len(self.loss))) :]))

    def summary(self) -> str:
        """Return a few lines that say how the run went: losses, rates, evaluations and what was changed on the way.

        The training loss at the end is the mean over the last tenth of the steps. Of the evaluations the last and the
        least and greatest are named, with their steps.
        """
        lines = [f"steps       {len(self.loss):,}"]
        if self.ended != "complete":
            lines[0] += f", {self.ended}"
        if self.resumed_at is not None:
            lines[0] += f", resumed at {self.resumed_at:,}"
        if len(self.loss):
            low = int(np.nanargmin(self.loss)) if np.isfinite(self.loss).any() else 0
            lines.append(
                f"train loss  {self.loss[0]:.4g} at first, {self._last_loss():.4g} at the end, "
                f"least {self.loss[low]:.4g} at step {low:,}"
            )
            if np.isfinite(self.rate).any():
                lines.append(
                    f"rate        {self.rate[0]:.3g} at first, {self.rate[-1]:.3g} at the end, "
                    f"greatest {np.nanmax(self.rate):.3g} at step {int(np.nanargmax(self.rate)):,}"
                )
        for name, values in self.evaluations.items():
            if np.isfinite(values).any():
                low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
                lines.append(
                    f"evaluation  {name} {values[-1]:.4g} at step {self.evaluation_steps[-1]:,}, "
                    f"least {values[low]:.4g} at {self.evaluation_steps[low]:,}, "
                    f"greatest {values[high]:.4g} at {self.evaluation_steps[high]:,}"
                )
        if self.best is not None:
            lines.append(f"best        at step {int(self.best.step):,}")
        lines += [f"from {step:<6,} {note}" for step, notes in sorted(self.changes.items()) for note in notes]
        return "\n".join(lines)

    def plot(self, title: str | None = None) -> Figure:
        """Draw the training loss, the evaluations and the rate over the steps; needs matplotlib.

        An evaluation called "loss" is drawn with the training loss. Losses that reach far are drawn by
        their logarithm. A grey line marks where something was changed.

        Args:
          title: what was trained, such as "digits: sgd"; a long one is wrapped.

        Returns:
          A matplotlib figure: `history.plot().savefig("run.png")`.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        apart = [name for name in self.evaluations if name != "loss"]
        rated = bool(np.isfinite(self.rate).any())
        rows = 1 + len(apart) + rated
        size = (7, 1.2 + 2.1 * rows)
        figure, axes = panels(rows=rows, size=size, sharex=True, height_ratios=[1.6] + [1] * (rows - 1))
        steps = np.arange(len(self.loss))
        losses = [self.loss, self.evaluations.get("loss", np.zeros(0))]
        shown = len(steps) >= SMOOTHED
        axes[0].plot(steps, self.loss, color=BLUE, lw=0.6 if shown else 1.4, alpha=0.3 if shown else 1)
        window = max(1, len(steps) // 50)
        label = f"training, mean of {window} steps" if shown else "training"
        if shown:
            middle, means = _window_means(self.loss, window)
            axes[0].plot(middle, means, color=BLUE, lw=1.8, label=label)
        else:
            axes[0].lines[0].set_label(label)
        if len(losses[1]):
            axes[0].plot(self.evaluation_steps, losses[1], "o-", color=VERMILION, ms=4, lw=1.4, label="evaluation")
        axes[0].set_ylabel("loss")
        axes[0].legend(frameon=False)
        scale_axis(axes[0], "y", np.concatenate(losses))
        if title is not None:
            axes[0].set_title("\n".join(textwrap.wrap(title, 90)), loc="left", fontsize=9)
        for axis, name in zip(axes[1:], apart, strict=False):
            axis.plot(self.evaluation_steps, self.evaluations[name], "o-", color=VERMILION, ms=4, lw=1.4)
            axis.set_ylabel(name)
        if rated:
            axes[-1].plot(steps, self.rate, color=BLUE, lw=1.6)
            axes[-1].set_ylabel("learning rate")
        axes[-1].set_xlabel("step")
        for axis in axes:
            for step in self.changes:
                axis.axvline(step, color=LIGHT, lw=1, ls="--")
        return figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, whole or not at all: NumPy's `.npz`, without pickles.

        Args:
          path: the file; its folder is created if it does not exist. An existing file is replaced.
        """
        arrays, notes = self._as_arrays()
        contents: dict[str, Any] = {"notes": np.frombuffer(json.dumps(notes).encode(), np.uint8), **arrays}
        write_atomically(path, lambda file: np.savez_compressed(file, **contents))

    def _as_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays: dict[str, np.ndarray] = {
            "loss": self.loss,
            "rate": self.rate,
            "evaluation_steps": self.evaluation_steps,
            **{f"metrics/{name}": values for name, values in self.metrics.items()},
            **{f"evaluations/{name}": values for name, values in self.evaluations.items()},
        }
        leaves: list[Any] = []
        for part in (*_PARTS, "best"):
            for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(self, part), is_leaf=_is_empty):
                kind = EMPTY
                if not _is_empty(leaf):
                    arrays[f"leaf {len(leaves)}"], kind = _plain(leaf)
                leaves.append([part, [_write_key(key) for key in path], kind])
        notes = {"format": FORMAT, "leaves": leaves, "resumed_at": self.resumed_at, "ended": self.ended}
        return arrays, {**notes, "changes": {str(step): texts for step, texts in self.changes.items()}}

    @classmethod
    def load(cls, path: str | os.PathLike[str], like: Any = None) -> History:
        """Return the history that `save` has written.

        Args:
          path: the file.
          like: to restore the trees as they were, something of their structure: a `History`, or `(params,
            model_state, opt_state)` of arrays or `jax.ShapeDtypeStruct`. Without it they are dicts and lists by the
            names of their fields, which `lrx.carry_over` and `train(init=...)` take.

        Raises:
          ValueError: if the file is not such a one, or its trees have another structure than `like`.

        Example:
          >>> import jax.numpy as jnp, tempfile, os, lrx
          >>> batches = lrx.Batches(jnp.zeros(8), batch_size=4)
          >>> loss_fn = lambda w, x, key: jnp.mean((w - x) ** 2)
          >>> workload = lrx.Workload.from_functions(loss_fn, lambda key: jnp.ones(()), batches, name="bowl")
          >>> history = lrx.train(workload, lrx.sgd(0.25), steps=3)
          >>> history
          History(3 steps, train loss 1 to 0.0625, rate 0.25; params 0.125)
          >>> path = os.path.join(tempfile.mkdtemp(), "run.npz")
          >>> history.save(path)
          >>> lrx.History.load(path, like=history).opt_state == history.opt_state
          True
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            notes = json.loads(bytes(arrays.pop("notes")))
            if notes["format"] != FORMAT:
                raise KeyError("format")
        except (OSError, ValueError, KeyError, EOFError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"path must be a file that History.save has written, got {str(path)!r}.") from error
        found: dict[str, list[tuple[list[Any], Any]]] = {part: [] for part in (*_PARTS, "best")}
        for number, (part, keys, kind) in enumerate(notes["leaves"]):
            found[part].append((keys, () if kind == EMPTY else _restore_type(arrays.pop(f"leaf {number}"), kind)))
        trees = {part: _tree(leaves) for part, leaves in found.items()}
        if like is not None:
            trees |= _in_structure(found, like)
        del trees["best"]
        groups: dict[str, dict[str, np.ndarray]] = {"metrics": {}, "evaluations": {}}
        for name in [name for name in arrays if "/" in name]:
            group, _, rest = name.partition("/")
            groups[group][rest] = arrays.pop(name)
        return cls(
            loss=arrays["loss"],
            rate=arrays["rate"],
            evaluation_steps=arrays["evaluation_steps"],
            metrics=groups["metrics"],
            evaluations=groups["evaluations"],
            **trees,
            best=_best(found["best"], trees if like is not None else None),
            resumed_at=notes["resumed_at"],
            changes={int(step): texts for step, texts in notes["changes"].items()},
            ended=notes.get("ended", "complete"),
        )


FORMAT = "lrx history 1"
EMPTY = "empty"  # a node without leaves, which has its place in the structure of a state
_PARTS = ("params", "model_state", "opt_state")


def _is_empty(node: Any) -> bool:
    return not jax.tree.leaves(node)


def _plain(leaf: Any) -> tuple[np.ndarray, str]:
    """Return an array that NumPy can write, and what it is."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf)), f"key {jax.random.key_impl(leaf)}"
    array = np.asarray(leaf)
    if array.dtype.kind == "V":  # bfloat16 and similar types, which NumPy cannot name
        return array.view(np.dtype(f"u{array.dtype.itemsize}")), str(array.dtype)
    return array, ""


def _restore_type(array: np.ndarray, kind: str) -> jax.Array:
    if kind.startswith("key "):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind.removeprefix("key "))
    return jnp.asarray(array.view(jnp.dtype(kind)) if kind else array)


def _write_key(key: Any) -> str | int:
    if isinstance(key, jax.tree_util.SequenceKey):
        return key.idx
    value = getattr(key, "name", getattr(key, "key", None))
    return value if isinstance(value, str) else str(value)


def _tree(leaves: list[tuple[list[Any], Any]]) -> Any:
    """Return dicts and lists; () if there is no leaf."""
    if not leaves:
        return ()
    if not leaves[0][0]:
        return leaves[0][1]
    below: dict[Any, list[tuple[list[Any], Any]]] = {}
    for keys, leaf in leaves:
        below.setdefault(keys[0], []).append((keys[1:], leaf))
    trees = {key: _tree(inner) for key, inner in below.items()}
    if all(isinstance(key, int) for key in trees):
        return [trees.get(index, ()) for index in range(max(trees) + 1)]
    return trees


def _in_structure(found: dict[str, list[tuple[list[Any], Any]]], like: Any) -> dict[str, Any]:
    wanted = tuple(getattr(like, part) for part in _PARTS) if isinstance(like, History) else like
    if not (isinstance(wanted, tuple) and len(wanted) == len(_PARTS)):
        raise ValueError(f"like must be a History or (params, model_state, opt_state), got a {type(like).__name__}.")
    trees = {}
    for part, tree in zip(_PARTS, wanted, strict=True):
        paths = jax.tree_util.tree_leaves_with_path(tree)
        here = [([_write_key(key) for key in path], jnp.shape(leaf)) for path, leaf in paths]
        saved = [(keys, leaf) for keys, leaf in found[part] if not _is_empty(leaf)]
        there = [(keys, jnp.shape(leaf)) for keys, leaf in saved]
        if here != there:
            unlike = next((str(a or b) for a, b in _pairs(there, here) if a != b), "")
            raise ValueError(f"like must have the structure of what was saved, but {part} differs at {unlike}.")
        trees[part] = jax.tree.unflatten(jax.tree.structure(tree), [leaf for _, leaf in saved])
    return trees


def _pairs(one: list[Any], other: list[Any]) -> list[tuple[Any, Any]]:
    length = max(len(one), len(other))
    return list(zip(one + [None] * (length - len(one)), other + [None] * (length - len(other)), strict=True))


def _best(leaves: list[tuple[list[Any], Any]], like: dict[str, Any] | None) -> Best | None:
    if len(leaves) < 2:  # of None
        return None
    fields = {name: [(keys[1:], leaf) for keys, leaf in leaves if keys[0] == name] for name in Best._fields}
    trees = {name: _tree(inner) for name, inner in fields.items()}
    if like is not None:
        for name in ("params", "model_state"):
            saved = [leaf for _, leaf in fields[name] if not _is_empty(leaf)]
            trees[name] = jax.tree.unflatten(jax.tree.structure(like[name]), saved)
    return Best(**trees)


def _window_means(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle and the mean of each window of so many steps; the last may be shorter."""
    starts = np.arange(0, len(values), window)
    ends = np.minimum(starts + window, len(values))
    return (starts + ends - 1) / 2, np.add.reduceat(values.astype(np.float64), starts) / (ends - starts)
