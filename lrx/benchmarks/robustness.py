"""How much does a method's accuracy depend on the rate that it is started with?

    lrx bench robustness
    lrx bench robustness --workload digits --fine

Perceptrons on digits, MNIST and CIFAR-10 are trained with every method from eight rates between 1e-6 and 10. The loss
on training images and the accuracy on the test set are measured at the end. All methods start from the same parameters
and see the same minibatches. The result counts the decades of rates from which a method comes within 2 points of its
own best accuracy. A run whose loss is not finite, at any step or at the end, counts as guessing, 10 %. The output is
robustness.json, robustness.png, and a README.md with the tables.

For a method that finds its rate by itself, the rate is the factor by which its paper multiplies the estimate
(D-Adaptation, Prodigy, DoG, DoWG), the rate of the optimizer that it tunes (Mechanic), or an upper bound (MoMo,
Polyak's and Armijo's rules). COCOB has no rate, and is run once. Controllers multiply the rate of SGD with momentum
0.9, except for the cumulative path, which needs the steps of plain gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import lrx
from lrx._checks import known
from lrx.benchmarks.robustness_report import CHANCE, STEM, decades_near_best, page, plot, summary
from lrx.figures import save
from lrx.records import Result, stopwatch, write_atomically
from lrx.training import Workload
from lrx.tuning import Execution, sweep
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import load

Factory = Callable[[Any], Any]  # of the rate, a tracer

MOMENTUM = 0.9


def controlled(controller: Callable[[], lrx.Controller], momentum: float | None = MOMENTUM) -> Factory:
    """Return a factory of SGD whose rate a controller multiplies."""
    return lambda rate: lrx.sgd(lrx.constant(rate) * controller(), momentum=momentum)


GROUPS: dict[str, dict[str, Factory]] = {
    "fixed rate": {
        "sgd": lambda rate: lrx.sgd(rate),
        "sgd, momentum": lambda rate: lrx.sgd(rate, momentum=MOMENTUM),
        "adam": lambda rate: lrx.adam(rate),
        "adamw": lambda rate: lrx.adamw(rate),
    },
    "controllers of sgd": {
        "greedy": controlled(lambda: lrx.greedy(smoothing=0.9)),
        "relative_adaptation": controlled(lambda: lrx.relative_adaptation()),
        "pid": controlled(lambda: lrx.pid(significance=0.0)),
        # Without momentum, since consecutive velocities point the same way anyway.
        "cumulative_path": controlled(lambda: lrx.cumulative_path(), momentum=None),
        # It compares means, since losses of single minibatches are too noisy.
        "reduce_on_plateau": controlled(lambda: lrx.reduce_on_plateau(accumulation_size=100, patience=3)),
        "rollback_on_divergence": lambda rate: lrx.rollback_on_divergence(lrx.sgd(rate, momentum=MOMENTUM)),
    },
    "rate from the distance or the gain": {
        "d_adaptation": lambda rate: lrx.d_adaptation(rate),
        "prodigy": lambda rate: lrx.prodigy(rate),
        "dog": lambda rate: lrx.dog(rate),
        "dowg": lambda rate: lrx.dowg(rate),
        "mechanic": lambda rate: lrx.mechanic(lrx.sgd(rate, momentum=MOMENTUM)),
        "cocob": lambda rate: lrx.cocob(),  # noqa: ARG005
    },
    "rate from the loss": {
        "momo": lambda rate: lrx.momo(rate),
        "momo_adam": lambda rate: lrx.momo_adam(rate),
        "polyak": lambda rate: lrx.polyak(max_rate=rate),
        "armijo": lambda rate: lrx.armijo(max_rate=rate),
    },
    "hypergradients, schedule-free": {
        "hypergradient_sgd": lambda rate: lrx.hypergradient_sgd(rate),
        "hypergradient_adam": lambda rate: lrx.hypergradient_adam(rate),
        "schedule_free_sgd": lambda rate: lrx.schedule_free_sgd(rate),
        "schedule_free_adamw": lambda rate: lrx.schedule_free_adamw(rate),
    },
}
METHODS: dict[str, Factory] = {name: make for methods in GROUPS.values() for name, make in methods.items()}
WITHOUT_RATE = frozenset({"cocob"})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained on one data set: a perceptron, its minibatches, and the length."""

    widths: tuple[int, ...]
    batch_size: int
    epochs: int


WORKLOADS = {
    "digits": Settings(widths=(64,), batch_size=64, epochs=50),
    "mnist": Settings(widths=(64,), batch_size=128, epochs=5),
    "cifar10": Settings(widths=(64,), batch_size=128, epochs=5),
}


