"""The compiled half of a run: the initial state, and a segment of any number of steps.

A segment runs a *dynamic* number of steps, so one compilation works for segments of every length. That keeps a
run resumable bit for bit (the same machine code makes every step, however the segments are cut), ends the loop at the
very step whose loss is not finite, and lets the host choose segments of about a second for progress and Ctrl-C.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx.extra_args import tolerant_update
from lrx.reading import monitor
from lrx.run_state import can_stop, handles_divergence, minibatches, stopped
from lrx.training.batches import first_of
from lrx.training.checks import optimizer_key, workload_key
from lrx.training.layout import Layout, layout_of
from lrx.training.program_cache import Cache, Latest
from lrx.training.sampling import Keys, Sampling
from lrx.training.step import State, better, initial, step
from lrx.training.workload import Workload

SEGMENT_STEPS = 2**14  # length of the buffers that a segment fills: its most steps


class Program(NamedTuple):
    """The compiled functions of a run; they depend on none of its data."""

    initialize: Callable[[jax.Array], State]  # from `Keys.init`
    segment: Callable[..., tuple[State, jax.Array, dict[str, jax.Array]]]
    # (state, arrays, keys, start, stop, complete_at) -> (state, completed steps, curves); the state is used up. In step
    # `complete_at`, if any, what has been accumulated is applied even if the round is not full.
    # curves: name to (SEGMENT_STEPS,), of step start + i at i, and at `completed` of a step that failed.
    judge: Callable[..., State]  # (state, opt_state, count), with the optimizer state that an observation has changed
    shardings: Any  # of a `State`: one for all leaves, or a `State` of them


def program_of(
    workload: Workload, tx: optax.GradientTransformation, *, stop_on_nonfinite: bool, layout: Layout | None = None
) -> Program:
    """Return the program of a workload and an optimizer, compiled when it is first called.

    Several seeds of one run, a run and its extension, and equal runs of equal optimizers share a program.

    Args:
      workload: what is trained.
      tx: the optimizer.
      stop_on_nonfinite: as for `train`.
      layout: where the run lies; by default on the devices of the data.
    """
    layout = layout_of(workload) if layout is None else layout
    key = (workload_key(workload), optimizer_key(lambda: tx, (), workload), stop_on_nonfinite, layout.key)
    parts = Parts(workload.init, workload.loss_fn, workload.batches.sampling, tx)
    return _PROGRAMS.find_program(key, parts, lambda latest: _program(latest, stop_on_nonfinite, layout))


_PROGRAMS = Cache(
    maxsize=16
)  # the data are not part of the key, so what is kept alive are functions and what they hold


class Parts(NamedTuple):
    """The functions of a run, which its program is traced with."""

    init: Callable[..., Any]
    loss_fn: Callable[..., Any]
    sampling: Sampling
    tx: optax.GradientTransformation


def _program(latest: Latest[Parts], stop_on_nonfinite: bool, layout: Layout) -> Program:
    places, devices = layout.places, layout.devices

    def initialize(key: jax.Array) -> State:
        return initial(latest.parts.init, latest.parts.tx, key)

    state_shardings = layout.of_state(jax.eval_shape(initialize, jax.eval_shape(lambda: jax.random.key(0))))
    split, split_whole = _leave, _leave
    if len(devices) > 1:
        constrain = functools.partial(_constrain, sharding=places.along(0))
        if latest.parts.sampling.transform is first_of:
            number = len(devices) if places.mesh is None else places.mesh.devices.shape[0]
            split_whole = lambda x: constrain(x) if x.ndim and x.shape[0] % number == 0 else x  # noqa: E731
        else:
            split = constrain

    def judge(state: State, told: Any, count: jax.Array) -> State:
        return state._replace(opt_state=told, best=better(state, told, count))

    def recorded_step(
        state: State, arrays: Any, permutation: jax.Array, key: jax.Array, count: jax.Array, complete_at: jax.Array
    ) -> Any:
        """Run one step; return the new state, what is recorded, and whether the loss is finite."""
        _, loss_fn, sampling, tx = latest.parts
        update = tolerant_update(tx)
        batch, loss_key = sampling.draw(arrays, permutation, key, count, split)
        batch = jax.tree.map(split_whole, batch)
        complete = {"complete": count == complete_at} if minibatches(state.opt_state) else {}
        new, loss = step(loss_fn, functools.partial(update, **complete), state, batch, loss_key, count)
        if layout.specs:  # else the copies follow from those of the state before
            new = jax.lax.with_sharding_constraint(new, state_shardings)
        report = dict(monitor(new.opt_state))
        record = {"loss": loss, "rate": report.pop("learning_rate", jnp.nan)}
        record |= {f"metrics/{name}": value for name, value in report.items()}
        return new, {name: _to_record(value) for name, value in record.items()}, jnp.isfinite(loss)

    def segment(
        state: State, arrays: Any, keys: Keys, start: jax.Array, stop: jax.Array, complete_at: jax.Array
    ) -> Any:
        from lrx.training.convolutions import trace_once  # loads jax.extend, a third of what `import lrx` would cost

        sampling = latest.parts.sampling
        in_order = sampling.in_order(arrays)
        on_cpu = devices[0].platform == "cpu"
        arguments = (state, arrays, in_order, keys.step, start, complete_at)
        one_step, (_, shapes, _) = trace_once(recorded_step, *arguments, channels_last=on_cpu)
        curves = {name: jnp.zeros(SEGMENT_STEPS, shape.dtype) for name, shape in shapes.items()}

        def counted_step(count: jax.Array, permutation: jax.Array, carry: Any) -> Any:
            _, state, curves = carry
            new, record, finite = one_step(state, arrays, permutation, keys.step, count, complete_at)
            curves = {name: curves[name].at[count - start].set(value) for name, value in record.items()}
            made = jnp.bool_(True)
            if stop_on_nonfinite and not handles_divergence(state.opt_state):
                made = finite
                new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
            goes_on = made & ~stopped(new.opt_state) if can_stop(state.opt_state) else made
            return count + made.astype(jnp.int32), (goes_on, new, curves)

        count, (_, state, curves) = sampling.loop(
            counted_step,
            lambda epoch: sampling.permutation(arrays, keys.shuffle, epoch),
            len(in_order),
            start,
            stop,
            (jnp.bool_(True), state, curves),
            lambda carry: carry[0],
        )
        return state, count, curves

    return Program(
        jax.jit(initialize, out_shardings=state_shardings),
        jax.jit(segment, donate_argnums=0, out_shardings=(state_shardings, places.everywhere, places.everywhere)),
        jax.jit(judge, out_shardings=state_shardings),
        state_shardings,
    )


def _to_record(value: Any) -> jax.Array:
    """Return a recorded value: floats as float32 whatever the model's type is, counts and flags as they are."""
    value = jnp.asarray(value)
    return value.astype(jnp.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _leave(x: jax.Array) -> jax.Array:
    return x


def _constrain(x: jax.Array, sharding: Any) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, sharding)
