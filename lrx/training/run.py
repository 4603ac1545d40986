"""A run on the host: evaluations, checkpoints, callbacks and progress between compiled segments."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from lrx.observing import observe
from lrx.run_state import can_stop, gave_up, stopped
from lrx.training.callbacks import Moment, answer_of, interval_of
from lrx.training.divergence import final_divergence_error
from lrx.training.feed import Feed
from lrx.training.history import Best
from lrx.training.layout import put, put_data
from lrx.training.pace import Pace
from lrx.training.program import SEGMENT_STEPS
from lrx.training.progress import ProgressMeter
from lrx.training.rounds import describe_rest, is_within_round
from lrx.training.stored_run import StoredRun
from lrx.training.turns import agree_on_end, report_failure, take_turn

CHECKPOINT_SECONDS = 30.0  # between two checkpoints if `checkpoint_every` is not given


class Run(StoredRun):
    """A run: segments of compiled steps, and what the host does between them."""

    # --- the loop

    def go(self, status: ProgressMeter, interrupted: Callable[[], bool]) -> None:
        """Train to the end."""
        batches = self.workload.batches
        self.feed = Feed(
            batches,
            self.step,
            self.plan.total,
            put_data(batches, self.layout),
            position=self.position,
            keeps_positions=self.folder is not None,
        )
        try:
            self._go(status, interrupted)
        finally:
            self.feed.close()

    def _go(self, status: ProgressMeter, pressed: Callable[[], bool]) -> None:
        plan = self.plan
        pace = Pace(SEGMENT_STEPS)
        compiling = True
        while True:
            waits = time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
            length, waited, interrupted = take_turn(pace.length, waits, pressed, together=self.layout.spans_processes)
            is_evaluated = self.curves.is_evaluated(self.step)
            if self._due(plan.evaluate_every) and not is_evaluated and not interrupted():
                self._evaluate()
                status.show_evaluation(self.step, self.curves.latest_evaluation())
            if self._call() and self.ended:
                continue  # the end is evaluated
            if self.folder is not None and self.step > self.saved_step:
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
            found = self._next_minibatches(interrupted)
            if found is None:
                continue  # interrupted
            arrays, end = found
            if compiling:  # A call without steps compiles the program, so the clock measures only steps.
                self._segment(arrays, self.step)
                status.start()
                compiling = False
            stop = min(self.step + length, self._next_stop(), end)
            first = self.step
            pace.begin()
            self._segment(arrays, stop)
            pace.end(self.step - first)
            status.update(self.step, float(np.mean(self.curves.latest("loss"))), float(self.curves.latest("rate")[-1]))

    def _next_minibatches(self, interrupted: Callable[[], bool]) -> tuple[Any, int] | None:
        """Return the arrays with the next minibatches, and the step before which those of all processes end.

        An error in one process ends all of them, instead of leaving the others to wait for it.
        """
        together = self.layout.spans_processes
        try:
            found = self.feed.at(self.step, interrupted)
        except Exception:
            report_failure(together=together)
            raise
        return None if found is None else (found[0], agree_on_end(found[1], together=together))

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
            self.state, arrays, self.keys, np.int32(start), np.int32(stop), np.int32(self.complete_at)
        )
        self.step = int(completed)
        recorded = {name: np.asarray(values) for name, values in curves.items()}
        self.curves.extend(recorded, self.step - start)
        if can_stop(self.state.opt_state) and bool(stopped(self.state.opt_state)):
            if gave_up(self.state.opt_state):
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

    def _observe(self, results: dict[str, float]) -> None:
        """Pass the results of an evaluation to the controllers."""
        told = self.state.opt_state
        for controller, metric in self.feedback.items():
            value = put(np.float32(results[metric]), self.everywhere)
            told = observe(told, value=value, to=controller)
        if self.feedback:
            self._tell(told)

    def _tell(self, opt_state: Any) -> None:
        """Continue with an optimizer state that an observation or a callback has changed."""
        shardings = self.program.shardings
        told = put(opt_state, shardings if isinstance(shardings, Sharding) else shardings.opt_state)
        self.state = self.program.judge(self.state, told, np.int32(self.step))

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
            moment = Moment(self.step, plan.total, recent, evaluations, self.state, self._reader())
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
