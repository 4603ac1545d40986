"""`train`: its arguments, and the run that it builds from them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from lrx import _checks
from lrx.training.batches import Batches
from lrx.training.callbacks import Moment, as_callbacks
from lrx.training.checkpoints import KEPT, CheckpointFolder
from lrx.training.following import best_by
from lrx.training.history import History
from lrx.training.interrupt import ctrl_c
from lrx.training.layout import layout_of, require_shares
from lrx.training.progress import reporter, require_progress
from lrx.training.records import Records
from lrx.training.run import Run
from lrx.training.settings import Settings
from lrx.training.workload import Workload, require_workload


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
    keep: int | Sequence[int] = KEPT,
    resume: bool = True,
    resume_from: int | str | os.PathLike[str] | None = None,
    on_mismatch: str = "error",
    init: Any = None,
    callback: Callable[[Moment], Any] | Sequence[Callable[[Moment], Any]] | None = None,
    callback_every: int | None = None,
    keep_best: str | tuple[str, str] | None = None,
    feedback_metric: str | Mapping[str, str | None] | None = None,
    progress: bool | str | None = None,
    stop_on_nonfinite: bool = True,
    mesh: Mesh | None = None,
    param_sharding: Any = None,
) -> History:
    """Train a workload with an optimizer, with every step inside a compiled loop.

    The data stay on the device; a minibatch is drawn, transformed and used in the compiled step. The keys of step t
    and the permutation of epoch e depend on the seed and on t or e only. If there are several local devices and
    their number divides the batch size, the batch is split over them and the parameters are on all of them (results
    are the same up to rounding). Data that were put on certain devices, by `jax.device_put(arrays, device)`, are used
    there; for other data, `jax.config.jax_default_device`, if set, is the only device used.

    `tx.update` is passed `params` and, if it takes them, `value=loss`, `grad=`, `value_fn=` (for optax's line searches)
    and `grad_fn=` (for `optax.contrib.sam`). If the run ends within a round of `lrx.accumulate`, its last step applies
    the gradients gathered so far; the newest checkpoint is then that of the step before.

    Evaluations use `lrx.eval_params(opt_state, params)`. If those differ from the trained parameters and the model has
    batch statistics, `recompute_batch_stats` recomputes the statistics.

    Args:
      workload: model, data and loss.
      tx: any optax transformation; if it contains a rate of lrx, the history holds the rate.
      epochs: length of the run; give this or `steps`.
      steps: length of the run.
      seed: seed of initial parameters, permutations, transforms and loss, 0 to 2^31 - 1.
      evaluate_every: interval of evaluations, in epochs if `epochs` is given, in steps if `steps` is; by default an
        epoch. The end of a run is always evaluated. If a resumed run is given another interval, it holds for the
        remaining steps, and stderr says so.
      checkpoint: folder of this run, created if it does not exist.
      checkpoint_every: interval of checkpoints, in the unit of `evaluate_every`; by default half a minute. The end of a
        run is always kept.
      keep: number of newest checkpoints to keep; or a list of steps whose checkpoints are written and kept permanently,
        besides the newest three, so that several runs can branch from there.
      resume: continue from the newest checkpoint of the folder, bit for bit as if the run had not stopped. A complete
        run returns its history without training, and a longer `epochs` or `steps` extends it. With False the folder
        must hold no run. A line on stderr and `history.resumed_at` say where the run was resumed.
      resume_from: the checkpoint to continue from, in place of the newest: a step whose checkpoint is in `checkpoint`
        (those of later steps are deleted), or the checkpoint of another run, "runs/stable/1000", from which this one
        branches into its own folder. A branch that has begun continues from its own newest checkpoint; a folder that
        holds any other run is refused.
      on_mismatch: what to do if the folder holds a run that was made with another rate or constant of `tx`, another
        loss, other data, another seed or version (`lrx.training.identity`). "error" refuses it and names the
        differences. "continue" uses the arguments given, if the state has the same structure;
        `history.changes` holds the step and the differences. No single call describes such a folder, so later calls
        need "continue" too.
      init: initial values in place of drawn ones: a `History` of an earlier run, its `best`, `(params, model_state,
        opt_state)`, or parameters. Leaves that agree in name, shape and type are taken over, as by `lrx.carry_over`,
        with the moments and the step of the schedule; stderr and `history.changes[0]` name those that are not. Steps
        are counted from 0. If the folder holds a run already, that run continues instead.
      callback: called between two segments with a `lrx.training.Moment`: `step`, `loss`, `rate`, `metrics` and
        `evaluations` as numbers, and on demand `params`, `model_state` and `opt_state`. It returns None; or an
        `opt_state` of the same structure to continue with, such as `lrx.set_learning_rate(moment.opt_state, 1e-4)`; or
        `lrx.STOP`, which ends the run with an evaluation and a checkpoint. A sequence of callbacks is allowed.
        `lrx.training` has `csv_writer`, `tensorboard_writer` and `wandb_writer`. Calling callbacks does not change the
        numbers of a run.
      callback_every: interval of calls, in the unit of `evaluate_every`; by default about a second, at steps that
        depend on the machine. Callbacks are also called at each evaluation and at the end. A callback with an attribute
        `every` is called at multiples of that many steps and at the end, whatever this is.
      keep_best: name of a result of the workload's `evaluate`: `history.best` then holds the evaluated parameters with
        the best result. Lower is better for "loss" and names that end in loss or error, higher for names that end in
        accuracy; for others pass the pair, `("bleu", "max")`.
      feedback_metric: name of a result of the workload's `evaluate` that controllers with `feedback="observed"` observe
        after every evaluation; or one for each, `{"reduce_on_plateau": "loss", "early_stopping": "accuracy"}`, by the
        names of `lrx.monitor`, with None for a controller that observes nothing. An `early_stopping` among them ends
        the run.
      progress: True shows loss, rate, speed and time left: a bar on a terminal, otherwise a line every ten seconds and
        for each evaluation. None shows the bar on a terminal, and nothing elsewhere. A string is the title.
      stop_on_nonfinite: whether to stop at a loss that is NaN or infinite. With False the update is made, for
        transformations that recover by themselves (`optax.apply_if_finite`). A transformation wrapped in
        `rollback_on_divergence` is never stopped by it.
      mesh: the devices that the run is on, `jax.make_mesh((jax.device_count(),), ("data",))`. The batch is split over
        the mesh's first axis, which must divide its size. Parameters, states, `history` and what `evaluate` and
        callbacks are given stay on the mesh. If the mesh has devices of several processes, all of them make the same
        call with the same data; the first shows progress.
      param_sharding: which axes of the mesh split each parameter; by default each device has a copy. "fsdp" splits the
        longest dimension that the mesh's first axis divides. Otherwise a function `(path, shape) -> PartitionSpec`,
        with paths like "lin/kernel" and shapes as `jax.ShapeDtypeStruct`, or a tree of PartitionSpecs with the
        structure of the parameters or a prefix of it. What the optimizer's state holds for a parameter is split as
        the parameter is.

    Returns:
      The `History` from step 0 on, also of a resumed run.

    Raises:
      ValueError: before the run is compiled, if not exactly one of `epochs` and `steps` is given, a number is not whole
        or out of range, the folder cannot be written, holds another run, a longer one, or any run with `resume=False`,
        the updates of `tx` ascend (`lrx.direction.require_descent`), a controller with `feedback="observed"` would
        observe nothing, a named result is not one that `evaluate` returns, or the mesh does not divide the batch size
        or a parameter.
      TypeError: if an argument is of the wrong type, `loss_fn` or `tx` change the type of the state, or a callback
        returns something else.
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
      ...     lambda params, batch, key: jnp.mean((params["slope"] * batch[0] - batch[1]) ** 2),
      ...     lambda key: {"slope": jax.random.normal(key)},
      ...     Batches((x, 3.0 * x), batch_size=16),
      ...     name="line",
      ... )
      >>> history = train(workload, lrx.sgd(lrx.linear_decay(0.8, decay_steps=80)), epochs=20)
      >>> history.loss.shape, round(float(history.params["slope"]), 3)
      ((80,), 3.0)
      >>> print(history.rate[[0, 40]].round(3))
      [0.8 0.4]
    """
    require_workload(workload)
    _require_transformation(tx)
    total, unit = _length(epochs, steps, workload.batches)
    plan = Settings(
        total,
        _interval("evaluate_every", evaluate_every, unit) or workload.batches.steps_per_epoch,
        _interval("checkpoint_every", checkpoint_every, unit),
        _interval("callback_every", callback_every, unit),
        as_callbacks(callback),
        feedback_metric,
        best_by(keep_best, workload),
        stop_on_nonfinite,
    )
    _checks.seed(seed)
    for name, value in (("resume", resume), ("stop_on_nonfinite", stop_on_nonfinite)):
        _checks.flag(name, value)
    require_progress(progress)
    _checks.one_of("on_mismatch", on_mismatch, ("error", "continue"))
    if resume_from is not None:
        _require_source(resume_from, resume)
    layout = layout_of(workload, mesh, param_sharding)
    if isinstance(workload.batches, Records):
        require_shares(workload.batches, layout, total)

    with contextlib.ExitStack() as stack:
        folder = None
        if checkpoint is not None:
            folder = stack.enter_context(contextlib.closing(CheckpointFolder(checkpoint, keep=keep, background=True)))
        run = Run(workload, tx, int(seed), plan, folder, init, layout)
        run.begin(resume, resume_from, on_mismatch)
        batches = workload.batches
        status = reporter(
            progress if run.speaks else False,
            workload.name,
            step=run.step,
            total=total,
            batch_size=batches.examples_per_step,
            unit="images" if batches.holds_images else "examples",
            loss_name="train loss",
        )
        interrupted = stack.enter_context(ctrl_c())
        stack.enter_context(status)
        run.go(status, interrupted)
    return run.history()


def _require_transformation(tx: Any) -> None:
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(f"tx must be an optax transformation, with init and update, got a {type(tx).__name__}.")


def _length(epochs: Any, steps: Any, batches: Batches) -> tuple[int, int]:
    """Return the number of steps of the run, and of the unit that its intervals are given in."""
    steps_per_epoch = batches.steps_per_epoch
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
    if isinstance(batches, Records) and batches.grows:
        raise ValueError(
            f"epochs must be left out if the batch size follows a schedule, got epochs={epochs}: epochs then differ in "
            f"length. Give steps={batches.steps_of(int(epochs))}, which take as many examples."
        )
    _checks.steps("epochs * steps_per_epoch", epochs * steps_per_epoch)
    return int(epochs) * steps_per_epoch, steps_per_epoch


def _interval(name: str, value: Any, unit: int) -> int | None:
    if value is None:
        return None
    _checks.steps(name, value)
    return int(value) * unit


def _require_source(resume_from: Any, resume: bool) -> None:
    if isinstance(resume_from, bool) or not isinstance(resume_from, int | str | os.PathLike):
        raise TypeError(f"resume_from must be a step or the path of a checkpoint, got resume_from={resume_from!r}.")
    if not resume:
        raise ValueError(f"resume_from needs resume=True, got resume_from={resume_from!r} and resume=False.")
