"""What do rates for groups of parameters cost: `lrx.group_rates` beside `optax.partition`, with 1 and 32 groups?

Each of them gives every group of 1,000 leaves a rate of its own on top of SGD with momentum: `group_rates` by factors,
with one transformation for all groups; `partition` with one transformation for each group. The tables show the median
times of the compiled step, and of what Python does before it: initializing the state, tracing and lowering.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import lrx
from lrx.benchmarks.optimizer_step import Run, stepper
from lrx.benchmarks.timing import describe_machine, in_turn

RATE, MOMENTUM = 1e-3, 0.9
PREPARATION = ("init", "trace", "lower")
PREPARED = 5  # times

Labels = dict[str, str]


def factor_of(group: int) -> float:
    """Return the factor of a group."""
    return 1.0 + group / 8


def ours(labels: Labels, groups: int) -> Any:
    """Build the chain with `lrx.group_rates`."""
    return lrx.group_rates(
        lrx.sgd(RATE, momentum=MOMENTUM), labels, {str(group): factor_of(group) for group in range(groups)}
    )


def partitioned(labels: Labels, groups: int) -> Any:
    """Build the chain with `optax.partition`."""
    return optax.partition(
        {str(group): optax.sgd(RATE * factor_of(group), momentum=MOMENTUM) for group in range(groups)}, labels
    )


class Contestant:
    """A chain for a number of groups."""

    def __init__(self, make: Callable[[Labels, int], Any], groups: int, params: dict[str, Any]) -> None:
        self.groups, self.make = groups, make
        self.labels = {path: str(index % groups) for index, path in enumerate(params)}
        self.run = Run(make(self.labels, groups), params)

    def step_seconds(self, steps: int = 10) -> float:
        """Return the mean seconds of a step."""
        return self.run.seconds(steps) / steps

    def preparation_seconds(self) -> np.ndarray:
        """Return the seconds of `PREPARATION`, which Python does before the first step."""
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
        return np.diff(times)


def main(
    leaves: Annotated[int, typer.Option(min=1, help="Arrays of parameters.")] = 1_000,
    size: Annotated[int, typer.Option(min=1, help="Elements of each array.")] = 1_000,
    groups: Annotated[list[int], typer.Option(min=1, help="Number of groups; may be given several times.")] = [1, 32],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each.")] = 20,
) -> None:
    """Measure and print."""
    jax.config.update("jax_enable_compilation_cache", False)
    params = {f"leaf{index:04}": jax.ShapeDtypeStruct((size,), jnp.float32) for index in range(leaves)}
    contestants = {
        f"{name:15} {count:6}": Contestant(make, count, params)
        for name, make in (("lrx.group_rates", ours), ("optax.partition", partitioned))
        for count in groups
    }
    steps = in_turn({name: each.step_seconds for name, each in contestants.items()}, rounds)
    prepared = in_turn({name: each.preparation_seconds for name, each in contestants.items()}, PREPARED)
    print(describe_machine())
    print(f"{leaves:,} leaves of {size:,} numbers; in brackets the ratio to {groups[0]} group(s)")
    print(f"{'':15} {'groups':>6} " + "".join(f"{what + ', ms':>20}" for what in ("step", *PREPARATION)))
    first: dict[str, np.ndarray] = {}
    for name in contestants:
        medians = np.array([np.median(steps[name]), *np.median(prepared[name], axis=0)])
        of_first = first.setdefault(name.split()[0], medians)
        cells = [f"{1e3 * took:10.2f} ({took / one:5.2f})" for took, one in zip(medians, of_first, strict=True)]
        print(f"{name} " + "".join(f"{cell:>20}" for cell in cells))
