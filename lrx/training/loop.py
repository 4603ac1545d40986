"""The one training loop: compiled segments of about a second, and between them what a run needs."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.controllers.early_stopping import judges
from lrx.controllers.rollback import recovers
from lrx.direction import require_descent
from lrx.reading import can_stop, observe, stopped
from lrx.training.batch_stats import evaluation_point, model_state_at
from lrx.training.checkpoints import OtherRunError, RunFolder, listed
from lrx.training.identity import Identity, as_json, differences, run_identity
from lrx.training.program import SEGMENT_STEPS, State, compiled, local_devices, placement
from lrx.training.progress import Status, reporter
from lrx.training.workload import Best, History, Workload

SEGMENT_SECONDS = 1.0  # how long a compiled call should take
SEGMENT_GROWTH = 8  # at most; a short call tells little about the time that a long one will take
CHECKPOINT_SECONDS = 30.0  # between two checkpoints where `checkpoint_every` is not given


class DivergenceError(FloatingPointError):
    """The loss is not finite, and training stopped at that very step, before its update.

    Attributes:
      step: completed updates, whose number is the index of the step that failed.
      loss: NaN or infinite.
      rate: the learning rate that the update would have had, NaN where the state holds none.
      history: the `History` up to the step, with the state before it.
    """

    def __init__(self, message: str, step: int, loss: float, rate: float, history: History) -> None:
        super().__init__(message)
        self.step, self.loss, self.rate, self.history = step, loss, rate, history


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C stopped the run between two steps, after its checkpoint was written if it keeps any.

    Attributes:
      step: completed steps.
      history: the `History` up to the step.
    """

    def __init__(self, message: str, step: int, history: History) -> None:
        super().__init__(message)
        self.step, self.history = step, history


