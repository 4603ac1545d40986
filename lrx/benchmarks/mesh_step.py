r"""What does the compiled step of `lrx.train` on a mesh cost beside the same step written by hand?

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
      lrx bench mesh_step --model resnet20 --rounds 30

The loop behind `lrx.train(mesh=...)` and a loop in plain JAX that draws the same minibatches, takes the same gradient
and makes the same update (SGD with momentum 0.9) are compiled for all local devices, with copies of the parameters
and, as "fsdp", with parameters and velocity split. The output shows FLOPs and bytes of memory for each device as XLA
counts them (the body of a loop once, and the drawing of a minibatch as a read of the whole data set), and number and
bytes of the collectives in the text of the program. lrx also keeps curves, stops at a loss that is not finite, and
draws a permutation for each epoch. On the CPU both loops take the layout of convolutions that
`lrx.training.convolutions` sets, channels last. This is the stricter baseline: without it the loop written by hand
would be slowed by XLA's convolutions inside of a loop.

With --rounds both programs also run, from the same parameters and on random images, in turn in one process. A round is
two calls of each, in both orders, from the state that the last call returned. By default a call makes as many steps as
take about half a second, so that what a call costs once, such as the buffers of the curves, is spread over many steps.
The output shows the median time of a step, and the ratio round by round: its median, its quartiles, and a 95 %
confidence interval of its median, which needs 6 rounds. The median ratio can differ from the ratio of the median times,
which may be of different rounds. lrx draws a permutation in each call and epoch; the loop written by hand keeps that of
the first epoch, in which both see the same minibatches. Without --rounds nothing is trained.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax.sharding import Mesh

import lrx
from lrx.benchmarks.timing import compare, in_turn, median_interval, seconds_of, sum_pairs
from lrx.training.convolutions import trace_once
from lrx.training.layout import Layout, layout_of
from lrx.training.program import SEGMENT_STEPS, Program, program_of
from lrx.training.sampling import keys_of
from lrx.training.step import State
from lrx.training.workload import Workload
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import Dataset

LEARNING_RATE, MOMENTUM = 0.01, 0.9
IMAGE_SHAPE = (32, 32, 3)
EPOCH_STEPS = 32  # enough that a permutation for each epoch costs a step little, as with real data
CALL_SECONDS = 0.5  # the time of a call by default
OURS, BY_HAND = "lrx", "by hand"
WAYS = {"copied": None, "fsdp": "fsdp"}  # name to `param_sharding`
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# steps -> (parameters, losses), after so many further steps; the losses are the first so many of a buffer.
Advance = Callable[[int], tuple[Any, jax.Array]]


class Cost(NamedTuple):
    """What a compiled program costs on each device."""

    flops: float
    memory_bytes: float
    collectives: int  # of tensors: a collective of several counts each
    collective_bytes: int


def cost_of(compiled: Any) -> Cost:
    """Read the costs of a compiled program."""
    found = compiled.cost_analysis()
    number = moved = 0
    pattern = rf"= (.*?) (?:{'|'.join(COLLECTIVES)})(?:-start)?\("
    for shapes in re.findall(pattern, compiled.as_text()):
        for kind, lengths in re.findall(r"([a-z]+\d+)\[([\d,]*)\]", shapes):
            number += 1
            moved += int(re.sub(r"\D", "", kind)) // 8 * math.prod(int(n) for n in lengths.split(",") if n)
    return Cost(found["flops"], found["bytes accessed"], number, moved)


def ours(workload: Workload, layout: Layout) -> Any:
    """Compile the loop of `lrx.train`."""
    program = _program(workload, layout)
    everywhere = layout.places.everywhere
    keys = jax.tree.map(lambda x: _shape(x, everywhere), jax.eval_shape(keys_of, 0))
    shapes = jax.eval_shape(program.initialize, keys.init)
    where = program.shardings if layout.specs else jax.tree.map(lambda _: everywhere, shapes)
    state = jax.tree.map(_shape, shapes, where)
    arrays = jax.tree.map(lambda x: _shape(x, everywhere), workload.batches.arrays)
    count = _shape(jnp.int32(0), everywhere)
    return program.segment.lower(state, arrays, keys, count, count, count).compile()  # type: ignore[attr-defined]


def by_hand(workload: Workload, layout: Layout) -> Any:
    """Compile the same steps, written in plain JAX."""
    everywhere, by_example = layout.places.everywhere, layout.places.along(0)
    batches, number = workload.batches, workload.batches.batch_size

    def steps(
        params: Any, velocity: Any, model_state: Any, arrays: Any, order: Any, key: Any, start: Any, stop: Any
    ) -> Any:
        def step(carry: Any) -> Any:
            count, params, velocity, model_state, losses = carry
            first = count % batches.steps_per_epoch * number
            chosen = jax.lax.with_sharding_constraint(jax.lax.dynamic_slice(order, (first,), (number,)), by_example)
            taken = jax.tree.map(lambda x: x.at[chosen].get(mode="promise_in_bounds"), arrays)
            drawn = jax.lax.with_sharding_constraint(taken, by_example)
            keys = jax.random.split(jax.random.fold_in(key, count))
            batch = batches.transform(drawn, keys[0])
            gradient = jax.value_and_grad(workload.loss_fn, has_aux=True)
            (loss, model_state), grads = gradient(params, model_state, batch, keys[1])
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
            params = jax.tree.map(lambda w, v: w - LEARNING_RATE * v, params, velocity)
            if layout.specs:
                params, velocity = (jax.lax.with_sharding_constraint(tree, where) for tree in (params, velocity))
            return count + 1, params, velocity, model_state, losses.at[count - start].set(loss)

        losses = jnp.zeros(SEGMENT_STEPS, jnp.float32)
        carry = (start, params, velocity, model_state, losses)
        on_cpu = layout.devices[0].platform == "cpu"
        body = trace_once(step, carry, channels_last=True)[0] if on_cpu else step
        return jax.lax.while_loop(lambda carry: carry[0] < stop, body, carry)

    params, model_state = jax.eval_shape(workload.init, jax.random.key(0))
    where = _param_shardings(params, layout)
    placed = jax.tree.map(_shape, params, where)
    copied = [
        jax.tree.map(lambda x: _shape(x, everywhere), tree)
        for tree in (
            *(model_state, batches.arrays, jnp.arange(batches.num_examples), jax.eval_shape(jax.random.key, 0)),
            *(jnp.int32(0), jnp.int32(0)),
        )
    ]
    results = (everywhere, where, where, everywhere, everywhere)
    program = jax.jit(steps, donate_argnums=(0, 1, 2), out_shardings=results)
    return program.lower(placed, placed, *copied).compile()


def start_ours(compiled: Any, workload: Workload, layout: Layout) -> Advance:
    """Put the data and the initial state in place for the compiled loop of `lrx.train`."""
    everywhere = layout.places.everywhere
    arrays, keys = jax.device_put((workload.batches.arrays, keys_of(0)), everywhere)
    state, count = _program(workload, layout).initialize(keys.init), 0

    def advance(steps: int) -> tuple[Any, jax.Array]:
        nonlocal state, count
        state, _, curves = compiled(state, arrays, keys, *map(np.int32, (count, count + steps, -1)))
        count += steps
        return state.params, curves["loss"]

    return advance


def start_by_hand(compiled: Any, workload: Workload, layout: Layout) -> Advance:
    """Put the same data and the same initial state in place for the loop written by hand."""
    everywhere, batches = layout.places.everywhere, workload.batches
    arrays, keys = jax.device_put((batches.arrays, keys_of(0)), everywhere)
    order = jax.device_put(batches.sampling.permutation(batches.arrays, keys_of(0).shuffle, jnp.int32(0)), everywhere)
    state = _program(workload, layout).initialize(keys.init)
    params, model_state, count = state.params, state.model_state, 0
    velocity = jax.device_put(jax.tree.map(jnp.zeros_like, params), _param_shardings(params, layout))

    def advance(steps: int) -> tuple[Any, jax.Array]:
        nonlocal params, velocity, model_state, count
        limits = map(np.int32, (count, count + steps))
        _, params, velocity, model_state, losses = compiled(
            params, velocity, model_state, arrays, order, keys.step, *limits
        )
        count += steps
        return params, losses

    return advance


def compile_both(workload: Workload, layout: Layout) -> dict[str, Any]:
    """Return name to compiled program."""
    return {OURS: ours(workload, layout), BY_HAND: by_hand(workload, layout)}


def start_both(compiled: Mapping[str, Any], workload: Workload, layout: Layout) -> dict[str, Advance]:
    """Return name to a function that makes steps, from the same start."""
    return {
        OURS: start_ours(compiled[OURS], workload, layout),
        BY_HAND: start_by_hand(compiled[BY_HAND], workload, layout),
    }


def choose_steps(started: Mapping[str, Advance]) -> int:
    """Return the number of steps with which a call of the slowest program takes about `CALL_SECONDS`.

    A call is measured and scaled up. It first grows to half of that time, as a short one is mostly overhead and noise.
    """
    for advance in started.values():
        jax.block_until_ready(advance(1))  # the first call sets up
    steps = 2
    while True:
        seconds = max(seconds_of(advance, steps) for advance in started.values())
        if seconds >= CALL_SECONDS / 2 or steps == SEGMENT_STEPS:
            return min(max(round(steps * CALL_SECONDS / seconds), 1), SEGMENT_STEPS)
        steps = min(4 * steps, SEGMENT_STEPS)


def time_both(started: Mapping[str, Advance], rounds: int, steps: int) -> dict[str, np.ndarray]:
    """Return name to (rounds,) seconds of a step; a round is two calls of each, in both orders.

    Raises:
      FloatingPointError: if a loss at the end is not finite, after which lrx makes no more steps.
    """
    contestants = {name: functools.partial(seconds_of, advance, steps) for name, advance in started.items()}
    times = sum_pairs(in_turn(contestants, 2 * rounds, warmup_rounds=1))
    for name, advance in started.items():
        losses = advance(steps)[1][:steps]
        if not np.isfinite(losses).all():
            raise FloatingPointError(f"the losses of {name} must be finite, got {losses}: the times are void.")
    return {name: each / (2 * steps) for name, each in times.items()}


def random_workload(model: str, batch_size: int) -> Workload:
    """Build a workload on random images, with augmentation."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EPOCH_STEPS * batch_size, *IMAGE_SHAPE), dtype=np.uint8)
    labels = rng.integers(0, 10, EPOCH_STEPS * batch_size).astype(np.int32)
    dataset = Dataset("random", images, labels, images[:1], labels[:1], 10, np.full(3, 0.5), np.full(3, 0.29))
    return dataset_workload(dataset, model, batch_size=batch_size, augment=True)


