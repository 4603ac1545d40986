"""Does `lrx.select` choose as well as an exhaustive search, and better than common practice?

    lrx bench select
    lrx bench select --task digits-mlp --seeds 1
    lrx bench select --unseen

By default the tasks are the nine of `lrx.workloads.suite.earlier`; --unseen measures five related ones that were not
used to develop the rules of `select`.

On each task, all methods of the portfolio are trained from a grid of rates, half a decade apart, and the best five
again with two more seeds. The best of them by the mean is the oracle. The strategies, with three seeds each, are:
`select` with a budget of 3 full runs; Optuna (TPE, Hyperband) with the same compute, over the whole portfolio and over
only AdamW's rate; a range test followed by one-cycle; and every method at its default rate. Each choice is trained
again with ten seeds that were not used for choosing. Regret is how much worse it is than the oracle on the same seeds:
1 - accuracy / the oracle's accuracy, or loss / the oracle's loss - 1.

All full runs are kept in runs.json, so that an interrupted benchmark resumes. The output is select.json and select.png
(unseen.json and unseen.png if only related tasks are measured), and a README.md with the tables of both.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from lrx._checks import known
from lrx.figures import PALETTE, legend, panels, save
from lrx.records import Result, load, markdown_table, stopwatch, write_atomically
from lrx.training.following import BestBy
from lrx.tuning.range_test import range_test
from lrx.tuning.selection.portfolio import PORTFOLIO, Method
from lrx.tuning.selection.runner import MethodRunner
from lrx.tuning.selection.select import select
from lrx.workloads.suite import Task
from lrx.workloads.suite.earlier import EARLIER, UNSEEN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BUDGET = 3.0  # full runs
TUNED_FACTORS = 10.0 ** (np.arange(-3, 6) / 2)  # of the default rate, for methods with a range test
FREE_FACTORS = 10.0 ** (np.arange(-2, 3) / 2)  # of the default rate, for the others
GRID_SEED, MORE_SEEDS, REPEATED = 0, (1, 2), 5  # the best five of the oracle's grid get more seeds
FIRST_SEED = 200  # of those used for choosing; the rules of select were developed with seeds 0 to 16
HELD_OUT = tuple(range(100, 110))  # seeds that judge every choice
NEAR = 0.01  # regret that counts as reaching the oracle
HYPERBAND = (1 / 27, 1 / 9, 1 / 3, 1.0)  # fractions of a run after which Optuna's pruner decides
STEMS = {  # of the files that are written, with the kind of tasks
    "select": "Tasks on which the rules of `select` were developed",
    "unseen": "Related tasks that were not used to develop them",
}
CYCLES = ("sgd, one-cycle", "adamw, one-cycle")


class Runs:
    """The full runs of one task, each trained once and kept in a file that all tasks share."""

    def __init__(self, name: str, task: Task, data_dir: Path | None, path: Path) -> None:
        self.name, self.task, self.path = name, task, path
        self.workload = task.make(data_dir)
        self.runner = MethodRunner(self.workload, task.steps, PORTFOLIO, BestBy(task.metric, task.mode))
        self.kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def value(self, method: str, rate: float, seed: int) -> float:
        """Return the metric at the end of a full run; infinitely bad if it diverged."""
        kept = self.kept.setdefault(self.name, {})
        key = f"{method} | {rate:.9g} | {seed}"
        if key not in kept:
            value = self.runner.run_once(method, rate, seed)
            kept[key] = value if math.isfinite(value) else None
        return self.worst if kept[key] is None else kept[key]

    @property
    def worst(self) -> float:
        """The metric of a run that diverged."""
        return math.inf if self.task.mode == "min" else -math.inf

    def held_out(self, method: str, rate: float) -> list[float]:
        """Return the metric with each of the seeds that judge every choice."""
        return [self.value(method, rate, seed) for seed in HELD_OUT]

    def save(self) -> None:
        """Write the kept runs, whole or not at all."""
        write_atomically(self.path, json.dumps(self.kept, indent=0) + "\n")

    def best_first(self, values: dict[tuple[str, float], float]) -> list[tuple[str, float]]:
        """Return the pairs of method and rate, ordered by their metric."""
        sign = 1 if self.task.mode == "min" else -1
        return sorted(values, key=lambda choice: sign * values[choice])


def grid() -> list[tuple[str, float]]:
    """Return all pairs of method and rate of the exhaustive search."""
    pairs = []
    for name, method in PORTFOLIO.items():
        pairs += [(name, float(np.float32(method.default * factor))) for factor in rate_factors(method)]
    return pairs


def rate_factors(method: Method) -> np.ndarray:
    """Return the rates of a method that a search may try, as multiples of its default."""
    tuned = method.range_test_of is not None or method.variant_of is not None
    return TUNED_FACTORS if tuned else FREE_FACTORS if method.has_rate else np.ones(1)


def oracle(runs: Runs) -> tuple[str, float]:
    """Search exhaustively: the whole grid with one seed, the best five pairs with three."""
    first: dict[tuple[str, float], float] = {}
    for method, pairs in itertools.groupby(grid(), key=lambda pair: pair[0]):
        first |= {pair: runs.value(*pair, GRID_SEED) for pair in pairs}
        runs.save()
        best = runs.best_first({pair: value for pair, value in first.items() if pair[0] == method})[0]
        print(f"  {method:28} best at {best[1]:8.3g}: {first[best]:.4f}", flush=True)
    few = runs.best_first(first)[:REPEATED]
    means = {pair: float(np.mean([first[pair], *(runs.value(*pair, seed) for seed in MORE_SEEDS)])) for pair in few}
    runs.save()
    return runs.best_first(means)[0]


class _Spent(Exception):  # noqa: N818
    """A search has used up its compute."""


def with_optuna(runs: Runs, methods: list[str], seed: int) -> tuple[str, float, float]:
    """Search with TPE and Hyperband, with as many steps as select: return method, rate, and cost in full runs.

    A trial draws one of `methods` and its rate, log-uniformly over the range of the oracle's grid. It is measured at
    1/27, 1/9, 1/3 and all of a run, where Hyperband may stop it. The choice is the best of the longest runs.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    steps = runs.task.steps
    allowed, spent = math.floor(BUDGET * steps), 0
    reached: dict[tuple[str, float], tuple[int, float]] = {}

    def objective(trial: Any) -> float:
        nonlocal spent
        method = trial.suggest_categorical("method", methods)
        low, high = rate_factors(PORTFOLIO[method])[[0, -1]]
        rate = float(np.float32(PORTFOLIO[method].default * low * (high / low) ** trial.suggest_float("place", 0, 1)))
        done, value = 0, runs.worst
        stops = [round(part * steps) for part in HYPERBAND]
        values = runs.runner.run_in_parts(method, rate, seed, stops)
        for until in stops:
            if spent + until - done > allowed:
                raise _Spent
            value = next(values)
            spent, done = spent + until - done, until
            if not math.isfinite(value):
                raise optuna.TrialPruned("diverged")
            reached[method, rate] = done, value
            trial.report(value, done)
            if done < steps and trial.should_prune():
                raise optuna.TrialPruned("pruned")
        return value

    study = optuna.create_study(
        direction="minimize" if runs.task.mode == "min" else "maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(
            min_resource=round(HYPERBAND[0] * steps), max_resource=steps, reduction_factor=3
        ),
    )
    with contextlib.suppress(_Spent):
        study.optimize(objective, n_trials=10_000)
    furthest = max((done for done, _ in reached.values()), default=0)
    last = {pair: value for pair, (done, value) in reached.items() if done == furthest}
    method, rate = runs.best_first(last)[0] if last else (methods[0], PORTFOLIO[methods[0]].default)
    return method, rate, spent / steps


