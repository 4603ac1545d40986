"""How long does a schedule take for a million steps, beside optax and PyTorch, and how long to compile a large one?

    lrx bench schedules
    lrx bench schedules --torch-python PATH

The first table times `jax.jit(lambda c: schedule(c))` on `jnp.arange(1_000_000)`, already compiled, and optax's
schedule of the same kind if there is one, under `jax.vmap`, since not all of them take arrays. PyTorch's schedulers (if
it is installed, or in the environment of --torch-python) are stepped; the time of a million steps is extrapolated. The
second table times a single step, `float(schedule(step))`, as a Python loop calls it, in CPU time: the first call, which
compiles, and a later one, with optax's schedule as it is and compiled for comparison. The third table times tracing,
lowering and compiling of a schedule of 1,000 pieces and one of 100 joined cosines.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import lrx
from lrx.benchmarks.timing import compare, describe_machine, in_turn, seconds_of

COUNTS = 1_000_000
PEAK, QUARTER = 0.1, COUNTS // 4
PIECES, COSINES = 1_000, 100

TORCH_PROGRAM = """
import json, sys, time, warnings
import torch

steps, schedulers = int(sys.argv[1]), torch.optim.lr_scheduler
warnings.simplefilter("ignore")  # about an optimizer that takes no step
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
    """Build a schedule of each kind, and that of optax if it has one of the kind."""
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
    """Build a hundred cosines, one after the other."""
    length = COUNTS // COSINES
    boundaries = [length * index for index in range(1, COSINES)]
    if library is lrx:
        return lrx.join([lrx.cosine_decay(PEAK / (1 + i), length) for i in range(COSINES)], boundaries)
    return optax.join_schedules(
        [optax.cosine_decay_schedule(PEAK / (1 + i), length) for i in range(COSINES)], boundaries
    )


def many_pieces(library: Any) -> Any:
    """Build a piecewise constant schedule with a thousand boundaries."""
    factors = {COUNTS // PIECES * index: 0.999 for index in range(1, PIECES + 1)}
    if library is lrx:
        return lrx.piecewise_constant(PEAK, factors)
    return optax.piecewise_constant_schedule(PEAK, factors)


def compile_program(schedule: Callable[[Any], Any], counts: jax.Array) -> tuple[Any, float]:
    """Compile a schedule for counts of one shape; return the program and the seconds."""
    jax.clear_caches()
    began = time.perf_counter()
    program = jax.jit(lambda count: schedule(count)).lower(counts).compile()
    return program, time.perf_counter() - began


def step_seconds(schedule: Callable[[Any], Any], calls: int = 200) -> tuple[float, float]:
    """Return the CPU seconds of the first call with a Python integer, and the least mean of later calls."""
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
    """Step PyTorch's schedulers in a process of its own, and return the seconds of one step."""
    command = [python, "-c", TORCH_PROGRAM, str(steps)]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Timings of each schedule.")] = 15,
    torch_python: Annotated[str | None, typer.Option(help="Interpreter of an environment with PyTorch.")] = None,
    torch_steps: Annotated[int, typer.Option(min=1, help="Steps that are timed of each PyTorch scheduler.")] = 20_000,
) -> None:
    """Measure and print."""
    jax.config.update("jax_enable_compilation_cache", False)
    torch_python = torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    stepped = torch_seconds(torch_python, torch_steps) if torch_python else {}
    print(describe_machine())
    print_array_times(rounds, stepped, torch_steps)
    print_step_times()
    print_compile_times()


def print_array_times(rounds: int, stepped: dict[str, float], torch_steps: int) -> None:
    """Print the times of a million rates; `stepped` is the seconds of one step of PyTorch's schedulers."""
    print(f"{COUNTS:,} rates in one compiled call, ms:")
    if stepped:
        print(f"(PyTorch: extrapolated from {torch_steps:,} steps)")
    counts = jnp.arange(COUNTS)
    for name, (ours, theirs) in schedules().items():
        both = {"lrx": ours} if theirs is None else {"lrx": ours, "optax": jax.vmap(theirs)}
        programs = {library: compile_program(schedule, counts)[0] for library, schedule in both.items()}
        contestants = {library: functools.partial(seconds_of, program, counts) for library, program in programs.items()}
        found = compare(in_turn(contestants, rounds, warmup_rounds=1), "lrx" if theirs is None else "optax")
        line = f"{name:22} lrx {1e3 * found['lrx'].median:8.2f}"
        if theirs is not None:
            line += f"   optax {1e3 * found['optax'].median:8.2f}, ratio {found['lrx']}"
        if name in stepped:
            total = COUNTS * stepped[name]
            line += f"   PyTorch {1e3 * total:8.0f} (lrx is {total / found['lrx'].median:,.0f} times faster)"
        print(line, flush=True)


def print_step_times() -> None:
    """Print the CPU times of a step, as called from a Python loop."""
    print("one step, float(schedule(step)), CPU time:")
    for name, (ours, theirs) in schedules().items():
        columns = {"lrx": ours}
        if theirs is not None:
            columns |= {"optax": theirs, "jax.jit(optax)": jax.jit(theirs)}
        costs = {label: step_seconds(schedule) for label, schedule in columns.items()}
        listed = "   ".join(f"{label} {1e3 * a:6.1f} ms, then {1e6 * b:7.1f} us" for label, (a, b) in costs.items())
        print(f"{name:22} {listed}", flush=True)


def print_compile_times() -> None:
    """Print the times of tracing, lowering and compiling two large schedules."""
    print("to trace, lower and compile, ms:")
    for name, build in (
        (f"piecewise_constant with {PIECES:,} boundaries", many_pieces),
        (f"join of {COSINES} cosines", joined_cosines),
    ):
        for asked, what in ((jnp.int32(0), "one count"), (jnp.arange(COUNTS), f"{COUNTS:,} counts")):

            def seconds(library: Any, build: Any = build, asked: jax.Array = asked) -> float:
                return compile_program(build(library), asked)[1]

            contestants = {library.__name__: functools.partial(seconds, library) for library in (lrx, optax)}
            times = in_turn(contestants, 3, warmup_rounds=1)  # the first round loads the compiler
            listed = "   ".join(f"{library} {1e3 * np.median(took):8.0f}" for library, took in times.items())
            print(f"{name:42} {what:16} {listed}", flush=True)