def _program(workload: Workload, layout: Layout) -> Program:
    tx = lrx.sgd(LEARNING_RATE, momentum=MOMENTUM)
    return program_of(workload, tx, stop_on_nonfinite=True, layout=layout)


def _param_shardings(params: Any, layout: Layout) -> Any:
    if layout.specs:
        return layout.of_state(State(params, (), (), ())).params
    return jax.tree.map(lambda _: layout.places.everywhere, params)


def _shape(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def print_costs(costs: Mapping[str, Cost]) -> None:
    """Print what each program costs, and the ratios."""
    for name, cost in costs.items():
        print(
            f"  {name + ':':8} {cost.flops / 1e6:.3f} MFLOP, {cost.memory_bytes / 1e6:.3f} MB of memory, "
            f"{cost.collectives} collectives of {cost.collective_bytes / 1e6:.3f} MB"
        )
    pairs = zip(costs[OURS], costs[BY_HAND], strict=True)
    flops, memory, number, moved = (1.0 if a == b else a / b if b else math.inf for a, b in pairs)
    print(f"  lrx to by hand: FLOP x{flops:.4g}, bytes x{memory:.4g},")
    print(f"    collectives x{number:.4g}, bytes of collectives x{moved:.4g}")


def print_times(times: Mapping[str, np.ndarray]) -> None:
    """Print the median time of a step in each program, and the ratio round by round."""
    found = compare(times, BY_HAND)
    print("  median time of a step: " + ", ".join(f"{name} {1e3 * each.median:.3f} ms" for name, each in found.items()))
    ratio = found[OURS]
    print(f"  ratio: median of rounds {ratio.ratio:.3f}, quartiles {ratio.low:.3f} to {ratio.high:.3f},")
    low, high = median_interval(times[OURS] / times[BY_HAND])
    interval = f"95 % interval of the median {low:.3f} to {high:.3f}"
    print("    " + ("the interval needs 6 rounds" if math.isnan(low) else interval))


def main(
    model: Annotated[str, typer.Option(help="One of the models that `lrx names` lists.")] = "resnet20",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a minibatch, over all devices.")] = 64,
    rounds: Annotated[
        int, typer.Option(min=0, help="Rounds of two calls of each program, 30 or more; 0 for no timing.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, max=SEGMENT_STEPS, help="Steps of a call; by default for half a second.")
    ] = None,
) -> None:
    """Compile, count, time and print."""
    devices = jax.local_devices()
    workload = random_workload(model, batch_size)
    print(f"{model}, batch {batch_size}, {len(devices)} x {devices[0].device_kind}; costs are for each device")
    for way, split in WAYS.items():
        layout = layout_of(workload, Mesh(np.array(devices), ("data",)), split)
        compiled = compile_both(workload, layout)
        print(f"parameters {way}:" if split is None else f"parameters split ({way}):")
        print_costs({name: cost_of(program) for name, program in compiled.items()})
        if rounds:
            started = start_both(compiled, workload, layout)
            number = choose_steps(started) if steps is None else steps
            print(f"  rounds: {rounds}, each with 2 calls of each program; steps of a call: {number}")
            print_times(time_both(started, rounds, number))
