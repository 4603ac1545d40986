r"""How many images a second does the training step of a CIFAR ResNet take, here, in plain Flax and in PyTorch?

    lrx bench resnet_step
    XLA_FLAGS=--xla_force_host_platform_device_count=2 \
      lrx bench resnet_step

Each contestant takes the same steps: forward, backward, SGD with momentum 0.9. That of lrx is the compiled loop behind
`lrx.training.train`, which also draws, augments and normalizes the minibatch in every step, and splits it over all
local devices. That of plain Flax is the usual step, `flax.nnx` and `optax` under `nnx.jit`, called from Python with a
finished batch. That of PyTorch (if it is installed, or in the environment of --torch-python) is the usual step with
channels last, its faster layout. The output shows the median speed, and the median and the quartiles, over rounds, of
the ratio of the time to that of plain Flax.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from flax import nnx

import lrx
from lrx.benchmarks.timing import compare, in_turn
from lrx.training.placement import batch_devices, placement
from lrx.training.program import program_of
from lrx.training.sampling import keys_of
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import Dataset
from lrx.workloads.resnet import shortcut

LEARNING_RATE, MOMENTUM = 0.01, 0.9
IMAGE_SHAPE = (32, 32, 3)
PLAIN = "plain Flax"

Contestant = Callable[[int], float]  # steps -> seconds


class PlainBlock(nnx.Module):
    """`lrx.workloads.resnet.ResidualBlock` with nothing but Flax's layers."""

    def __init__(self, before: int, after: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(before, after, (3, 3), stride, padding=1, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(after, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(after, after, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(after, momentum=0.9, rngs=rngs)
        self.features, self.stride = after, stride

    def __call__(self, x: jax.Array) -> jax.Array:
        residual = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(residual + shortcut(x, self.features, self.stride))


class PlainResNet(nnx.Module):
    """`lrx.workloads.resnet.ResNet` with nothing but Flax's layers."""

    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 16, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        widths = [width for width in (16, 32, 64) for _ in range(depth // 6)]
        self.blocks = nnx.List(
            PlainBlock(before, after, 1 if before == after else 2, rngs)
            for before, after in zip([16, *widths[:-1]], widths, strict=True)
        )
        self.output = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.output(jnp.mean(x, axis=(1, 2)))


def plain_flax(depth: int, batch_size: int) -> Contestant:
    """Build the usual step with Flax and optax."""
    model = PlainResNet(depth, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(LEARNING_RATE, momentum=MOMENTUM), wrt=nnx.Param)
    images = jax.random.normal(jax.random.key(0), (batch_size, *IMAGE_SHAPE))
    labels = jax.random.randint(jax.random.key(1), (batch_size,), 0, 10)

    @nnx.jit
    def step(model: PlainResNet, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
        def loss_fn(model: PlainResNet) -> jax.Array:
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(model(images), labels))

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads)
        return loss

    def run(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            loss = step(model, optimizer, images, labels)
        jax.block_until_ready((loss, nnx.state(model)))
        return time.perf_counter() - began

    return run


def ours(depth: int, batch_size: int) -> Contestant:
    """Build the loop of `lrx.training.train` on random pixels, with augmentation."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8 * batch_size, *IMAGE_SHAPE), dtype=np.uint8)
    labels = rng.integers(0, 10, 8 * batch_size).astype(np.int32)
    dataset = Dataset("random", images, labels, images[:1], labels[:1], 10, np.full(3, 0.5), np.full(3, 0.29))
    workload = dataset_workload(dataset, f"resnet{depth}", batch_size=batch_size, augment=True)
    program = program_of(workload, lrx.sgd(LEARNING_RATE, momentum=MOMENTUM), stop_on_nonfinite=True)
    everywhere = placement(batch_devices(workload.batches)).everywhere
    arrays = jax.device_put(workload.batches.arrays, everywhere)
    keys = jax.device_put(keys_of(1), everywhere)
    state, done = program.initialize(keys.init), 0

    def run(steps: int) -> float:
        nonlocal state, done
        began = time.perf_counter()
        state, _, _ = program.segment(state, arrays, keys, done, done + steps, -1)
        jax.block_until_ready(state)
        done += steps
        return time.perf_counter() - began

    return run


def torch_in(python: str, depth: int, batch_size: int) -> Contestant:
    """Build PyTorch's step, in a process of its own."""
    command = [python, str(Path(__file__).with_name("torch_resnet.py")), str(depth), str(batch_size)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(steps: int) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        print(steps, file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{python} could not run PyTorch: see what it printed above.")
        return float(answer)

    return run


def main(
    depth: Annotated[int, typer.Option(min=8, help="Of the network: 6 n + 2.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a minibatch.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Of each contestant in a round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each contestant.")] = 12,
    torch_python: Annotated[str | None, typer.Option(help="Interpreter of an environment with PyTorch.")] = None,
) -> None:
    """Measure and print."""
    torch_python = torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    contestants = {PLAIN: plain_flax(depth, batch_size), "lrx": ours(depth, batch_size)}
    if torch_python:
        contestants["PyTorch"] = torch_in(torch_python, depth, batch_size)
    # The first round compiles.
    times = in_turn({name: functools.partial(run, steps) for name, run in contestants.items()}, rounds, warmup_rounds=1)
    devices = jax.local_devices()
    where = f"{len(devices)} x {devices[0].device_kind}"
    print(f"ResNet-{depth}, batch {batch_size}, {where}, {rounds} rounds of {steps} steps")
    for name, found in compare(times, PLAIN).items():
        print(f"{name:12} {batch_size * steps / found.median:8.0f} images/s   {found} times the time of {PLAIN}")
