"""The compiled half of a run: the initial state, and a segment of any number of steps.

A segment goes through a *dynamic* number of steps, so one compilation serves segments of every length. That keeps a
run resumable bit for bit (the same machine code makes every step, wherever the segments begin), ends the loop at the
very step whose loss is not finite, and lets the host choose segments of about a second for progress and Ctrl-C.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lrx.extra_args import tolerant_update
from lrx.reading import monitor
from lrx.run_state import (
    apply_updates,
    can_stop,
    eval_params,
    handles_divergence,
    improved,
    minibatches,
    stopped,
    tracks_best,
)
from lrx.training.batches import Batches
from lrx.training.history import Best
from lrx.training.identity import describe
from lrx.training.workload import Workload

SEGMENT_STEPS = 2**14  # length of the buffers that a segment fills: its most steps


class State(NamedTuple):
    """What a step changes."""

    params: Any
    model_state: Any
    opt_state: Any
    best: Any  # `Best`, () if nothing in opt_state tracks the best


class Program(NamedTuple):
    """The compiled functions of a run; they depend on none of its data."""

    initialize: Callable[[jax.Array], State]  # from a key
    segment: Callable[..., tuple[State, jax.Array, dict[str, jax.Array]]]
    # (state, arrays, key, start, stop, complete_at) -> (state, completed steps, curves); the state is used up. In step
    # `complete_at`, if any, what has been accumulated is applied, though the round be not full.
    judged: Callable[[State, Any, jax.Array], State]  # with the optimizer state that an observation has changed
    # curves: name to (SEGMENT_STEPS,), of step start + i at i, and at `completed` of a step that failed.


def compiled(workload: Workload, tx: optax.GradientTransformation, *, stop_on_nonfinite: bool) -> Program:
    """Give the program of a workload and an optimizer, compiled when it is first called."""
    batches = workload.batches
    parts = (
        *(workload.init, workload.loss_fn, batches.transform, batches.batch_size, batches.shuffle, tx),
        *(stop_on_nonfinite, local_devices(batches)),
    )
    try:
        hash(parts)
    except TypeError:  # a function that is an object without a hash
        return _program(*parts)
    return _cached_program(*parts)


def local_devices(batches: Batches) -> tuple[jax.Device, ...]:
    """Give the devices that a batch is split over."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(chosen, jax.Device):
        return (chosen,)
    devices = tuple(jax.local_devices(backend=chosen))
    return devices if batches.batch_size % len(devices) == 0 else devices[:1]


def placement(devices: tuple[jax.Device, ...]) -> tuple[Sharding, Callable[[jax.Array], jax.Array]]:
    """Give where the state and the data are, and what splits an array's leading axis over the devices."""
    if len(devices) == 1:
        return SingleDeviceSharding(devices[0]), lambda x: x
    mesh = Mesh(np.array(devices), ("batch",))
    by_example = NamedSharding(mesh, PartitionSpec("batch"))
    return NamedSharding(mesh, PartitionSpec()), lambda x: jax.lax.with_sharding_constraint(x, by_example)


def initial(init: Callable[..., Any], tx: optax.GradientTransformation, key: jax.Array) -> State:
    """Make the state before the first step."""
    params, model_state = _pair(init(key), "init", "(params, model_state)")
    opt_state = tx.init(params)
    best = Best(jnp.int32(0), eval_params(opt_state, params), model_state) if tracks_best(opt_state) else ()
    return jax.tree.map(_strongly_typed, State(params, model_state, opt_state, best))


def draw(
    arrays: Any,
    permutation: jax.Array,
    key: jax.Array,
    count: jax.Array,
    batch_size: int,
    transform: Callable[[Any, jax.Array], Any],
    split: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[Any, jax.Array]:
    """Give the batch of a step, from the permutation of its epoch, and the key of its loss."""
    steps_per_epoch = permutation.shape[0] // batch_size
    transform_key, loss_key = jax.random.split(jax.random.fold_in(key, count))
    first = count % steps_per_epoch * batch_size
    chosen = split(jax.lax.dynamic_slice(permutation, (first,), (batch_size,)))
    minibatch = jax.tree.map(lambda x: split(x.at[chosen].get(mode="promise_in_bounds")), arrays)
    return transform(minibatch, transform_key), loss_key


def step(
    loss_fn: Callable[..., Any],
    update: Callable[..., Any],
    state: State,
    batch: Any,
    key: jax.Array,
    count: jax.Array,
) -> tuple[State, jax.Array]:
    """Make the step after `count` steps: give the new state, and the loss before it."""

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        result = loss_fn(params, state.model_state, batch, key)
        loss, model_state = _pair(result, "loss_fn", "(loss, model_state)")
        if jnp.ndim(loss) != 0:
            raise ValueError(
                f"loss_fn must return a scalar loss, got one of shape {jnp.shape(loss)}: return its mean, "
                "jnp.mean(loss)."
            )
        return loss, model_state

    (loss, model_state), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: loss_of(params)[0],
        grad_fn=lambda params, _: jax.grad(lambda params: loss_of(params)[0])(params),
    )
    best = _better(state, opt_state, count)
    new = State(apply_updates(state.params, updates, opt_state), model_state, opt_state, best)
    _require_same_types(new, state)
    return new, loss


