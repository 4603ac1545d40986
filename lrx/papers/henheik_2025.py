"""No paradigm of learning-rate control is best everywhere: fixed, tuned, scheduled and learnt rates, ranked over tasks.

M. Henheik, T. Eimer, M. Lindauer, "Revisiting Learning Rate Control", AutoML 2025, arXiv:2507.01724: a default rate, a
tuned one, cosine restarts, and methods that need no rate, each on logistic regressions of tables, on images, and on
language. The best method differs between tasks. Of the methods that need no rate, Prodigy is first or second of eight
on images and seventh on tables, COCOB third on tables and last on CIFAR-10.

    lrx reproduce henheik_2025                 a table and a task of images of lrx.workloads.suite, 3 seeds
    lrx reproduce henheik_2025 --scale cpu     a task of each of 15 kinds, with lrx.select beside

Measured at the cpu scale, no method is best on more than 6 of 15 tasks. Tuned Adam is within 1 % of the best in the
median, its default 11 %; Prodigy is third on images as on tables, and DoWG the last of all. Methods that need no rate
are not better on images than on tables here.

Differs from the source: the tasks are those of the suite, which take less than a second; the tuned rate is the best of
a grid with a seed that is not judged, where the source gives SMAC 50 trials; restarts begin after a tenth of the run.
Of `lrx.select` no claim is made, since its experience comes from these tasks: `lrx bench select` leaves their kinds
out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, decades, with_each_schedule, with_own, without_grid
from lrx.papers.figures import arm_style
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import sweep_seeds
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload
from lrx.workloads.suite import TASKS, Task

TABLES, IMAGES = "tables", "images"
GROUPS = {  # of the tasks that stand for those of the source
    TABLES: ("wine-unscaled", "sparse-logistic"),
    IMAGES: ("digits-narrow", "digits-attention"),
}
ONE_OF_EACH_KIND = tuple(
    {
        **{task.kind: name for name, task in reversed(TASKS.items())},
        **{TASKS[name].kind: name for tasks in GROUPS.values() for name in tasks},
    }.values()
)


class Size(NamedTuple):
    """The tasks, the rates of the grids, and the budget of `lrx.select` in full runs, 0 to leave it out."""

    tasks: tuple[str, ...]
    each: int  # rates in a decade
    budget: float = 0.0
    shorten: int = 1  # runs, by this factor


SCALES = {
    "demo": Scale(
        "a table and a task of images, 9 rates, 3 seeds",
        "a minute, 2 CPU cores",
        Size(tuple(tasks[0] for tasks in GROUPS.values()), 2),
    ),
    "cpu": Scale(
        "a task of each of 15 kinds, 9 rates, lrx.select with 3 full runs, 3 seeds",
        "15 minutes, 1 CPU core",
        Size(ONE_OF_EACH_KIND, 2, 3.0),
    ),
    "paper": Scale(
        "31 tasks of 15 kinds, 17 rates, lrx.select with 10 full runs, 10 seeds",
        "an hour on one GPU",
        Size(tuple(TASKS), 4, 10.0),
        seeds=tuple(range(10)),
    ),
}
RANGE = (-4.0, 0.0)  # log10 of the rates
CHOOSING = 1000  # the seed with which rates are chosen
DEFAULT, TUNED, RESTARTS, TUNED_RESTARTS = "Adam", "tuned Adam", "cosine restarts", "tuned restarts"
COCOB, D_ADAPTATION, PRODIGY, DOWG, SELECT = "COCOB", "D-Adaptation", "Prodigy", "DoWG", "lrx.select"
ADAM_RATE, RESTARTS_RATE = 1e-3, 5e-3
LEARNT: dict[str, Callable[[], optax.GradientTransformation]] = {
    COCOB: lrx.cocob,
    D_ADAPTATION: lrx.d_adaptation,
    PRODIGY: lrx.prodigy,
    DOWG: lrx.dowg,
}
METHODS = (DEFAULT, TUNED, RESTARTS, TUNED_RESTARTS, *LEARNT)


def adam(rate: Any) -> optax.GradientTransformation:
    """Return Adam with the decays of the source."""
    return lrx.adam(rate, b1=0.9, b2=0.99)


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with every method on every task, and keep what is reached at the end."""
    return size._asdict(), {name: measure_task(name, size, job) for name in size.tasks}


