r"""What does the compiled step of `lrx.train` on a mesh cost beside the same step written by hand?

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
      lrx bench mesh_step --model resnet20

Nothing is trained. The loop behind `lrx.train(mesh=...)` and a loop in plain JAX that draws the same minibatches,
takes the same gradient and makes the same update (SGD with momentum 0.9) are compiled for all local devices, with
copies of the parameters and, as "fsdp", with parameters and velocity split. The output shows FLOPs and bytes of memory
for each device as XLA counts them (the body of a loop once), and number and bytes of the collectives in the text of
the program. lrx also keeps curves, stops at a loss that is not finite, and draws a permutation for each epoch.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax.sharding import Mesh

import lrx
from lrx.training.layout import Layout, layout_of
from lrx.training.program import program_of
from lrx.training.sampling import keys_of
from lrx.training.step import State
from lrx.training.workload import Workload
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import Dataset

LEARNING_RATE, MOMENTUM = 0.01, 0.9
IMAGE_SHAPE = (32, 32, 3)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


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
    tx = lrx.sgd(LEARNING_RATE, momentum=MOMENTUM)
    program = program_of(workload, tx, stop_on_nonfinite=True, layout=layout)
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
            drawn = jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x[chosen], by_example), arrays)
            keys = jax.random.split(jax.random.fold_in(key, count))
            batch = batches.transform(drawn, keys[0])
            gradient = jax.value_and_grad(workload.loss_fn, has_aux=True)
            (loss, model_state), grads = gradient(params, model_state, batch, keys[1])
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
            params = jax.tree.map(lambda w, v: w - LEARNING_RATE * v, params, velocity)
            if layout.specs:
                params, velocity = (jax.lax.with_sharding_constraint(tree, where) for tree in (params, velocity))
            return count + 1, params, velocity, model_state, losses.at[count - start].set(loss)

        losses = jnp.zeros(2**14, jnp.float32)
        carry = (start, params, velocity, model_state, losses)
        return jax.lax.while_loop(lambda carry: carry[0] < stop, step, carry)

    params, model_state = jax.eval_shape(workload.init, jax.random.key(0))
    state = State(params, model_state, (), ())
    where = layout.of_state(state).params if layout.specs else jax.tree.map(lambda _: everywhere, params)
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


def _shape(x: Any, sharding: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def measure(model: str, batch_size: int, devices: list[Any]) -> dict[str, dict[str, Cost]]:
    """Return {"copied" or "fsdp": {"lrx" or "by hand": costs}}."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4 * batch_size, *IMAGE_SHAPE), dtype=np.uint8)
    labels = rng.integers(0, 10, 4 * batch_size).astype(np.int32)
    dataset = Dataset("random", images, labels, images[:1], labels[:1], 10, np.full(3, 0.5), np.full(3, 0.29))
    workload = dataset_workload(dataset, model, batch_size=batch_size, augment=True)
    mesh = Mesh(np.array(devices), ("data",))
    found: dict[str, dict[str, Cost]] = {}
    for way, split in (("copied", None), ("fsdp", "fsdp")):
        layout = layout_of(workload, mesh, split)
        found[way] = {"lrx": cost_of(ours(workload, layout)), "by hand": cost_of(by_hand(workload, layout))}
    return found


def main(
    model: Annotated[str, typer.Option(help="One of the models that `lrx names` lists.")] = "resnet20",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a minibatch, over all devices.")] = 64,
) -> None:
    """Compile, count and print."""
    devices = jax.local_devices()
    print(f"{model}, batch {batch_size}, {len(devices)} x {devices[0].device_kind}")
    for way, of_way in measure(model, batch_size, devices).items():
        for name, cost in of_way.items():
            print(
                f"{way:7} {name:8} {cost.flops / 1e6:10.3f} MFLOP {cost.memory_bytes / 1e6:10.3f} MB  "
                f"{cost.collectives:4} collectives of {cost.collective_bytes / 1e6:.3f} MB"
            )
        plain = of_way["by hand"]
        ratios = [a / b if b else math.nan for a, b in zip(of_way["lrx"], plain, strict=True)]
        print(f"{way:7} ratio    " + "  ".join(f"{ratio:.4f}" for ratio in ratios))
