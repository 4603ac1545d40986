"""Does `lrx.select` choose as well as an exhaustive search, and better than common practice?

    lrx bench select
    lrx bench select --task wine-unscaled --task balance
    lrx bench select --suite unseen
    lrx bench select --evaluation 0.1
    lrx bench select --muon 2.5

The tasks are those of `lrx.workloads.suite`. What every method reaches from every rate is looked up in curves that
`lrx bench select_curves` has recorded, so that hundreds of selections take minutes.

The strategies, with three seeds each and budgets of 0.5 to 10 full runs, are: `select`; Optuna (TPE, Hyperband) over
the whole portfolio and over AdamW's rate with linear decay; random search; a rule of thumb (AdamW with warm-up and
linear decay at 1e-3, 3e-4 and 3e-3); a range test followed by one-cycle; and every method at its default rate. Each
choice is trained with ten other seeds. Regret is (value - oracle) / (initial value - oracle) there. The oracle is the
best of all methods and rates, chosen for each seed without that seed.

`--evaluation` and `--muon` say what an evaluation and a step of Muon take, with which `select` reckons and the other
strategies do not.

On the suite `known`, what `select` knows is fitted without the kind of the task. On the suite `unseen`, to which
nothing was fitted, it is what lrx ships. The output is a file of numbers and a picture named by the suite, and a
README.md with the tables of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from lrx._checks import known
from lrx.benchmarks.selection.candidates import METHODS
from lrx.benchmarks.selection.curves import CHOOSING, HELD_OUT, TaskCurves, load_all
from lrx.benchmarks.selection.fit import KNOWN, fit
from lrx.benchmarks.selection.measure import by_policy, measure
from lrx.benchmarks.selection.record import Recorder
from lrx.benchmarks.selection.report import page, percent, plot, summary
from lrx.benchmarks.selection.strategies import BUDGETS, Strategy, strategies
from lrx.benchmarks.selection.suites import KNOWN_TASKS, SUITES
from lrx.figures import save
from lrx.records import Result, load, stopwatch, write_atomically
from lrx.tuning.selection.experience import Experience, shipped
from lrx.tuning.selection.freeze_thaw import FreezeThaw
from lrx.tuning.selection.portfolio import PORTFOLIO

GALLERY = Path("examples/gallery/select")
MUON = "muon, linear decay"
INTRODUCTION = """# Does `lrx.select` choose as well as an exhaustive search, and better than common practice?

On each task the oracle is the best of all methods and rates, chosen for each of ten held-out seeds without that seed.
Regret is (value - oracle) / (initial value - oracle) on those seeds. A choice is *near* if its regret is at most 1 % or
at most one standard error of the seeds' differences. All strategies choose with three other seeds, by looking up what
a run would have given in [stored curves](curves), which `lrx bench select_curves` has recorded. A choice that these
seeds show to be more than 1 % worse than the best is judged by them, if no curve with the held-out seeds is stored. A
mean counts each choice with at most 100 %.

`tasks near` counts the tasks on which two of the three choices or more are near. The `best default` is the method that,
at its default rate, has the least mean regret on these very tasks, which nobody knows beforehand.

The strategy `every run, one seed` trains every method from every rate to the end, 131 full runs or more, and takes the
best. What it misses, it misses by the noise of one seed.

