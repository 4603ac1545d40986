"""The one training loop.

Many steps are one compiled call: a `lax.while_loop` over donated buffers that draws its minibatches from data on the
device, and that ends early at the step whose loss is not finite. It is a while loop rather than a scan because its
length is then an argument: one compilation serves segments of every length, so that progress, evaluations,
checkpoints and Ctrl-C come in time whatever a step costs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.reading import monitor
from lrx.training.checkpoints import CheckpointFolder
from lrx.training.progress import Progress
from lrx.training.workload import History, ModelState, Params, Workload

_BUFFER = 4096  # steps that a segment may have: the length of the buffers for what is recorded by step
_SEGMENT_SECONDS = 1.0  # how long one compiled call should take: the latency of Ctrl-C and of the progress bar


class DivergenceError(FloatingPointError):
    """The loss of a training run is not finite."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a training run, after its checkpoint was written."""


class _Carry(NamedTuple):
    params: Params
    model_state: ModelState
    opt_state: Any
    step: jax.Array  # () int32: completed steps


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
    progress: bool = False,
    stop_on_nonfinite: bool = True,
) -> History:
    """Train a workload.

    `tx.update` is given `value=loss`. The key of a step is a function of the seed and the step, and the permutation of
    an epoch of the seed and the epoch, so that a run that was stopped and resumed is the run that was not stopped, bit
    for bit. Where there are several devices and the batch divides among them, each takes its part of every batch.

    Args:
      workload: what to train.
      tx: any optax transformation whose updates are added to the parameters.
      epochs: passes through the examples, >= 1; give this or `steps`.
      steps: optimizer steps, >= 1.
      seed: of the initial parameters, the permutations and the keys of the steps.
      evaluate_every: epochs between two evaluations where the length is given in epochs, steps where it is given in
        steps; None takes one epoch. The last step is always evaluated.
      checkpoint: folder in which the run is kept; the same call goes on where it was, after `kill -9` too, and a call
        with more steps extends it. None keeps nothing.
      checkpoint_every: between two checkpoints, in the same unit; None takes one epoch, and never less than half a
        minute.
      resume: go on with a run that the folder holds; False refuses such a folder.
      progress: show a bar with loss, rate, examples per second and time left.
      stop_on_nonfinite: end the run at the step whose loss is not finite; False for transformations that recover.

    Returns:
      The `History` of the whole run, including what an earlier call did.

    Raises:
      ValueError: if not exactly one of `epochs` and `steps` is given, a number is out of range, or the folder holds a
        different run.
      DivergenceError: if a loss is not finite; the last good checkpoint stays.
      TrainingInterrupted: after Ctrl-C, when the checkpoint has been written; its message says how to go on.

    Example:
      >>> import lrx, jax.numpy as jnp
      >>> line = lrx.Workload.from_functions(
      ...     "line",
      ...     lambda key: jnp.zeros(()),
      ...     lambda slope, x, key: jnp.mean((slope * x - 3 * x) ** 2),
      ...     lrx.Batches(jnp.linspace(-1, 1, 32), batch_size=8),
      ... )
      >>> history = lrx.train(line, lrx.sgd(lrx.linear_decay(1.0, 40)), epochs=10)
      >>> print(history.params.round(2), history.rate[[0, -1]])
      3.0 [1.    0.025]
    """
    total = _total_steps(workload, epochs, steps)
    per_epoch = workload.batches.steps_per_epoch
    unit = per_epoch if steps is None else 1
    for name, value in (("evaluate_every", evaluate_every), ("checkpoint_every", checkpoint_every)):
        if value is not None:
            _checks.steps(name, value)
    evaluate_every = evaluate_every * unit if evaluate_every else per_epoch
    checkpoint_steps = checkpoint_every * unit if checkpoint_every else per_epoch
    tx = optax.with_extra_args_support(tx)

    key = jax.random.key(seed)
    mesh = _mesh(workload.batches.batch_size)
    place = _replicate(mesh)
    carry = _start(workload, tx, place(key))
    data = place(jax.tree.map(jnp.asarray, workload.batches.arrays))
    recorder = _Recorder(np.zeros(0, np.float32), np.zeros(0, np.float32), {}, [], {})

    folder = None
    if checkpoint is not None:
        about = {"workload": workload.name, "seed": seed, "batch_size": workload.batches.batch_size}
        folder = CheckpointFolder(Path(checkpoint), about, resume=resume)
        saved = folder.restore(carry)
        if saved is not None:
            carry, recorder = place(saved[0]), _Recorder.from_arrays(saved[1])
            if int(carry.step) > total:
                raise ValueError(
                    f"steps must be at least the {int(carry.step)} that the run in {folder.path} has done, got "
                    f"{total}: ask for more, or use another folder."
                )

    # More than the program's own names would keep the data of every workload alive.
    segment = _program(
        workload.loss_fn,
        tx,
        workload.batches.transform,
        workload.batches.batch_size,
        workload.batches.shuffle,
        min(total, _BUFFER),
        stop_on_nonfinite,
        mesh,
    )
    done, length = int(carry.step), 1
    saved_at, saved_time = done, time.monotonic()
    with _deferred_interrupt() as interrupted, Progress(progress, total, done, workload.batches.batch_size) as bar:
        while done < total:
            until = min(total, done + length, (done // evaluate_every + 1) * evaluate_every)
            started = time.perf_counter()
            carry, recorded = segment(carry, data, key, jnp.int32(min(until, done + _BUFFER)))
            now = int(carry.step)
            seconds = max(time.perf_counter() - started, 1e-6)
            # At most doubled each time: the first call's time is mostly the compilation's.
            length = int(min(max(_SEGMENT_SECONDS * (now - done) / seconds, 1), 2 * length, _BUFFER))
            recorder.append(recorded, now - done)
            if stop_on_nonfinite and not np.isfinite(recorder.loss[-1]):
                raise DivergenceError(_divergence(now - 1, recorder, folder))
            done = now
            bar.show(done, recorder.loss[-1], recorder.rate[-1])
            if workload.evaluate is not None and (done % evaluate_every == 0 or done == total):
                recorder.evaluate(done, workload.evaluate(carry.params, carry.model_state))
                bar.evaluated({name: values[-1] for name, values in recorder.evaluations.items()})
            if folder is not None:
                due = done - saved_at >= checkpoint_steps
                # Unless asked for, writing should not take a noticeable part of the time.
                due = due and (checkpoint_every is not None or time.monotonic() - saved_time > 30)
                if (due or done == total or interrupted.is_set()) and _all_finite(carry.params):
                    folder.save(done, carry, recorder.to_arrays())
                    saved_at, saved_time = done, time.monotonic()
            if interrupted.is_set() and done < total:
                raise TrainingInterrupted(
                    f"stopped after step {done} of {total}. "
                    + (
                        f"The run is saved in {folder.path}: the same call goes on from here."
                        if folder is not None
                        else "Nothing was saved: give checkpoint=FOLDER to be able to go on."
                    )
                )
    return History(
        loss=recorder.loss,
        rate=recorder.rate,
        metrics=recorder.metrics,
        evaluation_steps=np.asarray(recorder.evaluation_steps, np.int32),
        evaluations={name: np.asarray(values, np.float32) for name, values in recorder.evaluations.items()},
        params=carry.params,
        model_state=carry.model_state,
        opt_state=carry.opt_state,
    )


def _total_steps(workload: Workload, epochs: int | None, steps: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise ValueError(f"exactly one of epochs and steps must be given, got epochs={epochs}, steps={steps}.")
    if steps is not None:
        _checks.steps("steps", steps)
        return int(steps)
    _checks.steps("epochs", epochs)
    total = int(epochs) * workload.batches.steps_per_epoch  # type: ignore[arg-type]
    _checks.steps("epochs * steps_per_epoch", total)
    return total


def _mesh(batch_size: int) -> jax.sharding.Mesh | None:
    devices = jax.local_devices()
    if len(devices) == 1 or batch_size % len(devices):
        return None
    return jax.sharding.Mesh(np.asarray(devices), ("batch",))


def _replicate(mesh: jax.sharding.Mesh | None) -> Callable[[Any], Any]:
    if mesh is None:
        return lambda tree: jax.tree.map(jnp.asarray, tree)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return lambda tree: jax.device_put(tree, everywhere)


def _start(workload: Workload, tx: optax.GradientTransformationExtraArgs, key: jax.Array) -> _Carry:
    # Each output of a compiled function has a buffer of its own, so all of them can be donated.
    @jax.jit
    def start(key: jax.Array) -> _Carry:
        params, model_state = workload.init(jax.random.fold_in(key, 0))
        return _Carry(params, model_state, tx.init(params), jnp.zeros([], jnp.int32))

    return start(key)


def _reported(opt_state: Any) -> dict[str, jax.Array]:
    report = {name: jnp.asarray(value, jnp.float32) for name, value in monitor(opt_state).items()}
    # Where there are several groups, their rates are among the metrics.
    return {"": report.pop("learning_rate", jnp.float32(jnp.nan)), **report}


@functools.lru_cache(maxsize=16)
def _program(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformationExtraArgs,
    transform: Callable[[Any, jax.Array], Any],
    batch_size: int,
    shuffle: bool,
    buffer: int,
    stop_on_nonfinite: bool,
    mesh: jax.sharding.Mesh | None,
) -> Callable[..., tuple[_Carry, dict[str, jax.Array]]]:
    """Compile "train from carry.step to `until`", once for a loss and an optimizer."""

    def minibatch(data: Any, order: jax.Array, step: jax.Array, key: jax.Array) -> Any:
        position = step % (order.shape[0] // batch_size) * batch_size
        chosen = jax.lax.dynamic_slice_in_dim(order, position, batch_size)
        batch = jax.tree.map(lambda leaf: jnp.take(leaf, chosen, axis=0), data)
        if mesh is not None:
            parts = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
            batch = jax.lax.with_sharding_constraint(batch, parts)
        return transform(batch, key)

    @functools.partial(jax.jit, donate_argnums=0)
    def segment(carry: _Carry, data: Any, key: jax.Array, until: jax.Array) -> tuple[_Carry, dict[str, jax.Array]]:
        begin = carry.step
        examples = jax.tree.leaves(data)[0].shape[0]
        order_key, step_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)

        def order_at(step: jax.Array) -> jax.Array:
            epoch = step // (examples // batch_size)
            if not shuffle:
                return jnp.arange(examples)
            return jax.random.permutation(jax.random.fold_in(order_key, epoch), examples)

        def one_step(state: tuple[_Carry, jax.Array, Any, jax.Array]) -> tuple[_Carry, jax.Array, Any, jax.Array]:
            carry, order, records, _ = state
            starts = carry.step % (examples // batch_size) == 0
            order = jax.lax.cond(starts, order_at, lambda _: order, carry.step)
            batch_key, loss_key = jax.random.split(jax.random.fold_in(step_key, carry.step))
            batch = minibatch(data, order, carry.step, batch_key)
            (loss, model_state), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                carry.params, carry.model_state, batch, loss_key
            )
            updates, opt_state = tx.update(grads, carry.opt_state, carry.params, value=loss)
            params = optax.apply_updates(carry.params, updates)
            now = {"loss": jnp.asarray(loss, jnp.float32), **_reported(opt_state)}
            at = carry.step - begin
            records = {name: records[name].at[at].set(value) for name, value in now.items()}
            return _Carry(params, model_state, opt_state, carry.step + 1), order, records, jnp.isfinite(now["loss"])

        def goes_on(state: tuple[_Carry, jax.Array, Any, jax.Array]) -> jax.Array:
            carry, _, _, finite = state
            return (carry.step < until) & (finite | (not stop_on_nonfinite))

        names = ["loss", *jax.eval_shape(_reported, carry.opt_state)]
        records = {name: jnp.zeros(buffer, jnp.float32) for name in names}
        start = (carry, order_at(carry.step), records, jnp.array(True))
        carry, _, records, _ = jax.lax.while_loop(goes_on, one_step, start)
        return carry, records

    return segment


@dataclasses.dataclass
class _Recorder:
    """The history so far."""

    loss: np.ndarray
    rate: np.ndarray
    metrics: dict[str, np.ndarray]
    evaluation_steps: list[int]
    evaluations: dict[str, list[float]]

    def append(self, records: dict[str, jax.Array], length: int) -> None:
        new = {name: np.asarray(values)[:length] for name, values in jax.device_get(records).items()}
        self.loss = np.concatenate([self.loss, new.pop("loss")])
        self.rate = np.concatenate([self.rate, new.pop("")])
        empty = np.zeros(0, np.float32)
        self.metrics = {name: np.concatenate([self.metrics.get(name, empty), values]) for name, values in new.items()}

    def evaluate(self, step: int, values: dict[str, jax.Array]) -> None:
        # A run that is extended was evaluated at its old end already.
        if self.evaluation_steps and self.evaluation_steps[-1] == step:
            return
        self.evaluation_steps.append(step)
        for name, value in jax.device_get(values).items():
            self.evaluations.setdefault(name, []).append(float(value))

    def to_arrays(self) -> dict[str, np.ndarray]:
        arrays = {"loss": self.loss, "rate": self.rate, "steps": np.asarray(self.evaluation_steps, np.int64)}
        arrays |= {f"metric {name}": values for name, values in self.metrics.items()}
        return arrays | {f"evaluation {name}": np.asarray(values) for name, values in self.evaluations.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> _Recorder:
        def named(kind: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(kind): values for name, values in arrays.items() if name.startswith(kind)}

        evaluations = {name: values.tolist() for name, values in named("evaluation ").items()}
        return cls(arrays["loss"], arrays["rate"], named("metric "), arrays["steps"].tolist(), evaluations)


def _divergence(step: int, recorder: _Recorder, folder: CheckpointFolder | None) -> str:
    used = recorder.rate[-2] if len(recorder.rate) > 1 else recorder.rate[-1]
    kept = "" if folder is None else f" The last good checkpoint stays in {folder.path}."
    return (
        f"the loss must be finite, got {recorder.loss[-1]} at step {step}, after a learning rate of {used:.3g}: lower "
        "the rate (a tenth is a good next try), warm it up (lrx.warmup), or clip the gradients "
        f"(optax.clip_by_global_norm(1.0)).{kept}"
    )


@jax.jit
def _all_finite(params: Params) -> jax.Array:
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.array(True)


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C wait for the compiled call under way, whose buffers would be lost; a second one does not wait."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals are the main thread's
        return

    def handle(number: int, frame: Any) -> None:
        if event.is_set():
            signal.default_int_handler(number, frame)
        event.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
