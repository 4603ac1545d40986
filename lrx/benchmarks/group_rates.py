"""What do rates for groups of parameters cost: `lrx.group_rates` beside `optax.partition`, with 1 and 32 groups?

    python -m lrx.benchmarks.group_rates

Both give every group of 1,000 leaves a rate of its own on top of SGD with momentum: `group_rates` by factors, one
transformation for all, `partition` by one transformation for each group. Printed are the medians, over rounds in which
all are measured in turn, of the compiled step, and of what Python does before it: making the state, tracing and
lowering.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.benchmarks.optimizer_step import Run, stepper

RATE, MOMENTUM = 1e-3, 0.9

Labels = dict[str, str]


def factor_of(group: int) -> float:
    """Give the factor of a group."""
    return 1.0 + group / 8


def ours(labels: Labels, groups: int) -> Any:
    """Make the chain with `lrx.group_rates`."""
    return lrx.group_rates(
        lrx.sgd(RATE, momentum=MOMENTUM), labels, {str(group): factor_of(group) for group in range(groups)}
    )


def partitioned(labels: Labels, groups: int) -> Any:
    """Make the chain with `optax.partition`."""
    return optax.partition(
        {str(group): optax.sgd(RATE * factor_of(group), momentum=MOMENTUM) for group in range(groups)}, labels
    )


class Contestant:
    """A chain for so many groups, and what it took."""

    def __init__(self, name: str, make: Callable[[Labels, int], Any], groups: int, params: dict[str, Any]) -> None:
        self.name, self.groups, self.make = name, groups, make
        self.labels = {path: str(index % groups) for index, path in enumerate(params)}
        self.run = Run(make(self.labels, groups), params)
        self.results: dict[str, list[float]] = {"step": [], "init": [], "trace": [], "lower": []}

    def prepare(self) -> None:
        """Measure what Python does before the first step."""
        jax.clear_caches()
        gc.collect()
        gc.disable()
        tx = self.make(self.labels, self.groups)
        times = [time.perf_counter()]
        state = tx.init(self.run.params)
        times.append(time.perf_counter())
        traced = stepper(tx).trace(self.run.params, state, self.run.grads)
        times.append(time.perf_counter())
        traced.lower()
        times.append(time.perf_counter())
        gc.enable()
        for what, took in zip(("init", "trace", "lower"), np.diff(times), strict=True):
            self.results[what].append(float(took))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=1_000, help="elements of each leaf")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    leaf = jax.ShapeDtypeStruct((options.size,), jnp.float32)
    params = {f"leaf{index:04}": leaf for index in range(options.leaves)}
    contestants = [
        Contestant(name, make, groups, params)
        for name, make in (("lrx.group_rates", ours), ("optax.partition", partitioned))
        for groups in options.groups
    ]
    for turn in range(options.rounds):
        for contestant in contestants if turn % 2 == 0 else contestants[::-1]:
            contestant.results["step"].append(contestant.run.seconds(10) / 10)
    for _ in range(5):
        for contestant in contestants:
            contestant.prepare()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    print(
        f"{options.leaves:,} leaves of {options.size:,} numbers; in brackets the ratio to {options.groups[0]} group(s)"
    )
    print(f"{'':15} {'groups':>6} " + "".join(f"{what + ', ms':>20}" for what in contestants[0].results))
    first: dict[str, list[float]] = {}
    for contestant in contestants:
        medians = [float(np.median(values)) for values in contestant.results.values()]
        of_one = first.setdefault(contestant.name, medians)
        cells = [f"{1e3 * took:10.2f} ({took / one:5.2f})" for took, one in zip(medians, of_one, strict=True)]
        print(f"{contestant.name:15} {contestant.groups:6} " + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