def with_range_test(runs: Runs, method: str, seed: int) -> tuple[str, float, float]:
    """Use the rate that a range test on the default ladder suggests as the peak of one-cycle."""
    leader = PORTFOLIO[PORTFOLIO[method].variant_of or method]
    assert leader.range_test_of is not None
    test = range_test(runs.workload, leader.range_test_of, seeds=[seed])
    return method, float(np.float32(test.suggestion)), len(test.rates) / runs.task.steps


def measure(name: str, data_dir: Path | None, seeds: Iterable[int], path: Path) -> dict[str, Any]:
    """Run every strategy on one task, and judge its choices on the held-out seeds."""
    task, seeds = (EARLIER | UNSEEN)[name], list(seeds)
    runs = Runs(name, task, data_dir, path)
    elapsed = stopwatch()
    print(f"{name}: {task.steps:,} steps, {task.metric}", flush=True)
    best = oracle(runs)
    reference = float(np.mean(runs.held_out(*best)))
    print(f"  oracle {best[0]} at {best[1]:.3g}: {reference:.4f} on held-out seeds, {elapsed():.0f} s", flush=True)
    strategies: dict[str, Any] = {}

    def judge(strategy: str, method: str, rate: float, cost: float, seconds: float) -> None:
        value = float(np.mean(runs.held_out(method, rate)))
        regret = 1 - value / reference if task.mode == "max" else value / reference - 1
        entry = {"method": method, "rate": rate, "cost": cost, "value": value, "regret": regret, "seconds": seconds}
        strategies.setdefault(strategy, []).append(entry)
        print(
            f"  {strategy:32} {method} at {rate:.3g}, cost {cost:.2f}: {value:.4f}, regret {100 * regret:.2f} %",
            flush=True,
        )
        runs.save()

    for seed in seeds:
        watch = stopwatch()
        chosen = select(
            runs.workload,
            num_steps=task.steps,
            budget=BUDGET,
            portfolio=PORTFOLIO,
            metric=(task.metric, task.mode),
            seed=seed,
            progress=False,
        )
        judge("select", chosen.method, chosen.rate, chosen.cost, watch())
    for strategy, methods in {
        "optuna, portfolio": list(PORTFOLIO),
        "optuna, adamw with linear decay": ["adamw, linear decay"],
    }.items():
        for seed in seeds:
            watch = stopwatch()
            judge(strategy, *with_optuna(runs, methods, seed), watch())
    for method in CYCLES:
        for seed in seeds:
            watch = stopwatch()
            judge(f"range test, {method}", *with_range_test(runs, method, seed), watch())
    for method, line in PORTFOLIO.items():
        judge(f"default: {method}", method, float(np.float32(line.default)), 0.0, 0.0)
    return {
        "oracle": {"method": best[0], "rate": best[1], "value": reference},
        "strategies": strategies,
        "seconds": elapsed(),
    }


