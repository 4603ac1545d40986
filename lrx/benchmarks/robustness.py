"""How much does a method's accuracy depend on the rate that it is started with?

    lrx bench robustness
    lrx bench robustness --workload digits --method sgd --method adam --method greedy --fine

Perceptrons on digits, MNIST and CIFAR-10 are trained with every method from eight rates between 1e-6 and 10. Measured
are the loss on training images and the accuracy on the test set at the end. All methods start from the same parameters
and see the same minibatches. The result counts the decades of rates from which a method comes within 2 points of its
own best accuracy. A run whose loss is not finite, at any step or at the end, counts as guessing, 10 %. Written are
robustness.json, robustness.png, and a README.md with the tables.

For a method that finds its rate by itself, the rate is what its paper multiplies the estimate by (D-Adaptation,
Prodigy, DoG, DoWG), the rate of the optimizer that it tunes (Mechanic), or an upper bound (MoMo, Polyak's and Armijo's
rules). COCOB has no rate, and is run once. Controllers multiply the rate of SGD with momentum 0.9, except for the
cumulative path, which needs the steps of plain gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import lrx
from lrx._checks import known
from lrx.figures import panels, save
from lrx.records import Result, markdown_table, stopwatch, write_atomically
from lrx.training import Workload
from lrx.tuning import Execution, sweep
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Factory = Callable[[Any], Any]  # of the rate, a tracer

STEM = "robustness"  # of the files that are written
MOMENTUM = 0.9
CHANCE = 0.1  # all three data sets have ten classes, of about the same size
NEAR = 0.02  # of the best accuracy


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
    "controllers of sgd": {  # with momentum
        "greedy": controlled(lambda: lrx.greedy(smoothing=0.9)),
        "relative_adaptation": controlled(lambda: lrx.relative_adaptation()),
        "pid": controlled(lambda: lrx.pid(significance=0.0)),
        # Without: velocities point the same way by themselves.
        "cumulative_path": controlled(lambda: lrx.cumulative_path(), momentum=None),
        # Losses of single minibatches are too noisy for it.
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
    """What is trained on one data set: a perceptron, and for how long."""

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
      workload: of `load_workload`.
      num_steps: of each run.
      method: a name in `METHODS`.
      rates: (rates,) at the start.
      seeds: of the runs from each rate.

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


def decades_near_best(accuracies: np.ndarray, rates: np.ndarray) -> float:
    """Count the decades of rates from which the accuracy is within 2 points of the best; a rate stands for its step."""
    step = np.log10(rates[-1] / rates[0]) / (len(rates) - 1)
    # What is off by 2 points exactly counts, whatever the rounding.
    return float(step * np.sum(accuracies >= accuracies.max() - NEAR - 1e-6))


def accuracy_table(result: Result, data: str) -> str:
    """Write a data set's accuracies in percent as Markdown."""
    rates = np.asarray(result.settings["rates"])
    rows = []
    for method, measured in result.curves[data].items():
        accuracies, finite = np.mean(measured["accuracy"], axis=0), np.all(measured["finite"], axis=0)
        cells = [f"{100 * accuracy:.1f}{'' if ok else '†'}" for accuracy, ok in zip(accuracies, finite, strict=True)]
        rows.append([f"`{method}`", *cells, f"{decades_near_best(accuracies, rates):.3g}"])
    return markdown_table(["method", *(f"{rate:.3g}" for rate in rates), "decades within 2 points"], rows)


def loss_table(result: Result, data: str) -> str:
    """Write a data set's final losses on training images as Markdown."""
    rows = []
    for method, measured in result.curves[data].items():
        finite = np.all(measured["finite"], axis=0)
        losses = np.mean(np.where(finite, np.asarray(measured["train_loss"], np.float64), np.nan), axis=0)
        rows.append([f"`{method}`", *("†" if np.isnan(loss) else f"{loss:.2g}" for loss in losses)])
    return markdown_table(["method", *(f"{rate:.3g}" for rate in result.settings["rates"])], rows)


