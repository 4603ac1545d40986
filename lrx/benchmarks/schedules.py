"""How long does a schedule take for a million steps, beside optax and PyTorch, and how long to compile a large one?

    python -m lrx.benchmarks.schedules
    python -m lrx.benchmarks.schedules --torch-python PATH

`jax.jit(lambda c: schedule(c))` on `jnp.arange(1_000_000)`, compiled before, and the same with optax's schedule of the
kind where it has one, under `jax.vmap`, since not all of its take arrays. A PyTorch scheduler is stepped (where PyTorch
is installed, or in the environment of `--torch-python`): few steps are timed, and the time of a million is extrapolated
from them. Then what a single step costs that a Python loop asks for, `float(schedule(step))`: the first call, which
compiles, and one of those after it, beside optax's schedule as it is and as a compiled function, in CPU time. Then the
milliseconds in which a schedule of 1,000 pieces and one of 100 joined cosines are traced, lowered and compiled.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx

COUNTS = 1_000_000
PEAK, QUARTER = 0.1, COUNTS // 4
PIECES, COSINES = 1_000, 100

TORCH_PROGRAM = """
import json, sys, time, warnings
import torch

steps, schedulers = int(sys.argv[1]), torch.optim.lr_scheduler
warnings.simplefilter("ignore")  # that the optimizer makes no step
makers = {
    "step_decay": lambda optimizer: schedulers.StepLR(optimizer, 250_000, gamma=0.1),
    "cosine_decay": lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 1_000_000),
    "exponential_decay": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.99999),
}
seconds = {}
for name, maker in makers.items():
    scheduler = maker(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    for _ in range(100):
        scheduler.step()
    began = time.perf_counter()
    for _ in range(steps):
        scheduler.step()
    seconds[name] = (time.perf_counter() - began) / steps
print(json.dumps(seconds))
"""


def schedules() -> dict[str, tuple[Any, Callable[[Any], Any] | None]]:
    """Make one of each kind, and optax's where it has that kind."""
    thirds = {QUARTER: 0.1, 2 * QUARTER: 0.1, 3 * QUARTER: 0.1}
    points = {0: PEAK, QUARTER: 0.05, COUNTS: 0.0}
    linear = optax.linear_schedule
    return {
        "constant": (lrx.constant(PEAK), optax.constant_schedule(PEAK)),
        "step_decay": (
            lrx.step_decay(PEAK, QUARTER, factor=0.1),
            optax.exponential_decay(PEAK, QUARTER, 0.1, staircase=True),
        ),
        "piecewise_constant": (
            lrx.piecewise_constant(PEAK, thirds),
            optax.piecewise_constant_schedule(PEAK, thirds),
        ),
        "exponential_decay": (
            lrx.exponential_decay(PEAK, 0.99999),
            optax.exponential_decay(PEAK, 1, 0.99999),
        ),
        "inverse_time_decay": (lrx.inverse_time_decay(PEAK, 1e-3), None),
        "inverse_sqrt_decay": (lrx.inverse_sqrt_decay(PEAK, 1_000), None),
        "linear_decay": (lrx.linear_decay(PEAK, COUNTS), linear(PEAK, 0.0, COUNTS)),
        "polynomial_decay": (
            lrx.polynomial_decay(PEAK, COUNTS, power=0.9),
            optax.polynomial_schedule(PEAK, 0.0, 0.9, COUNTS),
        ),
        "cosine_decay": (lrx.cosine_decay(PEAK, COUNTS), optax.cosine_decay_schedule(PEAK, COUNTS)),
        "cosine_restarts": (
            lrx.cosine_restarts(PEAK, 10_000, period_mult=2),
            optax.sgdr_schedule(
                [
                    {"init_value": PEAK, "peak_value": PEAK, "warmup_steps": 0, "decay_steps": 10_000 * 2**i}
                    for i in range(7)
                ]
            ),
        ),
        "cyclical": (lrx.cyclical(0.01, PEAK, 2_000), None),
        "one_cycle": (lrx.one_cycle(PEAK, COUNTS), optax.cosine_onecycle_schedule(COUNTS, PEAK)),
        "one_cycle_momentum": (lrx.one_cycle_momentum(COUNTS), None),
        "warmup of a cosine": (
            lrx.warmup(lrx.cosine_decay(PEAK, COUNTS - 1_000), 1_000),
            optax.warmup_cosine_decay_schedule(0.0, PEAK, 1_000, COUNTS),
        ),
        "warmup_stable_decay": (
            lrx.warmup_stable_decay(PEAK, warmup_steps=1_000, stable_steps=2 * QUARTER, decay_steps=QUARTER),
            optax.join_schedules(
                [linear(0.0, PEAK, 1_000), optax.constant_schedule(PEAK), linear(PEAK, 0.0, QUARTER)],
                [1_000, 2 * QUARTER + 1_000],
            ),
        ),
        "interpolate": (
            lrx.interpolate(points),
            optax.piecewise_interpolate_schedule("linear", PEAK, {QUARTER: 0.5, COUNTS: 0.0}),
        ),
        "tabulated": (lrx.tabulated(np.linspace(PEAK, 0.0, 10_000)), None),
        "refined": (lrx.refined(np.linspace(2.0, 1.0, 10_000), PEAK), None),
        f"join of {COSINES} cosines": (joined_cosines(lrx), joined_cosines(optax)),
    }


def joined_cosines(library: Any) -> Any:
    """Make a hundred cosines, one after the other."""
    length = COUNTS // COSINES
    boundaries = [length * index for index in range(1, COSINES)]
    if library is lrx:
        return lrx.join([lrx.cosine_decay(PEAK / (1 + i), length) for i in range(COSINES)], boundaries)
    return optax.join_schedules(
        [optax.cosine_decay_schedule(PEAK / (1 + i), length) for i in range(COSINES)], boundaries
    )


def many_pieces(library: Any) -> Any:
    """Make a piecewise constant schedule with a thousand boundaries."""
    factors = {COUNTS // PIECES * index: 0.999 for index in range(1, PIECES + 1)}
    if library is lrx:
        return lrx.piecewise_constant(PEAK, factors)
    return optax.piecewise_constant_schedule(PEAK, factors)


def compiled(schedule: Callable[[Any], Any], counts: jax.Array) -> tuple[Any, float]:
    """Compile a schedule for counts of one shape, and measure the seconds."""
    jax.clear_caches()
    began = time.perf_counter()
    program = jax.jit(lambda count: schedule(count)).lower(counts).compile()
    return program, time.perf_counter() - began


def seconds_in_turn(programs: list[Any], counts: jax.Array, rounds: int) -> list[float]:
    """Measure the median seconds of each, in turn."""
    seconds: list[list[float]] = [[] for _ in programs]
    for turn in range(rounds + 1):
        for program, values in zip(programs, seconds, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(program(counts))
            if turn:  # the first is for warmth
                values.append(time.perf_counter() - began)
    return [statistics.median(values) for values in seconds]


def seconds_of_a_step(schedule: Callable[[Any], Any], calls: int = 200) -> tuple[float, float]:
    """Measure the CPU seconds of the first call with a Python integer, and the least average of later ones."""
    began = time.process_time()
    float(schedule(7))
    first, averages = time.process_time() - began, []
    for _ in range(5):
        began = time.process_time()
        for step in range(calls // 5):
            float(schedule(step))
        averages.append(5 * (time.process_time() - began) / calls)
    return first, min(averages)


def torch_seconds(python: str, steps: int) -> dict[str, float]:
    """Step PyTorch's schedulers in a process of its own, and give the seconds of one step."""
    command = [python, "-c", TORCH_PROGRAM, str(steps)]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--torch-python", help="interpreter of an environment with PyTorch")
    parser.add_argument("--torch-steps", type=int, default=20_000, help="that are timed of each PyTorch scheduler")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    torch_python = options.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    stepped = torch_seconds(torch_python, options.torch_steps) if torch_python else {}
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    print(f"{COUNTS:,} rates in one compiled call, ms:")
    if stepped:
        print(f"(PyTorch: extrapolated from {options.torch_steps:,} steps)")
    counts = jnp.arange(COUNTS)
    for name, (ours, theirs) in schedules().items():
        both = [ours] if theirs is None else [ours, jax.vmap(theirs)]
        seconds = seconds_in_turn([compiled(schedule, counts)[0] for schedule in both], counts, options.rounds)
        line = f"{name:22} lrx {1e3 * seconds[0]:8.2f}"
        if theirs is not None:
            line += f"   optax {1e3 * seconds[1]:8.2f} ({seconds[0] / seconds[1]:5.2f} times)"
        if name in stepped:
            total = COUNTS * stepped[name]
            line += f"   PyTorch {1e3 * total:8.0f} (ours is {total / seconds[0]:,.0f} times faster)"
        print(line, flush=True)
    print("one step, float(schedule(step)), CPU time:")
    for name, (ours, theirs) in schedules().items():
        columns = {"lrx": ours}
        if theirs is not None:
            columns |= {"optax": theirs, "jax.jit(optax)": jax.jit(theirs)}
        costs = {label: seconds_of_a_step(schedule) for label, schedule in columns.items()}
        listed = "   ".join(f"{label} {1e3 * a:6.1f} ms, then {1e6 * b:7.1f} us" for label, (a, b) in costs.items())
        print(f"{name:22} {listed}", flush=True)
    print("to trace, lower and compile, ms:")
    for name, make in (
        (f"piecewise_constant with {PIECES:,} boundaries", many_pieces),
        (f"join of {COSINES} cosines", joined_cosines),
    ):
        for asked, what in ((jnp.int32(0), "one count"), (counts, f"{COUNTS:,} counts")):
            times: dict[str, list[float]] = {"lrx": [], "optax": []}
            for turn in range(4):
                for library in (lrx, optax):
                    took = compiled(make(library), asked)[1]
                    if turn:  # the first loads the compiler
                        times[library.__name__].append(took)
            listed = "   ".join(f"{library} {1e3 * statistics.median(took):8.0f}" for library, took in times.items())
            print(f"{name:42} {what:16} {listed}", flush=True)


if __name__ == "__main__":
    main()