def _better(state: State, opt_state: Any, count: jax.Array) -> Any:
    """Give the best so far, once an update or an observation has told, in `opt_state`, whether `state` is it."""
    if not tracks_best(opt_state):
        return ()
    return jax.lax.cond(
        improved(state.opt_state, opt_state),
        lambda: Best(count, eval_params(state.opt_state, state.params), state.model_state),
        lambda: state.best,
    )


def _program(
    init: Callable[..., Any],
    loss_fn: Callable[..., Any],
    transform: Callable[..., Any],
    batch_size: int,
    shuffle: bool,
    tx: optax.GradientTransformation,
    stop_on_nonfinite: bool,
    devices: tuple[jax.Device, ...],
) -> Program:
    everywhere, split = placement(devices)
    update = tolerant_update(tx)

    def judged(state: State, told: Any, count: jax.Array) -> State:
        return state._replace(opt_state=told, best=_better(state, told, count))

    def recorded_step(
        state: State, arrays: Any, permutation: jax.Array, key: jax.Array, count: jax.Array, complete_at: jax.Array
    ) -> Any:
        """Make one step: give the new state, what is recorded, and whether the loss is finite."""
        batch, loss_key = draw(arrays, permutation, key, count, batch_size, transform, split)
        complete = {"complete": count == complete_at} if minibatches(state.opt_state) else {}
        new, loss = step(loss_fn, functools.partial(update, **complete), state, batch, loss_key, count)
        report = dict(monitor(new.opt_state))
        record = {"loss": loss, "rate": report.pop("learning_rate", jnp.nan)}
        record |= {f"metrics/{name}": value for name, value in report.items()}
        return new, {name: _recorded(value) for name, value in record.items()}, jnp.isfinite(loss)

    def segment(
        state: State, arrays: Any, key: jax.Array, start: jax.Array, stop: jax.Array, complete_at: jax.Array
    ) -> Any:
        from lrx.training.convolutions import staged  # loads jax.extend, a third of what `import lrx` would cost

        shuffle_key, step_key = jax.random.split(key)
        in_order = jnp.arange(jax.tree.leaves(arrays)[0].shape[0], dtype=jnp.int32)
        steps_per_epoch = in_order.shape[0] // batch_size
        on_cpu = devices[0].platform == "cpu"
        arguments = (state, arrays, in_order, step_key, start, complete_at)
        one_step, (_, shapes, _) = staged(recorded_step, *arguments, channels_last=on_cpu)
        curves = {name: jnp.zeros(SEGMENT_STEPS, shape.dtype) for name, shape in shapes.items()}

        def rest_of_epoch(carry: Any) -> Any:
            epoch = carry[0] // steps_per_epoch
            end = jnp.minimum(stop, (epoch + 1) * steps_per_epoch)
            permutation = in_order
            if shuffle:
                permutation = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), in_order)

            def body(carry: Any) -> Any:
                count, going, state, curves = carry
                new, record, finite = one_step(state, arrays, permutation, step_key, count, complete_at)
                curves = {name: curves[name].at[count - start].set(value) for name, value in record.items()}
                made = jnp.bool_(True)
                if stop_on_nonfinite and not handles_divergence(state.opt_state):
                    made = finite
                    new = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
                going = made & ~stopped(new.opt_state) if can_stop(state.opt_state) else made
                return count + made.astype(jnp.int32), going, new, curves

            return jax.lax.while_loop(lambda carry: (carry[0] < end) & carry[1], body, carry)

        carry = (start, jnp.bool_(True), state, curves)
        count, _, state, curves = jax.lax.while_loop(lambda carry: (carry[0] < stop) & carry[1], rest_of_epoch, carry)
        return state, count, curves

    return Program(
        jax.jit(functools.partial(initial, init, tx), out_shardings=everywhere),
        jax.jit(segment, donate_argnums=0, out_shardings=everywhere),
        jax.jit(judged, out_shardings=everywhere),
    )


# Several seeds of one run, or a run and its extension, share a compilation. The data are no part of the key, so what
# is kept alive are functions.
_cached_program = functools.lru_cache(maxsize=16)(_program)


def _pair(value: Any, name: str, wanted: str) -> tuple[Any, Any]:
    if not (isinstance(value, tuple) and len(value) == 2):
        raise TypeError(
            f"{name} must return {wanted}, got a {type(value).__name__}: Workload.from_functions takes functions "
            "without a model state."
        )
    return value


def _strongly_typed(x: Any) -> jax.Array:
    """Give an array whose type does not depend on what it meets: a loop's state must keep its type."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return jnp.asarray(x, jnp.result_type(x))


def _recorded(value: Any) -> jax.Array:
    """Make curves float32, whatever the model's type is; counts and flags stay what they are."""
    value = jnp.asarray(value)
    return value.astype(jnp.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _require_same_types(new: State, old: State) -> None:
    for name, origin in (("params", "tx"), ("model_state", "loss_fn"), ("opt_state", "tx")):
        after, before = describe(getattr(new, name)), describe(getattr(old, name))
        for leaf in {**before, **after}:
            was, became = before.get(leaf, "absent"), after.get(leaf, "absent")
            if was != became:
                raise TypeError(
                    f"{origin} must keep the types of {name}, but {name}{leaf} is {was} before a step and {became} "
                    "after it."
                )