def summary(result: Result) -> str:
    """Write for each method its best accuracy in percent, and the decades of rates near it, on each data set."""
    rates = np.asarray(result.settings["rates"])
    rows = []
    for method in next(iter(result.curves.values())):
        cells = []
        for curves in result.curves.values():
            accuracies = np.mean(curves[method]["accuracy"], axis=0)
            cells.append(f"{100 * accuracies.max():.1f} ({decades_near_best(accuracies, rates):.3g})")
        rows.append([f"`{method}`", *cells])
    return markdown_table(["method", *(f"{data}, best (decades)" for data in result.curves)], rows)


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


# A group has its colours, dark to light, and, for black and white, its stroke and its kind of markers.
@dataclasses.dataclass(frozen=True)
class Style:
    """How the lines of a group of methods are drawn."""

    colours: tuple[str, ...]
    markers: str
    filled: bool = True
    dashed: bool = False
    width: float = 1.3

    def line(self, index: int) -> dict[str, Any]:
        """Return the arguments of `Axes.plot` for a method of the group."""
        colour = self.colours[index % len(self.colours)]
        return {
            "color": colour,
            "marker": self.markers[index % len(self.markers)],
            "markerfacecolor": colour if self.filled else "white",
            "markersize": 4.5 * self.width**0.5,
            "linestyle": (0, (4.0, 1.5)) if self.dashed else "-",
            "linewidth": self.width,
        }


STYLES = (
    Style(("#6E7378", "#6E7378", "#9AA0A6", "#9AA0A6"), "osD^", width=0.7),
    Style(("#0B2E6B", "#14509E", "#1F77C4", "#3F9BE0", "#0E7C86", "#22B0BC"), "osD^vP"),
    Style(("#7A2E00", "#B34700", "#E06A0A", "#F2972E", "#A31515", "#D9534F"), "osD^vP", filled=False),
    Style(("#114D14", "#2E7D32", "#55A630", "#8DB600"), "X*ph", dashed=True),
    Style(("#4A126B", "#8E24AA", "#C2185B", "#E573B5"), "<>d8", filled=False, dashed=True),
    Style(("#20262B", "#8A97A3"), "12348", dashed=True, width=0.7),  # of methods that are not in GROUPS
)
TICKS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def readable(ticks: Iterable[float], high: float) -> list[float]:
    """Choose those ticks below `high` that do not crowd on the axis of `plot`."""
    chosen: list[float] = []
    for tick in ticks:
        if tick < high and (not chosen or np.log((1 - chosen[-1]) / (1 - tick)) > 0.035 * -np.log(1 - high)):
            chosen.append(tick)
    return chosen