def regrets(result: Result, strategy: str) -> np.ndarray:
    """Return the regrets of a strategy, (tasks, seeds); infinite if its choice diverged."""
    rows = [measured["strategies"][strategy] for measured in result.curves.values()]
    return np.array([[math.inf if each["regret"] is None else each["regret"] for each in row] for row in rows])


def summary(result: Result) -> str:
    """Return a table in Markdown: how often each strategy comes within 1 % of the oracle, its regret and its cost."""
    heads = ["strategy", "tasks within 1 %", "runs within 1 %", "regret, median", "worst", "cost in full runs"]
    rows: list[list[str]] = []
    strategies = next(iter(result.curves.values()))["strategies"]
    for strategy in strategies:
        found = regrets(result, strategy)
        costs = [each["cost"] for measured in result.curves.values() for each in measured["strategies"][strategy]]
        means = found.mean(axis=1)
        cells = [
            f"{np.sum(means <= NEAR)} of {len(means)}",
            f"{np.sum(found <= NEAR)} of {found.size}",
            _percent(float(np.median(found))),
            _percent(float(found.max())),
            f"{max(costs):.2f}",
        ]
        rows.append([strategy, *cells])
    return markdown_table(heads, rows)


def task_table(result: Result) -> str:
    """Return a table in Markdown: the oracle of each task, and what select chose and reached."""
    rows = []
    for name, measured in result.curves.items():
        best, chosen = measured["oracle"], measured["strategies"]["select"]
        choices = "; ".join(f"{each['method']} at {each['rate']:.2g}" for each in chosen)
        found = [math.inf if each["regret"] is None else each["regret"] for each in chosen]
        cells = [
            name,
            f"{best['method']} at {best['rate']:.2g}",
            f"{best['value']:.4g}",
            choices,
            ", ".join(map(_percent, found)),
        ]
        rows.append(cells)
    return markdown_table(["task", "oracle", "its value", "select's choices", "regret"], rows, align="llrlr")


def _percent(regret: float) -> str:
    return f"{100 * regret:.1f} %" if math.isfinite(regret) else "diverged"


