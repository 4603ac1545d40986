"""The rates that the finder suggests, against the best of a grid of constant rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lrx
from lrx.figures import PALETTE, STROKES, Axes, Figure, legend, panels
from lrx.papers.arms import Arm, claim_best_rates_inside_grid, compare
from lrx.papers.figures import band, describe
from lrx.papers.howard_2018 import finder
from lrx.papers.reproduction import Claim, Job
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import load

CLASSES = 10  # of all three data sets
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {"momentum": lambda rate: lrx.sgd(rate, momentum=0.9), "adam": lrx.adam}
RULES = ("steepest", "valley", "minimum", "slide", "divergence")
JUDGED = ("valley", "steepest", "minimum")
TITLES = {"minimum": "minimum / 10", "divergence": "divergence / 10"}
NEAR = (0.1, 1.0)  # of the best rate
LOST = 0.1  # of what training gains


class Task(NamedTuple):
    """Model, data and lengths, and the grid of constant rates."""

    label: str
    data: str
    model: str
    optimizer: str  # in OPTIMIZERS
    rates: tuple[float, ...]
    batch_size: int
    options: dict[str, Any] = {}  # of the model  # noqa: RUF012
    images: int | None = None  # of the training set; all of them by default
    epochs: int = 2
    strategy: str = "vmap"  # of the sweep over rates


def make(task: Task, job: Job) -> Workload:
    """Build the workload of a task, without evaluation, since training losses are compared."""
    few = load(task.data, job.data_dir).first(task.images)
    return dataset_workload(few, task.model, batch_size=task.batch_size, evaluate_on=(), **task.options)


def measure(task: Task, job: Job) -> tuple[dict[str, Any], int, int]:
    """Run the finder with every seed, and train with every rate."""
    workload, tx = make(task, job), OPTIMIZERS[task.optimizer]
    each = [finder.run_finder(workload, tx, seed) for seed in job.seeds]
    tests = [test for test, _, _ in each]
    steps = task.epochs * workload.batches.steps_per_epoch
    arms = {task.label: Arm(tx, task.rates)}
    arm = compare(workload, arms, job, num_steps=steps, num_points=steps, strategy=task.strategy)[task.label]
    found = {
        "rates": round_to_six_digits(tests[0].rates),
        "smoothed": [round_to_six_digits(test.smoothed) for test in tests],
        "diverged_at": [test.diverged_at for test in tests],
        "suggestions": {rule: round_to_six_digits([test.suggestions[rule] for test in tests]) for rule in RULES},
        "steps": steps,
        "grid": {name: arm[name] for name in ("rates", "final_loss", "best")},
    }
    return found, sum(changed for _, changed, _ in each), sum(total for _, _, total in each)


def suggested(task: dict[str, Any], rule: str) -> np.ndarray:
    """Return the rate that a rule suggests, for each seed; NaN if it finds none."""
    return np.asarray(task["suggestions"][rule], np.float64)


def best_rate(task: dict[str, Any]) -> float:
    """Return the best rate of the grid."""
    return float(task["grid"]["rates"][task["grid"]["best"]])


def lost(task: dict[str, Any], rule: str) -> np.ndarray:
    """Return the part of the best rate's gain over guessing that the rate nearest to a rule's loses, for each seed."""
    grid = task["grid"]
    losses = np.asarray(grid["final_loss"], np.float64)  # (rates, seeds)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    rates, best = np.log(np.asarray(grid["rates"], np.float64)), losses[grid["best"]].mean()
    rate = np.log(suggested(task, rule))
    nearest = np.argmin(np.abs(rates[:, None] - rate), axis=0)
    means = np.where(np.isfinite(rate), losses.mean(axis=1)[nearest], np.inf)
    return (means - best) / (math.log(CLASSES) - best)


def claims(result: Result) -> list[Claim]:
    """Compare the suggested rates with the best of the grid, and what they cost."""
    tasks: dict[str, Any] = result.curves["tasks"]
    found = [claim_best_rates_inside_grid({label: task["grid"] for label, task in tasks.items()})]
    for rule in JUDGED:
        for label, task in tasks.items():
            text = f"{label}: `{rule}` over the best rate of the grid, {best_rate(task):.2g}, is within [1/10, 1]"
            found.append(Claim.of_values(text, "0.1 to 1", suggested(task, rule) / best_rate(task), *NEAR))
    for rule in JUDGED:
        costs = {label: lost(task, rule) for label, task in tasks.items()}
        worst = max(costs, key=lambda label: float(costs[label].mean()))
        claim = Claim.of_values(
            f"the rate of the grid nearest to `{rule}` loses at most a tenth of what the best gains over guessing, on "
            "every task",
            f"<= {LOST:g}",
            np.where(np.isfinite(costs[worst]), costs[worst], np.nan),
            high=LOST,
        )
        found.append(dataclasses.replace(claim, measured=f"{claim.measured} at worst, {worst}"))
    return found


def look(rule: str) -> dict[str, Any]:
    """Return the colour and stroke of a rule."""
    place = RULES.index(rule)
    return {"color": PALETTE[place], "ls": STROKES[place]}


def plot(tasks: dict[str, Any]) -> Figure:
    """Draw a row of two panels for each task: the finder's curve, and the losses of the grid."""
    figure, each = panels(2, len(tasks), size=(9.0, 2.5 * len(tasks) + 0.7))
    rows = list(zip(each[::2], each[1::2], strict=True))
    black: dict[str, Any] = {"color": "black", "ls": "-"}
    for (label, task), (left, right) in zip(tasks.items(), rows, strict=True):
        grid, best = task["grid"], best_rate(task)
        band(left, task["rates"], task["smoothed"], "loss, median and range of seeds", **black)
        losses = np.asarray(grid["final_loss"], np.float64)
        right.axvspan(
            *(part * best for part in NEAR), color="black", alpha=0.08, lw=0, label="1/10 to 1 of the best rate"
        )
        over = np.nan_to_num(losses.T, nan=1e3, posinf=1e3)  # off the panel
        band(right, grid["rates"], over, "loss, median and range of seeds", marker="o", ms=3.5, **black)
        for axes in (left, right):
            for rule in RULES:
                rates = suggested(task, rule)
                if np.isfinite(rates).any():
                    axes.axvline(float(np.nanmedian(rates)), lw=1.6, label=TITLES.get(rule, rule), **look(rule))
            axes.set_xscale("log")
        left.set_ylim(0, 1.3 * np.nanmedian(np.asarray(task["smoothed"], np.float64)[:, 0]))
        low, high = np.nanmin(losses), min(np.nanmax(losses), 2 * math.log(CLASSES))
        if high > 4 * low:
            right.set_yscale("log")
            right.set_ylim(0.8 * low, 1.3 * high)
        else:
            right.set_ylim(low - 0.2 * (high - low), high + 0.2 * (high - low))
        left.set_ylabel("training loss, smoothed")
        right.set_ylabel(f"training loss, {task['steps']:,} steps")
        describe(left, label, xlabel="learning rate, rising step by step")
        right.set_xlabel("learning rate, constant")
    legend(figure, rows[0][1], columns=4)
    return figure


def draw_ratios(axes: Axes, tasks: dict[str, Any]) -> None:
    """Draw all suggestions over the best rates."""
    axes.axvspan(*NEAR, color="black", alpha=0.08, lw=0)
    for row, task in enumerate(tasks.values()):
        for place, rule in enumerate(RULES):
            ratios = suggested(task, rule) / best_rate(task)
            known = ratios[np.isfinite(ratios)]
            shape = {"marker": "oDs^v"[place], "color": look(rule)["color"], "label": TITLES.get(rule, rule)}
            axes.plot(known, np.full(len(known), row + 0.13 * (place - 2)), "-", ms=5, **shape)
    axes.set_yticks(range(len(tasks)), [label.replace(", ", "\n") for label in tasks])
    axes.tick_params(axis="y", labelsize=9)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set(xscale="log", xlabel="suggested rate over the best one; shaded: 1/10 to 1")