def plot(result: Result) -> Figure:
    """Draw accuracy over the rate, a panel for each data set and a line for each method.

    Accuracies are drawn by the logarithm of what is missing, so that good methods lie apart.
    """
    rates, columns = np.asarray(result.settings["rates"]), len(result.curves)
    figure, axes = panels(columns, 2, size=(15.0, 8.2), height_ratios=(3.4, 1))
    from matplotlib.legend import Legend
    from matplotlib.ticker import FixedLocator, NullLocator

    grid = axes[columns].get_gridspec()
    assert grid is not None
    for panel in axes[columns:]:
        panel.remove()
    legend = figure.add_subplot(grid[1, :])
    legend.set_axis_off()
    # What was measured is drawn, whether or not METHODS still holds it.
    others = [method for method in next(iter(result.curves.values())) if method not in METHODS]
    groups: dict[str, Sequence[str]] = {group: list(methods) for group, methods in GROUPS.items()}
    groups |= {"others": others} if others else {}
    lines: dict[str, Any] = {}
    decades: dict[str, list[str]] = {}
    for column, (data, curves) in enumerate(result.curves.items()):
        panel = axes[column]
        panel.axhline(CHANCE, color="black", linestyle=":", linewidth=0.8)
        highest = CHANCE
        for order, (methods, style) in enumerate(zip(groups.values(), STYLES, strict=False)):
            for index, method in enumerate(methods):
                if method not in curves:
                    continue
                accuracies = np.mean(curves[method]["accuracy"], axis=0)
                finite = np.all(curves[method]["finite"], axis=0)
                (line,) = panel.plot(rates, accuracies, zorder=2 + order / 10, **style.line(index))
                panel.plot(rates[~finite], accuracies[~finite], "x", color="black", markersize=7, zorder=3)
                lines.setdefault(method, line)
                decades.setdefault(method, []).append(f"{decades_near_best(accuracies, rates):.3g}")
                highest = max(highest, accuracies.max())
        panel.set_xscale("log")
        panel.set_yscale("function", functions=(lambda y: -np.log(np.maximum(1 - y, 1e-9)), lambda y: 1 - np.exp(-y)))
        low, high = CHANCE - 0.06, 1 - 0.9 * (1 - highest)
        panel.set_ylim(low, high)
        ticks = readable(TICKS, high)
        panel.yaxis.set_major_locator(FixedLocator(ticks))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_yticklabels([f"{100 * tick:.3g}" for tick in ticks])
        panel.set_xticks(10.0 ** np.arange(-6, 2))
        settings = result.settings["workloads"][data]
        panel.set_title(f"{data}, {settings['epochs']} epochs", loc="left", fontsize=11)
        panel.set_xlabel("rate at the start")
        if column == 0:
            panel.set_ylabel("test accuracy (%), by the logarithm of the error")
    for number, (group, methods) in enumerate(groups.items()):
        shown = [method for method in methods if method in lines]
        if shown:
            labels = [f"{method} ({', '.join(decades[method])})" for method in shown]
            part = Legend(
                legend,
                [lines[method] for method in shown],
                labels,
                title=group,
                loc="upper left",
                bbox_to_anchor=(number / len(groups), 1.0),
                frameon=False,
                fontsize=9,
                title_fontproperties={"weight": "bold", "size": 9},
                alignment="left",
                handlelength=3.5,
            )
            legend.add_artist(part)
    note = (
        "In brackets: decades of rates from which the method comes within 2 points of its own best, on each data set."
        "   ×: not finite in the end, counted as guessing (dotted)."
    )
    legend.text(0.0, 0.0, note, fontsize=9, transform=legend.transAxes)
    return figure


def page(result: Result) -> str:
    """Return the tables of a result as a page in Markdown, which says what was measured, when and on what."""
    heading = __doc__.splitlines()[0]
    methods, rates = len(next(iter(result.curves.values()))), result.settings["rates"]
    lines = [f"# {heading}", ""]
    lines += [
        f"{methods} methods, each started from {len(rates)} rates between {min(rates):g} and {max(rates):g}. The table "
        "shows the best test accuracy (%) over these rates and, in brackets, the decades of rates that come within 2 "
        "points of it. A run that was not finite (†) counts as guessing. Controllers multiply "
        "the rate of SGD with momentum, `cumulative_path` that of plain SGD; `greedy(smoothing=0.9)` and "
        "`pid(significance=0.0)` follow every loss here. For methods that estimate a distance, the rate multiplies the "
        "estimate; `cocob` has no rate.",
        "",
        result.origin(),
        "",
        f"![Accuracy over the starting rate, for every method]({STEM}.png)",
        "",
        summary(result),
    ]
    for data in result.curves:
        settings = result.settings["workloads"][data]
        layers = "-".join(map(str, settings["widths"]))
        lines += [
            *("", f"## {data}", ""),
            f"A perceptron with hidden layers of {layers} units; {settings['epochs']} epochs, {settings['steps']:,} "
            f"steps of {settings['batch_size']} images.",
            *("", "Test accuracy (%) by the rate at the start:", "", accuracy_table(result, data)),
            *("", "Loss on training images at the end, by the rate at the start:", "", loss_table(result, data)),
        ]
    return "\n".join(lines) + "\n"


def write(result: Result, folder: Path) -> list[Path]:
    """Write a result, its picture and its page to a folder."""
    return [
        result.save(folder / f"{STEM}.json"),
        save(plot(result), folder / f"{STEM}.png"),
        write_atomically(folder / "README.md", page(result)),
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
