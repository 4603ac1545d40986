"""`lrx range-test`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from lrx.cli.console import out, print_written, wrapped
from lrx.cli.folders import folder_of_run, require_folder, require_picture
from lrx.cli.options import BATCH_SIZE, BatchSize, Data, DataDir, Model, Picture

MIN_RATE, MAX_RATE, STEPS, LADDER = 1e-7, 10.0, 100, "exponential"  # if no others are given


def range_test(
    data: Data = "digits",
    model: Model = "mlp",
    tx: Annotated[str, typer.Option(help="The optimizer, with the word rate in it.")] = "sgd(rate, momentum=0.9)",
    min_rate: Annotated[float, typer.Option(help="The first rate.")] = MIN_RATE,
    max_rate: Annotated[float, typer.Option(help="The last rate.")] = MAX_RATE,
    steps: Annotated[int, typer.Option(min=6, help="Number of rates.")] = STEPS,
    ladder: Annotated[str, typer.Option(help="exponential, linear or doubling.")] = LADDER,
    batch_size: BatchSize = BATCH_SIZE,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs, side by side.")] = 1,
    data_dir: DataDir = None,
    path: Picture = None,
) -> None:
    """Find the rate to start with: a short run through all rates.

    \b
    lrx range-test --data cifar10 --model resnet8
    lrx range-test --tx "adamw(rate, weight_decay=0.1)"
    """
    if path is None:
        ladder_of = {"from": (min_rate, MIN_RATE), "to": (max_rate, MAX_RATE), "rates": (steps, STEPS)}
        others = {"ladder": (ladder, LADDER), "seeds": (seeds, 1), "batch": (batch_size, BATCH_SIZE)}
        path = folder_of_run(data, model, tx, **ladder_of, **others) / "range_test.png"
    require_picture(path)
    from lrx import expressions, figures, tuning, workloads

    factory = expressions.parse_rate_function(tx)
    require_folder(path.parent)
    workload = workloads.make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    found = tuning.range_test(
        workload,
        tx=factory,
        min_rate=min_rate,
        max_rate=max_rate,
        num_steps=steps,
        ladder=ladder,
        seeds=seeds,
        progress=True,
    )
    print_written(figures.save(found.plot(title=f"{workload.name}: {tx}"), path))
    out.print(f"{workload.name}, {tx}", markup=False)
    table = Table("rule", "rate")
    for rule, rate in found.suggestions.items():
        table.add_row(tuning.RULE_TITLES.get(rule, rule), "-" if rate is None else f"{rate:.2g}")
    wrapped.print(table)
    if found.diverged_at is not None:
        out.print(f"diverged at {found.diverged_at:.2g}")
    out.print(f"start with {found.suggestion:.2g}")
