"""A run on the host: evaluations, checkpoints, callbacks and progress between compiled segments."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.observing import observe
from lrx.run_state import can_stop, handles_divergence, stopped, tracks_best
from lrx.training.batch_stats import evaluation_point, model_state_at
from lrx.training.beginning import begin_from, checksum_of
from lrx.training.callbacks import Moment, answer_of, interval_of
from lrx.training.checkpoints import CheckpointFolder
from lrx.training.checks import require_descent_once, require_scalars_once
from lrx.training.curves import Curves, group
from lrx.training.divergence import DivergenceError, divergence_error, final_divergence_error
from lrx.training.feed import Feed
from lrx.training.following import read_feedback, require_results
from lrx.training.history import Best, History
from lrx.training.identity import Identity, as_json, run_identity
from lrx.training.interrupt import TrainingInterrupted
from lrx.training.pace import Pace
from lrx.training.placement import batch_devices, placement
from lrx.training.program import SEGMENT_STEPS, program_of
from lrx.training.progress import ProgressMeter
from lrx.training.resuming import compare, find_source, require_best, require_length
from lrx.training.rounds import describe_rest, has_rounds, is_within_round
from lrx.training.sampling import keys_of
from lrx.training.settings import Settings
from lrx.training.step import State
from lrx.training.workload import Workload

CHECKPOINT_SECONDS = 30.0  # between two checkpoints if `checkpoint_every` is not given


class _Saved(NamedTuple):
    """Content of a checkpoint: a `State`, and the best parameters that the host keeps."""

    params: Any
    model_state: Any
    opt_state: Any
    best: Any
    kept: Any  # the `Best` by an evaluation; () if none is kept


class Run:
    """A run: its state on the device, and its curves on the host."""

    state: State

    def __init__(
        self,
        workload: Workload,
        tx: optax.GradientTransformation,
        seed: int,
        plan: Settings,
        folder: CheckpointFolder | None,
        init: Any,
    ) -> None:
        self.workload, self.tx, self.seed, self.plan, self.folder, self.init = workload, tx, seed, plan, folder, init
        self.devices = batch_devices(workload.batches)
        self.placement = placement(self.devices).everywhere
        self.program = program_of(workload, tx, stop_on_nonfinite=plan.stop_on_nonfinite)
        self.keys = jax.device_put(jax.jit(keys_of)(seed), self.placement)
        self.shapes = jax.eval_shape(self.program.initialize, self.keys.init)
        require_scalars_once(tx, self.shapes.params)
        self.feedback = read_feedback(
            plan.feedback_metric, workload, self.shapes.opt_state, by_hand=bool(plan.callbacks)
        )
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
            self.state = jax.device_put(state, self.placement)
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
        self.step, saved, recorded = source.restore(_Saved(**self.shapes._asdict(), kept=kept), step)
        *state, kept = saved
        self.state = jax.device_put(State(*state), self.placement)
        if isinstance(kept, Best):
            self.kept, self.kept_value = jax.device_put(kept, self.devices[0]), about["best_value"]
        self.resumed_at = self.saved_step = self.called_at = self.step
        self.position = about.get("position")
        self._say_what_comes_too_late(about)
        if self.folder is not None:
            self.folder.pinned |= set(about.get("pinned", ()))
        self.curves = Curves(recorded)
        # The end of a shorter run was evaluated out of turn; the longer run would not have stopped there.
        last = self.curves.evaluation_steps[-1] if self.curves.evaluation_steps else 0
        if last % about.get("evaluate_every", plan.evaluate_every) and last < plan.total:
            self.curves.drop_last_evaluation()

    def _say_what_comes_too_late(self, about: dict[str, Any]) -> None:
        """Print which arguments are given too late to take effect."""
        step, every, before = self.step, self.plan.evaluate_every, about.get("evaluate_every")
        if self.workload.evaluate is not None and not self.feedback and before not in (None, every):
            if step < self.plan.total:
                note = f"evaluate_every is {before} steps there and {every} here"
                self.changes.setdefault(str(step), []).append(note)
                self._say(f"was evaluated every {before:,} steps until step {step:,}, and from there every {every:,}")
            else:
                self._say(f"was evaluated every {before:,} steps; evaluate_every={every:,} comes too late")
        if self.folder is not None:
            late = [kept for kept in sorted(self.folder.pinned - set(self.folder.steps())) if kept < step]
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
        print(f"{self.workload.name}: {what}", file=sys.stderr)

    # --- the loop

    def go(self, status: ProgressMeter, interrupted: Callable[[], bool]) -> None:
        """Train to the end."""
        self.feed = Feed(
            self.workload.batches,
            self.step,
            self.plan.total,
            functools.partial(jax.device_put, device=self.placement),
            position=self.position,
            keeps_positions=self.folder is not None,
        )
        try:
            self._go(status, interrupted)
        finally:
            self.feed.close()

    def _go(self, status: ProgressMeter, interrupted: Callable[[], bool]) -> None:
        plan = self.plan
        pace = Pace(SEGMENT_STEPS)
        compiling = True
        while True:
            is_evaluated = self.curves.is_evaluated(self.step)
            if self._due(plan.evaluate_every) and not is_evaluated and not interrupted():
                self._evaluate()
                status.show_evaluation(self.step, self.curves.latest_evaluation())
            if self._call() and self.ended:
                continue  # the end is evaluated
            if self.folder is not None and self.step > self.saved_step:
                waited = time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
                due = self._due(plan.checkpoint_every) or (plan.checkpoint_every is None and waited)
                if due or self.step in self.folder.pinned or interrupted():
                    self._save(self.folder)
            if self.accumulates and self.step == plan.total - 1:
                self._end_the_round()
            if interrupted():
                raise self._interruption()
            if self._finished():
                for text in describe_rest(self.state.opt_state, self.step):
                    self._say(text)
                return
            found = self.feed.at(self.step, interrupted)
            if found is None:
                continue  # interrupted
            arrays, end = found
            if compiling:  # A call without steps compiles the program, so the clock measures only steps.
                self._segment(arrays, self.step)
                status.start()
                compiling = False
            stop = min(self.step + pace.length, self._next_stop(), end)
            first = self.step
            pace.begin()
            self._segment(arrays, stop)
            pace.end(self.step - first)
            status.update(self.step, float(np.mean(self.curves.latest("loss"))), float(self.curves.latest("rate")[-1]))

    def _next_stop(self) -> int:
        """Return the next step after which the host has something to do."""
        pinned = () if self.folder is None else self.folder.pinned
        return self.plan.next_stop(self.step, [*pinned, *([self.plan.total - 1] if self.accumulates else [])])

    def _due(self, every: int | None) -> bool:
        """Return whether an action with this interval, which is also taken at the end, is due."""
        return self.step > 0 and (self._finished() or (every is not None and self.step % every == 0))

    def _finished(self) -> bool:
        """Return whether the run is at its end, or a controller or callback has ended it."""
        if self.step == self.plan.total or self.ended:
            return True
        return can_stop(self.state.opt_state) and bool(stopped(self.state.opt_state))

    def _segment(self, arrays: Any, stop: int) -> None:
        start = self.step
        self.state, completed, curves = self.program.segment(
            self.state, arrays, self.keys, jnp.int32(start), jnp.int32(stop), jnp.int32(self.complete_at)
        )
        self.step = int(completed)
        recorded = {name: np.asarray(values) for name, values in curves.items()}
        self.curves.extend(recorded, self.step - start)
        if can_stop(self.state.opt_state) and bool(stopped(self.state.opt_state)):
            if handles_divergence(self.state.opt_state):
                raise final_divergence_error(self.history("diverged"))
        elif self.step < stop:
            failed = {name: float(recorded[name][self.step - start]) for name in ("loss", "rate")}
            raise self._divergence(**failed)

    # --- between two segments

    def _evaluate(self) -> None:
        if self.workload.evaluate is None:
            return
        params, model_state = self._evaluation_point()
        self.curves.evaluate(self.step, self.workload.evaluate(params, model_state))
        results = self.curves.latest_evaluation()
        best_by = self.plan.best_by
        if best_by is not None and best_by.improves(results[best_by.metric], self.kept_value):
            # Copies, for the next step takes the memory of the state.
            self.kept = jax.tree.map(jnp.copy, Best(jnp.int32(self.step), params, model_state))
            self.kept_value = results[best_by.metric]
        if self.step % self.plan.evaluate_every == 0:
            self._observe(results)

    def _evaluation_point(self) -> tuple[Any, Any]:
        return evaluation_point(self.workload, self._state_on_first_device(), self.seed)

    def _observe(self, results: dict[str, float]) -> None:
        """Pass the results of an evaluation to the controllers."""
        told = self.state.opt_state
        for controller, metric in self.feedback.items():
            value = jax.device_put(jnp.float32(results[metric]), self.placement)
            told = observe(told, value=value, to=controller)
        if self.feedback:
            self._tell(told)

    def _tell(self, opt_state: Any) -> None:
        """Continue with an optimizer state that an observation or a callback has changed."""
        told = jax.device_put(opt_state, self.placement)
        self.state = self.program.judge(self.state, told, jnp.int32(self.step))

    def _call(self) -> bool:
        """Call the callbacks if it is their turn, and return whether it was."""
        plan = self.plan
        if not plan.callbacks or self.step == self.called_at:
            return False
        is_evaluated = self.curves.is_evaluated(self.step)
        shared = is_evaluated or self._due(plan.callback_every) or plan.callback_every is None
        turns = [
            (reader, callback)
            for reader, callback in enumerate(plan.callbacks)
            if (shared if interval_of(callback) is None else self._due(interval_of(callback)))
        ]
        if not turns:
            return False
        evaluations = self.curves.latest_evaluation() if is_evaluated else {}
        for reader, callback in turns:
            recent = self.curves.recent(reader)
            moment = Moment(self.step, plan.total, recent, evaluations, self.state, self.devices[0])
            try:
                opt_state, ends = answer_of(callback, moment, self.state.opt_state)
            finally:
                moment.close()
            self.ended = self.ended or ends
            if opt_state is not self.state.opt_state:
                self._tell(opt_state)
                self.changes.setdefault(str(self.step), []).append("a callback changed opt_state")
        self.called_at = self.step
        return True

    def _end_the_round(self) -> None:
        """Before the last step: have it apply what its round has gathered, if the round would not be full.

        The step after it would be another one in a longer run. So the newest checkpoint is that of this step, from
        which a longer run continues bit for bit.
        """
        if is_within_round(self.state.opt_state):
            if self.folder is not None and self.step > self.saved_step:
                self._save(self.folder)
            self.complete_at = self.step

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

    def _state_on_first_device(self) -> State:
        # What works on one device may not work on several, and evaluating on each would not be faster.
        return jax.device_put(self.state, self.devices[0])

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
            *self._state_on_first_device()[:3],
            self._best_seen() if self.plan.best_by is None else self.kept,
            self.resumed_at,
            {int(step): notes for step, notes in self.changes.items()},
            ended,
        )

    def _best_seen(self) -> Best | None:
        """Return the best that an `early_stopping` saw."""
        state = self._state_on_first_device()
        if not tracks_best(state.opt_state):
            return None
        best = state.best
        assert isinstance(best, Best)
        then = state._replace(model_state=best.model_state)
        return best._replace(model_state=model_state_at(self.workload, best.params, then, self.seed))

    def _interruption(self) -> TrainingInterrupted:
        message = f"stopped by Ctrl-C after {self.step:,} of {self.plan.total:,} steps. "
        if self.folder is None:
            message += "Nothing is saved, for want of checkpoint=FOLDER; the state is in the exception's history."
        else:
            message += f"Saved in {str(self.folder.path)!r}: start it again with the same arguments to go on."
        return TrainingInterrupted(message, self.step, self.history("interrupted"))

    def _divergence(self, loss: float, rate: float) -> DivergenceError:
        good = None
        if self.folder is not None:
            self.folder.discard(self.step)  # a checkpoint just before the failing step would fail again
            latest = self.folder.latest()
            good = None if latest is None else (self.folder.path, latest)
        epoch = self.step / self.workload.batches.steps_per_epoch
        return divergence_error(self.step, epoch, loss, rate, good, self.history("diverged"))