Nothing was fitted to the unseen tasks, and they were measured once, when the rules were fixed: what `select` does on a
new kind of task is what their table says. On the known tasks, what `select` knows is fitted without the kind of the
task, but the form of the rules was found while looking at their table."""


def strategies_for(
    curves: TaskCurves, experience: Experience, evaluation: float = 0.0, muon: float = 1.0
) -> dict[str, Strategy]:
    """Return every strategy for a task.

    Args:
      curves: of the task.
      experience: what `select` knows of other tasks.
      evaluation: what an evaluation takes, in full runs, by which `select` trains and evaluates less.
      muon: what a step of Muon takes, in steps of the other methods, by which `select` trains less.
    """
    policy = by_policy(FreezeThaw(experience), PORTFOLIO, evaluation, {MUON: muon})
    known = [name for name in METHODS if name in curves.methods]
    return {"select": policy, **strategies(known)}


def experience_without(recorded: Mapping[str, TaskCurves], kind: str) -> Experience:
    """Return what is known from the known tasks of other kinds."""
    return fit([recorded[name] for name in KNOWN_TASKS if name in recorded and recorded[name].kind != kind], KNOWN)


def write(result: Result, suite: str, folder: Path) -> list[Path]:
    """Write the result of a suite, its picture, and the page of all results in the folder."""
    paths = [result.save(folder / f"{suite}.json"), save(plot(result), folder / f"{suite}.png")]
    return [*paths, write_atomically(folder / "README.md", page(measured_in(folder), INTRODUCTION))]


def measured_in(folder: Path) -> dict[str, Result]:
    """Load the results that a folder holds, by suite."""
    return {suite: load(folder / f"{suite}.json") for suite in SUITES if (folder / f"{suite}.json").exists()}


def main(
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Of the suite; once for each, by default all.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Its tasks: " + ", ".join(SUITES) + ".")] = "known",
    curves: Annotated[Path, typer.Option("--curves", help="Folder of the recorded curves.")] = GALLERY / "curves",
    folder: Annotated[Path, typer.Option("--out", help="Where the results are written.")] = Path("lrx-results/select"),
    evaluation: Annotated[
        float, typer.Option(min=0.0, help="What an evaluation takes, in full runs; `select` reckons with it.")
    ] = 0.0,
    muon: Annotated[
        float, typer.Option(min=1.0, help="What a step of Muon takes, in steps of others; `select` reckons with it.")
    ] = 1.0,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data files; also LRX_DATA_DIR.")] = None,
) -> None:
    """Measure, print and draw."""
    known("--suite", suite, SUITES)
    every = SUITES[suite].tasks
    for task in tasks or []:
        known("--task", task, every)
    elapsed, recorded = stopwatch(), load_all(curves)
    for name in tasks or every:
        if name not in recorded:
            raise ValueError(
                f"--curves must hold the curves of {name}, got --curves {curves}: record them, "
                f"lrx bench select_curves --suite {suite} --task {name} --out {curves}."
            )
    found: dict[str, Any] = {}
    fitted: dict[str, Experience] = {}
    for name in tasks or every:
        kind = every[name].kind
        if kind not in fitted:
            fitted[kind] = experience_without(recorded, kind) if name in KNOWN_TASKS else shipped()

        def judging(pairs: list[tuple[str, float]], name: str = name) -> TaskCurves:
            if not all(recorded[name].is_judged(*pair) for pair in pairs):
                recorder = Recorder(name, every[name], curves / f"{name}.npz", data_dir)
                recorder.judge(pairs)
                recorded[name] = recorder.curves
                jax.clear_caches()
            return recorded[name]

        found[name] = measure(recorded[name], strategies_for(recorded[name], fitted[kind], evaluation, muon), judging)
        picks = [row[min(BUDGETS.index(3.0), len(row) - 1)] for row in found[name]["strategies"]["select"]]
        shown = ", ".join(f"{pick['method']} at {pick['rate']:.2g}" for pick in picks)
        print(f"{name}: {shown}: " + ", ".join(_shown(pick["regret"]) for pick in picks), flush=True)
    settings: dict[str, Any] = {"budgets": list(BUDGETS), "held_out_seeds": list(HELD_OUT)}
    if evaluation:
        settings["evaluation"] = evaluation
    if muon > 1:
        settings["muon"] = muon
    result = Result("select", "cpu", ", ".join(found), list(CHOOSING), settings, found, elapsed())
    print(f"\n{result.origin()}\n\n{summary(result, 3.0)}\n")
    for path in write(result, suite, folder):
        print(f"wrote {path}")


def _shown(regret: float | None) -> str:
    return percent(math.inf if regret is None else regret)