def plot(result: Result) -> Figure:
    """Draw the regret of each strategy on each task, a dot for each seed."""
    strategies = list(next(iter(result.curves.values()))["strategies"])
    figure, (axes,) = panels(size=(10, 6.5))
    markers = "osD^vP<>X"
    limit = 100.0
    for place, name in enumerate(result.curves):
        shift = (place - (len(result.curves) - 1) / 2) * 0.08
        for row, strategy in enumerate(strategies):
            found = 100 * regrets(result, strategy)[place]
            axes.plot(
                np.minimum(np.where(np.isfinite(found), found, limit), limit),
                np.full(len(found), row + shift),
                markers[place % len(markers)],
                color=PALETTE[place % len(PALETTE)],
                ms=4.5,
                alpha=0.85,
                lw=0,
                label=name if row == 0 else None,
            )
    axes.axvspan(-100 * NEAR, 100 * NEAR, color="#DCE7DC", lw=0, zorder=0)
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(-6, 1.15 * limit)
    ticks = (-5, -1, 0, 1, 3, 10, 30, 100)
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), "100 or\ndiverged"])
    axes.set_yticks(range(len(strategies)), strategies)
    axes.invert_yaxis()
    axes.set_xlabel("regret on seeds that were not used for choosing (%); shaded: within 1 % of the oracle")
    axes.grid(visible=False, axis="x")
    legend(figure, axes, 5, loc="outside upper center")
    return figure


def page(results: dict[str, Result]) -> str:
    """Return the tables of results as a page in Markdown; `results` are named by `STEMS`."""
    lines = [f"# {__doc__.splitlines()[0]}", ""]
    budget = next(iter(results.values())).settings["budget"]
    lines += [
        "On each task the oracle is the best of all methods of the portfolio over a grid of rates. `select` and Optuna "
        f"each spend {budget:g} full runs. The rules of `select` were developed with the seeds 0 to 16. Every choice "
        "is trained again with seeds that were not used for choosing; regret is how much worse it is there than the "
        "oracle: 1 - accuracy / the oracle's, or loss / the oracle's - 1."
    ]
    for stem, result in results.items():
        names = ", ".join(f"{name} ({steps:,} steps)" for name, steps in result.settings["steps"].items())
        held_out = result.settings["held_out_seeds"]
        lines += [
            *("", f"## {STEMS[stem]}", ""),
            f"{names}. Judged with the seeds {held_out[0]} to {held_out[-1]}.",
            *("", result.origin(), "", f"![Regret of every strategy on every task]({stem}.png)", ""),
            summary(result),
            *("", "The oracle, and what `select` chose with each seed:", "", task_table(result)),
        ]
    return "\n".join(lines) + "\n"


def write(result: Result, folder: Path) -> list[Path]:
    """Write a result, its picture, and the page of all results in the folder."""
    stem = "unseen" if set(result.curves) <= set(UNSEEN) else "select"
    paths = [result.save(folder / f"{stem}.json"), save(plot(result), folder / f"{stem}.png")]
    return [*paths, write_atomically(folder / "README.md", page(measured_in(folder)))]


def measured_in(folder: Path) -> dict[str, Result]:
    """Load the results that a folder holds, by the stem of their files."""
    return {stem: load(folder / f"{stem}.json") for stem in STEMS if (folder / f"{stem}.json").exists()}


def main(
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", help="Of `lrx.workloads.suite.earlier`; once for each, by default all nine."),
    ] = None,
    unseen: Annotated[bool, typer.Option("--unseen", help="Measure the five related tasks instead.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds with which everything chooses.")] = 3,
    folder: Annotated[Path, typer.Option("--out", help="Where the results are written.")] = Path("lrx-results/select"),
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")] = None,
) -> None:
    """Measure, print and draw."""
    if tasks and unseen:
        raise ValueError(f"--task and --unseen must not both be given, got --task {tasks[0]}.")
    tasks = tasks or list(UNSEEN if unseen else EARLIER)
    for task in tasks:
        known("--task", task, EARLIER | UNSEEN)
    elapsed = stopwatch()
    folder.mkdir(parents=True, exist_ok=True)
    each_seed = list(range(FIRST_SEED, FIRST_SEED + seeds))
    curves = {name: measure(name, data_dir, each_seed, folder / "runs.json") for name in tasks}
    settings = {
        "budget": BUDGET,
        "held_out_seeds": list(HELD_OUT),
        "steps": {name: (EARLIER | UNSEEN)[name].steps for name in curves},
    }
    result = Result("select", "cpu", ", ".join(curves), each_seed, settings, curves, elapsed())
    print(f"\n{result.origin()}\n\n{summary(result)}\n\n{task_table(result)}\n")
    for path in write(result, folder):
        print(f"wrote {path}")