def load_workload(data: str, settings: Settings, data_dir: Path | None) -> Workload:
    """Build the workload of a data set, which evaluates on test images and on training images."""
    options: dict[str, Any] = {"batch_size": settings.batch_size, "widths": settings.widths}
    return dataset_workload(load(data, data_dir), "mlp", evaluate_on=("test", "train"), **options)


def measure(workload: Workload, num_steps: int, method: str, rates: np.ndarray, seeds: Sequence[int]) -> dict[str, Any]:
    """Train with one method from every rate.

    Args:
      workload: a workload from `load_workload`.
      num_steps: length of each run.
      method: a name in `METHODS`.
      rates: (rates,) the starting rates.
      seeds: seeds of the runs from each rate.

    Returns:
      "accuracy", "test_loss", "train_loss" and "finite" as (seeds, rates) lists, and "seconds".
    """
    elapsed = stopwatch()
    tried = rates[:1] if method in WITHOUT_RATE else rates
    found = sweep(
        workload,
        METHODS[method],
        {"rate": tried},
        num_steps=num_steps,
        seeds=seeds,
        num_points=1,
        execution=Execution(strategy="vmap"),
        progress=False,
    )
    final = {name: np.asarray(values, np.float64) for name, values in found.evaluations.items()}
    finite = np.isfinite(found.final_loss) & np.isfinite(final["loss"]) & np.isfinite(final["train_loss"])
    measured = {
        "accuracy": np.where(finite, final["accuracy"], CHANCE),
        "test_loss": np.where(finite, final["loss"], np.nan),
        "train_loss": np.where(finite, final["train_loss"], np.nan),
        "finite": finite,
    }
    shape = (len(seeds), len(rates))
    return {name: np.broadcast_to(each.T, shape).tolist() for name, each in measured.items()} | {"seconds": elapsed()}


def run(
    workloads: Iterable[str] = tuple(WORKLOADS),
    methods: Iterable[str] = tuple(METHODS),
    *,
    epochs: int | None = None,
    seeds: int = 1,
    fine: bool = False,
    data_dir: Path | None = None,
) -> Result:
    """Train with every method on every workload, and print the progress."""
    elapsed, methods = stopwatch(), tuple(methods)
    rates = np.logspace(-6, 1, 15 if fine else 8)
    given: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    settings = {data: dataclasses.replace(WORKLOADS[data], **given) for data in workloads}
    # All of them first, so that a missing file is found before anything is trained.
    loaded = {data: load_workload(data, each, data_dir) for data, each in settings.items()}
    steps = {data: settings[data].epochs * each.batches.steps_per_epoch for data, each in loaded.items()}
    curves: dict[str, Any] = {}
    for data, workload in loaded.items():
        curves[data] = {}
        for method in methods:
            curves[data][method] = measured = measure(workload, steps[data], method, rates, range(seeds))
            accuracies = np.mean(measured["accuracy"], axis=0)
            print(
                f"{data:8} {method:24} {measured['seconds']:6.1f} s   best {100 * accuracies.max():.1f} %, "
                f"{decades_near_best(accuracies, rates):.3g} decades",
                flush=True,
            )
    used = {data: dataclasses.asdict(each) | {"steps": steps[data]} for data, each in settings.items()}
    written = {"rates": rates.tolist(), "momentum": MOMENTUM, "workloads": used}
    return Result("robustness", "cpu", ", ".join(curves), list(range(seeds)), written, curves, elapsed())


def write(result: Result, folder: Path) -> list[Path]:
    """Write a result, its picture and its page to a folder."""
    return [
        result.save(folder / f"{STEM}.json"),
        save(plot(result, GROUPS), folder / f"{STEM}.png"),
        write_atomically(folder / "README.md", page(result, __doc__.splitlines()[0])),
    ]


def main(
    workloads: Annotated[
        list[str], typer.Option("--workload", help=f"Of {', '.join(WORKLOADS)}; once for each.")
    ] = list(WORKLOADS),  # noqa: B006
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Of `METHODS`, once for each; by default all.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every workload, instead of its own.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs from each rate.")] = 1,
    fine: Annotated[bool, typer.Option("--fine", help="Two rates in a decade.")] = False,
    folder: Annotated[Path, typer.Option("--out", help="Where the result is written.")] = Path(
        "lrx-results/robustness"
    ),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")] = None,
) -> None:
    """Measure, print and draw."""
    for workload in workloads:
        known("--workload", workload, WORKLOADS)
    for method in methods or ():
        known("--method", method, METHODS)
    result = run(workloads, methods or METHODS, epochs=epochs, seeds=seeds, fine=fine, data_dir=data_dir)
    print(f"\n{result.origin()}\n\n{summary(result)}\n")
    for path in write(result, folder):
        print(f"wrote {path}")
