"""How many images a second does the training step of a CIFAR ResNet take, here, in plain Flax and in PyTorch?

    python -m lrx.benchmarks.resnet_step
    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m lrx.benchmarks.resnet_step

All make the same steps: forward, backward, SGD with momentum 0.9. Ours is the compiled loop behind
`lrx.training.train`, which also draws, augments and normalises the minibatch in every step, and splits it over the
devices that there are. Plain Flax is the usual step, `flax.nnx` and `optax` under `nnx.jit`, called from Python with a
finished batch; PyTorch (where it is installed, or in the environment of `--torch-python`) the usual one, with channels
last, its faster layout. They are timed in turn, so that other load hits all alike. Printed are the median speed and
the quartiles, over the rounds, of its ratio to plain Flax.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lrx
from lrx.training.program import compiled, local_devices, placement
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import Dataset
from lrx.workloads.resnet import shortcut

LEARNING_RATE, MOMENTUM = 0.01, 0.9
IMAGE_SHAPE = (32, 32, 3)

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
    """Make the usual step with Flax and optax."""
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
    """Make the loop of `lrx.training.train` on random pixels, with augmentation."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8 * batch_size, *IMAGE_SHAPE), dtype=np.uint8)
    labels = rng.integers(0, 10, 8 * batch_size).astype(np.int32)
    dataset = Dataset("random", images, labels, images[:1], labels[:1], 10, np.full(3, 0.5), np.full(3, 0.29))
    workload = dataset_workload(dataset, f"resnet{depth}", batch_size=batch_size, augment=True)
    program = compiled(workload, lrx.sgd(LEARNING_RATE, momentum=MOMENTUM), stop_on_nonfinite=True)
    everywhere, _ = placement(local_devices(workload.batches))
    arrays = jax.device_put(workload.batches.arrays, everywhere)
    key = jax.device_put(jax.random.key(1), everywhere)
    state, done = program.initialize(key), 0

    def run(steps: int) -> float:
        nonlocal state, done
        began = time.perf_counter()
        state, _, _ = program.segment(state, arrays, key, done, done + steps, -1)
        jax.block_until_ready(state)
        done += steps
        return time.perf_counter() - began

    return run


def torch_in(python: str, depth: int, batch_size: int) -> Contestant:
    """Make PyTorch's step, in a process of its own."""
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="steps of each contestant in a round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--torch-python", help="interpreter of an environment with PyTorch")
    options = parser.parse_args()
    torch_python = options.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    contestants = {
        "plain Flax": plain_flax(options.depth, options.batch_size),
        "lrx": ours(options.depth, options.batch_size),
    }
    if torch_python:
        contestants["PyTorch"] = torch_in(torch_python, options.depth, options.batch_size)
    for contestant in contestants.values():
        contestant(options.steps)  # compiles
    seconds = {
        name: np.array(values)
        for name, values in zip(
            contestants,
            zip(*([run(options.steps) for run in contestants.values()] for _ in range(options.rounds)), strict=True),
            strict=True,
        )
    }
    devices = jax.local_devices()
    print(
        f"ResNet-{options.depth}, batch {options.batch_size}, {len(devices)} x {devices[0].device_kind}, "
        f"{options.rounds} rounds of {options.steps} steps"
    )
    for name, times in seconds.items():
        speed = options.batch_size * options.steps / np.median(times)
        low, middle, high = np.percentile(seconds["plain Flax"] / times, [25, 50, 75])
        print(f"{name:12} {speed:8.0f} images/s   {middle:5.2f} times plain Flax ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
