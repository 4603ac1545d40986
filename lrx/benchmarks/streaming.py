"""What does it cost to read minibatches while a run trains, also from a loader that waits, as for a disk?

A perceptron is trained on images of 32x32 pixels: with all minibatches on the device; with the same minibatches from an
iterator that has them ready; from one that waits for a share of the time of a step before each; and with examples that
Grain reads from memory. All are timed in turn. The output shows the median time of a step, and the median and the
quartiles of its ratio to that with all minibatches on the device.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

import lrx
from lrx.benchmarks.timing import compare, describe_machine, in_turn, seconds_of
from lrx.training import Batches, Workload, train

MINIBATCHES = 16  # different ones
STACKED = "on the device"


def perceptron(width: int, batches: Batches) -> Workload:
    """Return a workload on images of 32x32 pixels in ten classes."""
    sizes = [3 * 32 * 32, width, width, 10]

    def init_fn(key: jax.Array) -> list[jax.Array]:
        keys = jax.random.split(key, len(sizes))
        shapes = itertools.pairwise(sizes)
        return [jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in zip(keys, shapes, strict=False)]

    def loss_fn(params: list[jax.Array], batch: Any, key: jax.Array) -> jax.Array:
        del key
        x = batch[0].reshape(len(batch[0]), -1) / 255
        for kernel in params[:-1]:
            x = jax.nn.relu(x @ kernel)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ params[-1]), batch[1][:, None], axis=1))

    return Workload.from_functions(loss_fn, init_fn, batches, name="perceptron")


def main(
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a minibatch.")] = 128,
    width: Annotated[int, typer.Option(min=1, help="Of the two hidden layers.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Length of each run.")] = 200,
    wait: Annotated[float, typer.Option(min=0, help="Of the waiting loader, in steps.")] = 0.8,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each.")] = 7,
) -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (MINIBATCHES * batch_size, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, MINIBATCHES * batch_size).astype(np.int32)
    minibatches = [
        (images[at : at + batch_size], labels[at : at + batch_size]) for at in range(0, len(images), batch_size)
    ]
    seconds = {"step": 0.0}

    def waiting() -> Iterator[Any]:
        for minibatch in minibatches:
            time.sleep(wait * seconds["step"])
            yield minibatch

    waits = f"read, with a wait of {wait:g} steps"
    sources: dict[str, Batches] = {
        STACKED: Batches.stack(minibatches),
        "read while training": Batches.stream(minibatches, steps_per_epoch=MINIBATCHES),
        waits: Batches.stream(waiting, steps_per_epoch=MINIBATCHES),
        "read by Grain": Batches.records(list(zip(images, labels, strict=True)), batch_size),
    }
    tx = lrx.sgd(0.01)

    def run(workload: Workload) -> float:
        # In the order of the rounds or the reverse: the wait follows from the latest run without one.
        found = seconds_of(lambda: train(workload, tx, steps=steps).params)
        if workload.batches is sources[STACKED]:
            seconds["step"] = found / steps
        return found

    contestants: dict[str, Callable[[], float]] = {
        name: functools.partial(run, perceptron(width, batches)) for name, batches in sources.items()
    }
    times = in_turn(contestants, rounds, warmup_rounds=2)  # the first compiles
    print(f"perceptron of width {width}, batch {batch_size}, {steps} steps, {describe_machine()}")
    for name, found in compare(times, STACKED).items():
        print(f"{name:32}  {1e3 * found.median / steps:8.2f} ms/step  {found} times that {STACKED}")
