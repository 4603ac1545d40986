"""The state of a run: where it begins, what is stored of it, and what it leaves."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding

from lrx.run_state import can_stop, stopped, tracks_best
from lrx.training.batch_stats import evaluation_point, model_state_at
from lrx.training.beginning import begin_from, checksum_of
from lrx.training.checkpoints import CheckpointFolder
from lrx.training.checks import require_descent_once, require_scalars_once
from lrx.training.curves import Curves, group
from lrx.training.divergence import DivergenceError, divergence_error
from lrx.training.feed import Feed
from lrx.training.following import read_feedback, require_results
from lrx.training.history import Best, History
from lrx.training.identity import Identity, as_json, data_identity, run_identity
from lrx.training.interrupt import TrainingInterrupted, interruption
from lrx.training.layout import Layout, put
from lrx.training.program import program_of
from lrx.training.resuming import compare, compare_interval, find_source, require_best, require_length
from lrx.training.rounds import has_rounds
from lrx.training.sampling import keys_of
from lrx.training.settings import Settings
from lrx.training.step import State
from lrx.training.turns import require_alike
from lrx.training.workload import Workload


class _Saved(NamedTuple):
    """Content of a checkpoint: a `State`, and the best parameters that the host keeps."""

    params: Any
    model_state: Any
    opt_state: Any
    best: Any
    kept: Any  # the `Best` by an evaluation; () if none is kept


class StoredRun:
    """A run between two segments: its state on the devices, its curves on the host, and what is stored of both."""

    state: State
    feed: Feed

    def __init__(
        self,
        workload: Workload,
        tx: optax.GradientTransformation,
        seed: int,
        plan: Settings,
        folder: CheckpointFolder | None,
        init: Any,
        layout: Layout,
    ) -> None:
        self.workload, self.tx, self.seed, self.plan, self.folder, self.init = workload, tx, seed, plan, folder, init
        self.layout, self.everywhere = layout, layout.places.everywhere
        self.program = program_of(workload, tx, stop_on_nonfinite=plan.stop_on_nonfinite, layout=layout)
        self.keys = jax.jit(keys_of, out_shardings=self.everywhere)(seed)
        self.shapes = jax.eval_shape(self.program.initialize, self.keys.init)
        require_scalars_once(tx, self.shapes.params)
        self.feedback = read_feedback(
            plan.feedback_metric, workload, self.shapes.opt_state, by_hand=bool(plan.callbacks)
        )
        if layout.spans_processes:
            require_alike(batches=data_identity(workload.batches), seed=seed, steps=plan.total)
        self.identity: Identity = {}
        self.step = 0
        self.resumed_at: int | None = None
        self.changes: dict[str, list[str]] = {}  # by the step from which on they hold
        self.mixed: dict[str, list[str]] = {}  # of these, what makes it another run
        self.branch: list[Any] | None = None  # folder and step of another run's checkpoint, from which this one went on
        self.curves = Curves()
        self.kept: Best | None = None  # by an evaluation
        self.kept_value: float | None = None
        self.ended = False  # by a callback
        self.complete_at = -1  # the last step of a run that ends within a round of accumulation
        self.accumulates = has_rounds(self.shapes.opt_state)
        self.called_at = 0
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.position: Any = None  # of the reader of a stream, where the run begins

    # --- where it begins

    def begin(self, resume: bool, resume_from: int | str | os.PathLike[str] | None, on_mismatch: str) -> None:
        """Build the initial state, or restore a checkpoint."""
        found = find_source(self.folder, resume, resume_from)
        if self.folder is not None or found is not None:
            self.identity = self._describe()  # before a call of `evaluate`, which may count its calls
        if found is None or found[1] < self.plan.total:
            require_descent_once(self.tx, self.shapes.params)
        if found is None:
            self._begin_anew()
            return
        source, step = found
        about, self.changes, self.mixed, note = compare(source, step, self.identity, on_mismatch)
        if note:
            self._say(note)
        require_length(source, step, self.plan.total)
        self._restore(source, step, about)
        if source is self.folder:
            self.branch = about.get("branch")
            source.discard_after(step)
        else:
            self.branch = [str(source.path.resolve()), step]
            source.close()
        self._say(f"resumed at step {step:,}" if step < self.plan.total else "complete, nothing is trained")

    def _begin_anew(self) -> None:
        self.state = self.program.initialize(self.keys.init)
        if self.init is not None:
            state, notes = begin_from(self.init, self.state)
            self.state = put(state, self.program.shardings)
            if notes:
                self.changes["0"] = notes
                self._say("; ".join(notes))
        wanted = {metric: "feedback_metric" for metric in self.feedback.values()}
        if self.plan.best_by is not None:
            wanted[self.plan.best_by.metric] = "keep_best"
        if wanted and self.workload.evaluate is not None:
            # Once, to see that the names are there: at the end of the first epoch it would be late.
            require_results(wanted, self.workload.evaluate(*self._evaluation_point()))
        if self.feedback and self.plan.evaluate_every >= self.plan.total:
            self._say(f"{' and '.join(self.feedback)} will observe nothing before the end: lower evaluate_every")

    def _restore(self, source: CheckpointFolder, step: int, about: dict[str, Any]) -> None:
        plan = self.plan
        if plan.best_by is not None:
            require_best(source, step, about.get("best_by"), list(plan.best_by))
        kept: Any = ()
        if plan.best_by is not None and about.get("best_value") is not None:
            step_like: Any = jax.ShapeDtypeStruct((), jnp.int32)
            kept = Best(step_like, self.shapes.params, self.shapes.model_state)
        like = _Saved(**self.shapes._asdict(), kept=kept)
        self.step, saved, recorded = source.restore(like, step, self._lies(like) if self.layout.is_given else None)
        *state, kept = saved
        self.state = put(State(*state), self.program.shardings)
        if isinstance(kept, Best):
            self.kept = kept if self.layout.is_given else jax.device_put(kept, self.layout.devices[0])
            self.kept_value = about["best_value"]
        self.resumed_at = self.saved_step = self.called_at = self.step
        self.position = about.get("position")
        self._note_what_comes_too_late(about)
        self.curves = Curves(recorded)
        # The end of a shorter run was evaluated out of turn; the longer run would not have stopped there.
        last = self.curves.evaluation_steps[-1] if self.curves.evaluation_steps else 0
        if last % about.get("evaluate_every", plan.evaluate_every) and last < plan.total:
            self.curves.drop_last_evaluation()

    def _note_what_comes_too_late(self, about: dict[str, Any]) -> None:
        if self.workload.evaluate is not None and not self.feedback:
            changed, text = compare_interval(
                about.get("evaluate_every"), self.plan.evaluate_every, self.step, self.plan.total
            )
            if changed:
                self.changes.setdefault(str(self.step), []).append(changed)
            if text:
                self._say(text)
        if self.folder is not None:
            self.folder.pinned |= set(about.get("pinned", ()))
            late = self.folder.missed(self.step)
            if late:
                self._say(f"keep comes too late for step {', '.join(map(str, late))}, of which there is no checkpoint")

    def _describe(self) -> Identity:
        settings: dict[str, Any] = {"seed": self.seed}
        if self.feedback:
            settings |= {"feedback_metric": self.feedback, "evaluate_every": self.plan.evaluate_every}
        if self.init is not None:
            settings["begun"] = checksum_of(self.init)
        return as_json(run_identity(self.workload, self.tx, **settings))

    def _say(self, what: str) -> None:
        if self.speaks:
            print(f"{self.workload.name}: {what}", file=sys.stderr)

    def _save(self, folder: CheckpointFolder) -> None:
        if self.step - 1 == self.complete_at:
            return
        best_by = self.plan.best_by
        about = {
            "changes": self.changes,
            "mixed": self.mixed,
            "branch": self.branch,
            "evaluate_every": self.plan.evaluate_every,
            "pinned": sorted(folder.pinned),
            "best_by": None if best_by is None else list(best_by),
            "best_value": self.kept_value,
            "position": self.feed.position(self.step),
        }
        saved = _Saved(**self.state._asdict(), kept=() if self.kept is None else self.kept)
        folder.save(self.step, saved, self.curves.arrays(), {**self.identity, "about": about})
        self.saved_step, self.saved_at = self.step, time.monotonic()

    # --- where it is read

    def _reader(self) -> jax.Device | None:
        """Return the device on which the state is evaluated and read; None to leave it on the mesh that was given."""
        # What works on one device may not work on several, and evaluating on each would not be faster.
        return None if self.layout.is_given else self.layout.devices[0]

    def _lies(self, saved: _Saved) -> _Saved:
        """Return where each leaf of a checkpoint lies on the mesh."""
        where = self.program.shardings
        if isinstance(where, Sharding):
            return jax.tree.map(lambda _: where, saved)
        everywhere: Any = self.everywhere
        kept = Best(everywhere, where.params, where.model_state) if isinstance(saved.kept, Best) else ()
        return _Saved(where.params, where.model_state, where.opt_state, where.best, kept)

    def _state_to_read(self) -> State:
        reader = self._reader()
        return self.state if reader is None else jax.device_put(self.state, reader)

    @property
    def speaks(self) -> bool:
        return not self.layout.spans_processes or jax.process_index() == 0

    def _evaluation_point(self) -> tuple[Any, Any]:
        return evaluation_point(self.workload, self._state_to_read(), self.seed)

    # --- what it leaves

    def history(self, ended: str = "") -> History:
        """Return the history until now.

        Args:
          ended: as in `History`; by default whether the run is complete or was stopped.
        """
        if not ended:
            is_stopped = can_stop(self.state.opt_state) and bool(stopped(self.state.opt_state))
            ended = "complete" if self.step == self.plan.total and not is_stopped else "stopped"
        recorded = self.curves.arrays()
        nothing = np.zeros(0, np.float32)
        return History(
            recorded.get("loss", nothing),
            recorded.get("rate", nothing),
            group(recorded, "metrics/"),
            group(recorded, "evaluations/"),
            recorded["evaluation_steps"],
            *self._state_to_read()[:3],
            self._best_seen() if self.plan.best_by is None else self.kept,
            self.resumed_at,
            {int(step): notes for step, notes in self.changes.items()},
            ended,
        )

    def _best_seen(self) -> Best | None:
        """Return the best that an `early_stopping` saw."""
        state = self._state_to_read()
        if not tracks_best(state.opt_state):
            return None
        best = state.best
        assert isinstance(best, Best)
        then = state._replace(model_state=best.model_state)
        return best._replace(model_state=model_state_at(self.workload, best.params, then, self.seed))

    def _interruption(self) -> TrainingInterrupted:
        folder = None if self.folder is None else self.folder.path
        return interruption(self.step, self.plan.total, folder, self.history("interrupted"))

    def _divergence(self, loss: float, rate: float) -> DivergenceError:
        good = None
        if self.folder is not None:
            self.folder.discard(self.step)  # a checkpoint just before the failing step would fail again
            latest = self.folder.latest()
            good = None if latest is None else (self.folder.path, latest)
        epoch = self.step / self.workload.batches.steps_per_epoch
        return divergence_error(self.step, epoch, loss, rate, good, self.history("diverged"))