def train(
    workload: Workload,
    tx: optax.GradientTransformation,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    evaluate_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    on_mismatch: str = "error",
    progress: bool = False,
    stop_on_nonfinite: bool = True,
    observe: str | None = None,
) -> History:
    """Train a workload with an optimizer, every step inside of compiled loops.

    The data stay on the device; a minibatch is drawn, transformed and used in the compiled step. The keys of step t
    and the permutation of epoch e are functions of the seed and t or e alone. Where there are several local devices
    and their number divides the batch size, the batch is split over them and the parameters are on all of them
    (results are the same up to rounding); `jax.config.jax_default_device`, if set, is used alone.

    `tx.update` gets `params`, and `value=loss`, `grad=` and `value_fn=` as optax's line searches take them; what takes
    no extra arguments gets none. Evaluations are at `lrx.eval_params(opt_state, params)`; where those are others than
    the parameters that are trained and the model has batch statistics, they are computed anew with
    `recompute_batch_stats`.

    Args:
      workload: model, data and loss.
      tx: any optax transformation; with a rate of lrx in it the history holds the rate.
      epochs: length of the run; give this or `steps`.
      steps: length of the run.
      seed: of initial parameters, permutations, transforms and loss, 0 to 2^31 - 1.
      evaluate_every: between two evaluations, in epochs where `epochs` is given, in steps where `steps` is; by default
        an epoch. The end of a run is always evaluated.
      checkpoint: folder of this run, made where it does not exist. The newest three checkpoints are kept.
      checkpoint_every: between two checkpoints, in the unit of `evaluate_every`; by default half a minute. The end of
        a run is always kept.
      resume: go on where the folder's newest checkpoint is, bit for bit as if the run had not stopped; a run that is
        complete gives its history without training, and a longer `epochs` or `steps` extends it. With False the folder
        must hold no run. What is resumed is said on stderr, and in `history.resumed_at`.
      on_mismatch: what happens where the folder holds a run that was made with something else: another rate or constant
        of `tx`, another loss, other data, another seed or version (`lrx.training.identity`). "error" refuses it and
        names the differences. "continue" goes on from there with what is given, as far as the state has the same
        structure; `history.changes` says from which step on, and what changed.
      progress: show loss, rate, speed and time left: a bar on a terminal, otherwise a line every ten seconds.
      stop_on_nonfinite: stop at a loss that is NaN or infinite. With False the update is made, for transformations
        that recover by themselves (`optax.apply_if_finite`) and runs that may well diverge (range tests). What
        `rollback_on_divergence` wraps is never stopped by it.
      observe: the name of a result of the workload's `evaluate`, such as "loss", that controllers with
        `feedback="observed"` are given after every evaluation; an `early_stopping` among them ends the run, and
        `history.best` is what it saw at its best.

    Returns:
      The `History` from step 0 on, also of a resumed run.

    Raises:
      ValueError: if not exactly one of `epochs` and `steps` is given, a number is not whole or out of range, the folder
        cannot be written, holds another run, a longer one, or any with `resume=False`, or if the updates of `tx`
        ascend (`lrx.direction.require_descent`); before the run is compiled.
      TypeError: if an argument is of another type, or `loss_fn` or `tx` change the type of the state.
      DivergenceError: if the loss is not finite: a `FloatingPointError` with the step, the rate and the history. The
        checkpoints before that step stay.
      TrainingInterrupted: after Ctrl-C: a `KeyboardInterrupt` with the history. The state is saved first if there is a
        folder. A second Ctrl-C stops at once.
      ImportError: if `checkpoint` is given and orbax is not installed.

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches, Workload, train
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> workload = Workload.from_functions(
      ...     "line",
      ...     lambda key: {"slope": jax.random.normal(key)},
      ...     lambda params, batch, key: jnp.mean((params["slope"] * batch[0] - batch[1]) ** 2),
      ...     Batches((x, 3.0 * x), batch_size=16),
      ... )
      >>> history = train(workload, lrx.sgd(lrx.linear_decay(0.8, decay_steps=80)), epochs=20)
      >>> history.loss.shape, round(float(history.params["slope"]), 3)
      ((80,), 3.0)
      >>> print(history.rate[[0, 40]].round(3))
      [0.8 0.4]
    """
    _require_workload(workload, tx)
    total, unit = _length(epochs, steps, workload.batches.steps_per_epoch)
    evaluate_steps = _interval("evaluate_every", evaluate_every, unit) or workload.batches.steps_per_epoch
    checkpoint_steps = _interval("checkpoint_every", checkpoint_every, unit)
    _checks.seed(seed)
    for name, value in (("resume", resume), ("progress", progress), ("stop_on_nonfinite", stop_on_nonfinite)):
        _checks.flag(name, value)

    _checks.one_of("on_mismatch", on_mismatch, ("error", "continue"))

    if observe is not None and workload.evaluate is None:
        raise ValueError(
            f"observe needs a workload that evaluates, got observe={observe!r} and one without: give "
            "Workload.from_functions(..., evaluate=...)."
        )

    run = _Run(workload, tx, int(seed), total, stop_on_nonfinite, observe)
    with contextlib.ExitStack() as stack:
        if checkpoint is not None:
            run.folder = stack.enter_context(contextlib.closing(RunFolder(checkpoint)))
        run.begin(resume, on_mismatch, evaluate_steps)
        arrays = jax.tree.leaves(workload.batches.arrays)
        status = reporter(
            progress,
            workload.name,
            step=run.step,
            total=total,
            batch_size=workload.batches.batch_size,
            unit="images" if any(array.ndim >= 3 for array in arrays) else "examples",
        )
        interrupted = stack.enter_context(_ctrl_c())
        stack.enter_context(status)
        run.go(evaluate_steps, checkpoint_steps, status, interrupted)
    return run.history()


def _require_workload(workload: Any, tx: Any) -> None:
    if not isinstance(workload, Workload):
        raise TypeError(f"workload must be an lrx.training.Workload, got a {type(workload).__name__}.")
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(f"tx must be an optax transformation, with init and update, got a {type(tx).__name__}.")


def _length(epochs: Any, steps: Any, steps_per_epoch: int) -> tuple[int, int]:
    """Give the number of steps of the run, and of the unit that its intervals are given in."""
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"exactly one of epochs and steps must be given, got epochs={epochs}, steps={steps}: the other follows "
            f"from {steps_per_epoch} steps per epoch."
        )
    if steps is not None:
        _checks.steps("steps", steps)
        return int(steps), 1
    _checks.positive("epochs", epochs)
    _checks.steps("epochs", epochs)
    _checks.steps("epochs * steps_per_epoch", epochs * steps_per_epoch)
    return int(epochs) * steps_per_epoch, steps_per_epoch