def measure_task(name: str, size: Size, job: Job) -> dict[str, Any]:
    """Train with every method on a task.

    Returns:
      "kind", "mode", "initial" (seeds,), the metric of the initial parameters, and "arms", label to the metric at the
      end, (seeds,), not finite if the run diverged, with "rates", which were used.
    """
    task = TASKS[name]
    workload, num_steps = task.make(job.data_dir), max(1, task.steps // size.shorten)
    rates = decades(*RANGE, size.each)
    schedules = {
        "constant": lrx.constant(1.0),
        RESTARTS: lrx.cosine_restarts(1.0, max(1, num_steps // 10), period_mult=2),
    }
    # A rate of 0 leaves the initial parameters as they are.
    axes: dict[str, list[Any]] = {"shape": [0, 1], "lr": [ADAM_RATE, RESTARTS_RATE, *rates, 0.0]}
    both_schedules = with_each_schedule(schedules, adam, num_steps)
    chosen, judged = reached(workload, task, both_schedules, axes, num_steps, job, TUNED)
    arms: dict[str, Any] = {}
    for shape, both in enumerate(((DEFAULT, TUNED), (RESTARTS, TUNED_RESTARTS))):
        best = int(np.argmin(worse(chosen[shape, 2:-1], task.mode))) + 2
        for label, place in zip(both, (shape, best), strict=True):
            arms[label] = {"value": judged[shape][place], "rate": axes["lr"][place]}
    learnt: dict[str, Arm] = with_own({label: without_grid(make()) for label, make in LEARNT.items()}, job)
    if size.budget:
        selection = lrx.select(
            workload,
            num_steps=num_steps,
            budget=size.budget,
            metric=(task.metric, task.mode),
            seed=CHOOSING,
            progress=job.progress_title(f"{name}, {SELECT}"),
        )
        learnt[SELECT] = without_grid(selection.tx)
    for label, arm in learnt.items():
        found = reached(workload, task, lambda lr, arm=arm: arm.make(lr), {"lr": arm.rates}, num_steps, job, label)
        arms[label] = {"value": found[1][0], "rate": None}
    return {"kind": task.kind, "mode": task.mode, "initial": judged[0][-1], "arms": arms}


def reached(
    workload: Workload, task: Task, make: Callable[..., Any], axes: dict[str, Any], num_steps: int, job: Job, label: str
) -> tuple[np.ndarray, list[Any]]:
    """Return the metric at the end over the axes: with the choosing seed, and with the judged seeds, (..., seeds)."""
    with_choosing = dataclasses.replace(job, seeds=(CHOOSING, *job.seeds))
    name, title = f"{workload.name} {label}", f"{workload.name}, {label}"
    swept = sweep_seeds(workload, make, axes, with_choosing, name, num_steps=num_steps, num_points=1, title=title)
    values = np.where(np.isfinite(swept.final_loss), swept.evaluations[task.metric], np.nan)
    return values[..., 0], round_to_six_digits(values[..., 1:]).tolist()


def worse(values: Any, mode: str) -> np.ndarray:
    """Return values of which a lower one is better; infinite where a run diverged."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values if mode == "min" else -values, np.inf)


def gaps(result: Result, task: str) -> dict[str, np.ndarray]:
    """Return how far each method is from the best one, in percent of the way from the initial value, for each seed.

    A run that diverged, or ends worse than it began, has made none of the way: 100.
    """
    found = result.curves[task]
    start = worse(found["initial"], found["mode"])
    values = {label: worse(arm["value"], found["mode"]) for label, arm in found["arms"].items()}
    best = min(each.mean() for each in values.values())
    return {label: np.clip(100 * (each - best) / (start - best), None, 100.0) for label, each in values.items()}


def ranks(result: Result, task: str) -> dict[str, float]:
    """Return the rank of the mean gap of each of the source's methods on a task, 1 for the best; ties share a rank."""
    found = gaps(result, task)
    means = {label: found[label].mean() for label in METHODS}
    values = np.array(list(means.values()))
    return {label: float(1 + np.sum(values < mean) + (np.sum(values == mean) - 1) / 2) for label, mean in means.items()}


def tasks_of(result: Result, group: str) -> list[str]:
    """Return the tasks of the result that stand for a group of the source's."""
    return [task for task in GROUPS[group] if task in result.curves]


def claims(result: Result) -> list[Claim]:
    """Check that no method is best everywhere, and which do well on images and on tables, if there are such tasks."""
    first = {task: min(ranks(result, task).items(), key=lambda item: item[1])[0] for task in result.curves}
    counts = {label: list(first.values()).count(label) for label in dict.fromkeys(first.values())}
    often = max(counts, key=lambda label: counts[label])
    text = "no method is best on every task: the share of tasks of the one that is best most often, below 1"
    found = [Claim(text, "< 1", f"{counts[often]} of {len(first)} ({often})", counts[often] < len(first))]

    def mean_rank(label: str, group: str) -> float:
        return float(np.mean([ranks(result, task)[label] for task in tasks_of(result, group)]))

    def gap(label: str, group: str) -> np.ndarray:
        return np.mean([gaps(result, task)[label] for task in tasks_of(result, group)], axis=0)

    if tasks_of(result, IMAGES):
        text = "images: mean rank of Prodigy, at most 3 of 8"
        found.append(Claim.of_values(text, "1 to 2", mean_rank(PRODIGY, IMAGES), high=3.0))
    if tasks_of(result, TABLES):
        text = "tables: mean rank of Prodigy, at least 5 of 8"
        found.append(Claim.of_values(text, "6 to 7", mean_rank(PRODIGY, TABLES), low=5.0))
        for better, other, expected in ((TUNED, DEFAULT, "-16"), (COCOB, DEFAULT, "-12"), (TUNED, DOWG, "-41")):
            text = f"tables: mean gap to the best of {better} minus that of {other}, below 0 (%)"
            found.append(Claim.of_values(text, expected, gap(better, TABLES) - gap(other, TABLES), high=0.0))
    if tasks_of(result, IMAGES) and tasks_of(result, TABLES):
        largest = {group: max(gap(label, group).mean() for label in METHODS) for group in GROUPS}
        text = "the largest mean gap of a method: images over tables, at most 1"
        found.append(Claim.of_values(text, "11 over 46", largest[IMAGES] / largest[TABLES], high=1.0))
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw the gap of each method on each task, tasks of one kind side by side."""
    tasks = sorted(result.curves, key=lambda task: list(TASKS).index(task))
    figure, (axes,) = panels(size=(max(7.0, 4.0 + 0.55 * len(tasks)), 5.2))
    labels = list(result.curves[tasks[0]]["arms"])
    shift = np.linspace(-0.3, 0.3, len(labels))
    for place, label in enumerate(labels):
        values = [gaps(result, task)[label].mean() for task in tasks]
        look = arm_style(label, place)
        at = np.arange(len(tasks)) + shift[place]
        axes.plot(at, np.clip(values, 0.05, None), "osD^vP<>*"[place % 9], ms=6, color=look["color"], label=label)
    axes.set(yscale="log", ylim=(0.04, 130))
    for edge in range(len(tasks) - 1):
        axes.axvline(edge + 0.5, color="#D0D5DA", lw=0.6)
    axes.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", fontsize=8)
    axes.set(xlabel="task", ylabel="gap to the best, % of the way\nfrom the start (0.05: less)")
    legend(figure, axes, columns=4)
    return {"gaps": figure}


PAPER = Paper(
    name="henheik_2025",
    title="Revisiting Learning Rate Control",
    authors="M. Henheik, T. Eimer, M. Lindauer",
    year=2025,
    source="AutoML 2025, arXiv:2507.01724",
    figure="the gap of each way to set the rate to the best one, over tasks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("*", "arms"),),
)
