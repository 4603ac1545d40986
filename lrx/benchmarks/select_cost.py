"""How many full runs does `lrx.select` cost, with compilation and evaluations?

A character transformer on English text is trained for two lengths, so that a full run takes about five and about thirty
seconds on two cores of a CPU; with `--data`, another workload. What is measured is CPU time, in this process and
without a cache of compiled programs: that of a full run with AdamW, the median of two before and two after, since a
machine's speed changes; and in between that of `select`, which compiles its own programs. The aim is a ratio to the
budget of at most 3 for the short run, and of at most 1.3 for the long one. The number of compilations and of
evaluations is printed too, and the ratio to full runs of what was chosen, of which a step may take longer.

    lrx bench select_cost
    lrx bench select_cost --steps 350 --budget 1
    lrx bench select_cost --data cifar10 \\
      --model resnet8 --batch-size 64 --steps 300
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

import lrx
from lrx.benchmarks.timing import describe_machine
from lrx.workloads import make_workload
from lrx.workloads.text import make_text_workload

MODEL, BATCH_SIZE = "mlp", 128
COMPILATION = "/jax/core/compile/backend_compile_duration"


def cpu_seconds(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Call a function; return the CPU seconds of all threads, and the result."""
    began = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - began, result


def count_compilations() -> list[float]:
    """Return a list to which the duration of each compilation is appended."""
    found: list[float] = []

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        del details
        if event == COMPILATION:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


def measure(workload: lrx.Workload, length: int, budget: float, repeats: int, compilations: list[float]) -> str:
    """Return what `select` costs for full runs of a length, as a line of text."""
    tx = lrx.adamw(lrx.linear_decay(1e-3, length))
    lrx.train(workload, tx, steps=1)  # compiles

    def runs(first: int) -> list[float]:
        seeds = range(first, first + repeats)
        return [cpu_seconds(lrx.train, workload, tx, steps=length, seed=seed)[0] for seed in seeds]

    each, before = runs(1), len(compilations)
    spent, found = cpu_seconds(lrx.select, workload, num_steps=length, budget=budget, progress=False)
    compiled = len(compilations) - before
    each += runs(1 + repeats)
    lrx.train(workload, found.tx, steps=1)  # compiles
    own = cpu_seconds(lrx.train, workload, found.tx, steps=length)[0]
    run = float(np.median(each))
    return (
        f"{length:,} steps: a full run of AdamW takes {run:.1f} CPU-s ({min(each):.1f} to {max(each):.1f}), select "
        f"{spent:.1f}: {spent / run:.1f} full runs, {spent / run / budget:.2f} of its budget of {budget:g}, with "
        f"{compiled} compilations and {found.evaluations} evaluations. It chose {found.method}, a full run of which "
        f"takes {own:.1f} CPU-s: {spent / own / budget:.2f} of its budget in those."
    )


def main(
    steps: Annotated[list[int], typer.Option("--steps", min=1, help="Of a full run; once for each.")] = [350, 2100],  # noqa: B006
    budget: Annotated[float, typer.Option(help="Full runs that `select` may spend.")] = 3.0,
    repeats: Annotated[int, typer.Option(min=1, help="Full runs that are timed before, and after.")] = 2,
    width: Annotated[int, typer.Option(min=4, help="Of the transformer, a multiple of 4.")] = 64,
    data: Annotated[str | None, typer.Option(help="A data set that `lrx names` lists, in place of the text.")] = None,
    model: Annotated[str, typer.Option(help="A model that `lrx names` lists, with --data.")] = MODEL,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a minibatch, with --data.")] = BATCH_SIZE,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")] = None,
) -> None:
    """Measure and print."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilations = count_compilations()
    if data is None and (model != MODEL or batch_size != BATCH_SIZE):
        raise ValueError("--model and --batch-size need --data, since the text has its own: add --data digits.")
    if data is None:
        workload, name = make_text_workload(width=width), f"a character transformer of width {width}"
    else:
        workload = make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
        name = f"{data}, {model}, minibatches of {batch_size}"
    print(f"{name}, {describe_machine()}")
    for length in steps:
        print(measure(workload, length, budget, repeats, compilations), flush=True)