def _interval(name: str, value: Any, unit: int) -> int | None:
    if value is None:
        return None
    _checks.steps(name, value)
    return int(value) * unit


@contextlib.contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C wait for the end of a segment: tell by the function given whether there was one.

    An exception in the middle of a compiled call would lose the state, whose buffers the call has taken over. Another
    handler than Python's own is left in its place; other threads get no signals.
    """
    pressed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True
        print("Ctrl-C: stopping in about a second; once more to stop at once, without saving.", file=sys.stderr)

    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Run:
    """A run on the host: its state on the device, and what is recorded of it."""

    folder: RunFolder | None = None
    state: State

    def __init__(
        self,
        workload: Workload,
        tx: optax.GradientTransformation,
        seed: int,
        total: int,
        stop_on_nonfinite: bool,
        observed: str | None,
    ) -> None:
        self.workload, self.tx, self.seed, self.total, self.observed = workload, tx, seed, total, observed
        self.devices = local_devices(workload.batches)
        self.placement, _ = placement(self.devices)
        self.program = compiled(workload, tx, stop_on_nonfinite=stop_on_nonfinite)
        keys = jax.device_put(tuple(jax.random.split(jax.random.key(seed))), self.placement)
        self.init_key, self.key = keys
        self.step = 0
        self.resumed_at: int | None = None
        self.changes: dict[str, list[str]] = {}  # by the step from which on they hold
        self.curves: dict[str, list[np.ndarray]] = {}
        self.evaluations: dict[str, list[float]] = {}
        self.evaluation_steps: list[int] = []
        self.saved_step, self.saved_at = 0, time.monotonic()

    def begin(self, resume: bool, on_mismatch: str, evaluate_steps: int) -> None:
        """Make the initial state, or read the newest checkpoint."""
        self.evaluate_steps = evaluate_steps
        latest = None if self.folder is None else self.folder.latest()
        shapes = jax.eval_shape(self.program.initialize, self.init_key)
        if self.observed is not None:  # raises where nothing in the state takes it, before the first epoch is made
            jax.eval_shape(lambda state: observe(state, value=0.0), shapes.opt_state)
        if latest is None or latest < self.total:
            require_descent(self.tx, shapes.params)
        if self.folder is None or latest is None:
            self.state = self.program.initialize(self.init_key)
            self._require_observed()
            return
        where = f"checkpoint={str(self.folder.path)!r} holds a run that has made {latest:,} steps"
        if not resume:
            raise ValueError(
                f"{where}, which resume=False would overwrite: give another folder, delete this one, or go on with "
                "resume=True."
            )
        self._require_same_run(self.folder, on_mismatch)
        if latest > self.total:
            raise ValueError(f"{where}, got a length of {self.total:,}: give at least that, or another folder.")
        self.step, state, history = self.folder.restore(shapes)
        self.resumed_at = self.step
        self._say(f"resumed at step {self.step:,}" if self.step < self.total else "complete, nothing is trained")
        self.state = jax.device_put(state, self.placement)
        self.saved_step = self.step
        self.evaluation_steps = [int(step) for step in history.pop("evaluation_steps", ())]
        for name, recorded in history.items():
            if name.startswith("evaluations/"):
                self.evaluations[name.removeprefix("evaluations/")] = recorded.tolist()
            else:
                self.curves[name] = [recorded]
        # The end of a shorter run was evaluated out of turn; the longer run would not have stopped there.
        last = self.evaluation_steps[-1] if self.evaluation_steps else 0
        if last % evaluate_steps and last < self.total:
            self.evaluation_steps.pop()
            for values in self.evaluations.values():
                values.pop()

    def _require_same_run(self, folder: RunFolder, on_mismatch: str) -> None:
        """Raise a ValueError if the folder holds another run, or note from where on this one is another."""
        found = folder.identity()
        self.changes = found.pop("changes", {})
        unlike = differences(found, self._identity)
        if not unlike:
            return
        where = f"checkpoint={str(folder.path)!r} holds another run, at step {folder.latest():,}: {listed(unlike)}."
        if on_mismatch == "error":
            raise OtherRunError(
                f"{where} Give another folder, delete this one if that run is not wanted any more, or go on from it "
                'with what is given, on_mismatch="continue".',
                folder.path,
                unlike,
            )
        for name in ("params", "model_state", "opt_state"):
            if found.get(name) != self._identity[name]:
                raise ValueError(f"{where} Its state has another structure, from which this run cannot go on.")
        self.changes[str(folder.latest())] = unlike
        self._say(f"goes on with something else from step {folder.latest():,}: {listed(unlike)}")

    def _say(self, what: str) -> None:
        print(f"{self.workload.name}: {what}", file=sys.stderr)

    def go(
        self,
        evaluate_steps: int,
        checkpoint_steps: int | None,
        status: Status,
        interrupted: Callable[[], bool],
    ) -> None:
        """Train to the end."""
        arrays = jax.device_put(self.workload.batches.arrays, self.placement)
        length = 1
        compiling = True
        while True:
            evaluated = bool(self.evaluation_steps) and self.evaluation_steps[-1] == self.step
            if self._due(evaluate_steps) and not evaluated and not interrupted():
                self._evaluate()
                if self.step % evaluate_steps == 0:
                    self._observe()
                status.evaluations = {name: values[-1] for name, values in self.evaluations.items()}
            if self.folder is not None and self.step > self.saved_step:
                waited = time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
                if self._due(checkpoint_steps) or (checkpoint_steps is None and waited) or interrupted():
                    self._save(self.folder)
            if interrupted():
                raise self._interruption()
            if self._finished():
                return
            if compiling:  # A call that makes no step compiles, and so the clock shows how long steps take.
                self._segment(arrays, self.step)
                status.start()
                compiling = False
            stop = min(
                self.total,
                self.step + length,
                *(_next_multiple(self.step, every) for every in (evaluate_steps, checkpoint_steps) if every),
            )
            first, began = self.step, time.monotonic()
            self._segment(arrays, stop)
            done, elapsed = self.step - first, time.monotonic() - began
            status.update(self.step, float(np.mean(self.curves["loss"][-1])), float(self.curves["rate"][-1][-1]))
            wanted = int(SEGMENT_SECONDS / max(elapsed, 1e-9) * done)
            length = max(1, min(wanted, SEGMENT_GROWTH * done, SEGMENT_STEPS))

    def _due(self, every: int | None) -> bool:
        """Whether what is done every so many steps, and at the end, is to be done now."""
        return self.step > 0 and (self._finished() or (every is not None and self.step % every == 0))

    def _finished(self) -> bool:
        """Whether the run is at its end, or a controller has ended it."""
        return self.step == self.total or (can_stop(self.state.opt_state) and bool(stopped(self.state.opt_state)))

    def _segment(self, arrays: Any, stop: int) -> None:
        start = self.step
        self.state, completed, curves = self.program.segment(
            self.state, arrays, self.key, jnp.int32(start), jnp.int32(stop)
        )
        self.step = int(completed)
        recorded = {name: np.asarray(values) for name, values in curves.items()}
        for name, values in recorded.items():
            self.curves.setdefault(name, []).append(values[: self.step - start].copy())
        if can_stop(self.state.opt_state) and bool(stopped(self.state.opt_state)):
            if recovers(self.state.opt_state):
                raise self._given_up()
        elif self.step < stop:
            failed = {name: float(recorded[name][self.step - start]) for name in ("loss", "rate")}
            raise self._divergence(**failed)

    def _evaluate(self) -> None:
        evaluate = self.workload.evaluate
        if evaluate is None:
            return
        results = evaluate(*self._evaluation_point())
        if self.evaluation_steps and results.keys() != self.evaluations.keys():
            raise ValueError(
                f"evaluate must always return the same names, got {sorted(results)} after {sorted(self.evaluations)}."
            )
        for name, value in results.items():
            if np.ndim(value) != 0:
                raise ValueError(
                    f"evaluate must return scalars, got {name!r} of shape {np.shape(value)}: take the mean."
                )
        for name, value in jax.device_get(results).items():
            self.evaluations.setdefault(name, []).append(float(np.float32(value)))
        self.evaluation_steps.append(self.step)

    def _evaluation_point(self) -> tuple[Any, Any]:
        return evaluation_point(self.workload, self._state_on_first_device(), self.seed)

    def _best(self) -> Best | None:
        state = self._state_on_first_device()
        if not judges(state.opt_state):
            return None
        best = state.best
        assert isinstance(best, Best)
        then = state._replace(model_state=best.model_state)
        return best._replace(model_state=model_state_at(self.workload, best.params, then, self.seed))

    def _require_observed(self) -> None:
        """Evaluate once, to see that the name is there: at the end of the first epoch it would be late."""
        if self.observed is None or self.workload.evaluate is None:
            return
        results = self.workload.evaluate(*self._evaluation_point())
        if self.observed not in results:
            raise ValueError(
                f"observe must be one of the results of evaluate, {sorted(results)}, got observe={self.observed!r}."
            )

    def _observe(self) -> None:
        """Give the controllers what has just been evaluated."""
        if self.observed is None:
            return
        value = jnp.float32(self.evaluations[self.observed][-1])
        told = observe(self.state.opt_state, value=jax.device_put(value, self.placement))
        told = jax.device_put(told, self.placement)
        self.state = self.program.judged(self.state, told, jnp.int32(self.step))

    def _save(self, folder: RunFolder) -> None:
        folder.save(self.step, self.state, self._recorded(), {**self._identity, "changes": self.changes})
        self.saved_step, self.saved_at = self.step, time.monotonic()

    @functools.cached_property
    def _identity(self) -> Identity:
        observing = (
            {} if self.observed is None else {"feedback_metric": self.observed, "evaluate_every": self.evaluate_steps}
        )
        return as_json(run_identity(self.workload, self.tx, seed=self.seed, **observing))

    def _state_on_first_device(self) -> State:
        # What works on one device need not work on several, and evaluating on each would be no faster.
        return jax.device_put(self.state, self.devices[0])

    def _recorded(self) -> dict[str, np.ndarray]:
        recorded = {name: np.concatenate(pieces) for name, pieces in self.curves.items()}
        for name, values in self.evaluations.items():
            recorded[f"evaluations/{name}"] = np.asarray(values, np.float32)
        recorded["evaluation_steps"] = np.asarray(self.evaluation_steps, np.int32)
        return recorded

    def history(self) -> History:
        """Give what the run has left until now."""
        recorded = self._recorded()
        nothing = np.zeros(0, np.float32)

        def of(group: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(group): values for name, values in recorded.items() if name.startswith(group)}

        return History(
            recorded.get("loss", nothing),
            recorded.get("rate", nothing),
            of("metrics/"),
            of("evaluations/"),
            recorded["evaluation_steps"],
            *self._state_on_first_device()[:3],
            self._best(),
            self.resumed_at,
            {int(step): unlike for step, unlike in self.changes.items()},
        )

    def _interruption(self) -> TrainingInterrupted:
        message = f"stopped by Ctrl-C after {self.step:,} of {self.total:,} steps. "
        if self.folder is None:
            message += "Nothing is saved, for want of checkpoint=FOLDER; the state is in the exception's history."
        else:
            message += f"Saved in {str(self.folder.path)!r}: start it again with the same arguments to go on."
        return TrainingInterrupted(message, self.step, self.history())

    def _given_up(self) -> DivergenceError:
        history = self.history()
        loss, rate = (float(values[-1]) for values in (history.loss, history.rate))
        message = (
            f"the run diverged again at step {self.step - 1:,} after the last of its rollbacks, and stopped with the "
            "parameters from before, which are in the exception's history. Try a lower rate, or more max_rollbacks."
        )
        return DivergenceError(message, self.step, loss, rate, history)

    def _divergence(self, loss: float, rate: float) -> DivergenceError:
        epoch = self.step / self.workload.batches.steps_per_epoch
        at = "" if math.isnan(rate) else f", at a learning rate of {rate:.6g}"
        message = (
            f"the loss is {loss} at step {self.step:,} (epoch {epoch:.1f}){at}. Try a lower rate, a warm-up, "
            "lrx.warmup(schedule, steps), or clipping, optax.clip_by_global_norm(1.0) before the optimizer; where this "
            "is step 0, look at the data."
        )
        if self.folder is not None:
            self.folder.discard(self.step)  # made just before the step that failed, it would fail again
            good = self.folder.latest()
            if good is not None:
                message += (
                    f" The checkpoint of step {good:,} in {str(self.folder.path)!r} is good: the same call with "
                    'another rate and on_mismatch="continue" goes on from there.'
                )
        return DivergenceError(message, self.step, loss, rate, self.history())


def _next_multiple(step: int, every: int) -> int:
    return (step // every + 1) * every
