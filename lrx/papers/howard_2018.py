"""The learning-rate finder: the rate is read from one short run through all rates instead of a grid of runs.

J. Howard, S. Gugger and others, "fastai", software, 2018: `Learner.lr_find`, after the range test of L. Smith,
"Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv:1506.01186, section 3.3. The library is
described in J. Howard, S. Gugger, "fastai: A Layered API for Deep Learning", Information 11(2), 108, 2020,
arXiv:2002.04688. With n = 100 minibatches, minibatch i has the rate

    lr_i = 1e-7 (10 / 1e-7)^(i / n)

and the test stops when the smoothed loss exceeds 4 times its lowest value. Its suggestions were at first the rate in
the middle of the sharpest descent (`steepest`), later also a tenth of the rate of the lowest loss (`minimum`), and
since 2021, now by default, a rate from the longest descent of the losses (`valley`), or `slide`. A further rule of
thumb is a tenth of the rate at which the loss blows up (`divergence`). No number is published for the quality of these
rates. Here they are compared with the best of a grid of constant rates, by the training loss of the last tenth of two
epochs: they should be within [1/10, 1] of it. For gradient descent on all examples, the rate of the blow-up should be
near 2 / lambda_max, where lambda_max is the largest eigenvalue of the Hessian at the start.

    lrx reproduce howard_2018                     digits, a perceptron: 30 s on 2 CPU cores
    lrx reproduce howard_2018 --scale cpu         with MNIST, and ResNet-8 on 5,000 images of CIFAR-10: 11 minutes
    lrx reproduce howard_2018 --scale cpu --data mnist        the tasks on one data set alone
    lrx reproduce howard_2018 --scale paper       ResNet-8 on all of CIFAR-10: 2 hours

The blow-up may come late: on a quadratic without noise the component along a direction of curvature c is multiplied by
1 - lr c at each step, so it almost vanishes while lr passes 1 / c, and has to grow again. On a long ladder it has its
initial size again when the integral of log |1 - s| / s from 0 to lr c returns to zero, which is a zero of the real part
of the dilogarithm Li_2: lr c = 12.6, 6.3 times 2 / c. Noise in the gradients keeps the component from vanishing.
Softmax regression, moreover, becomes flatter while it learns.

Differs from the source: this is the range test of lrx, whose ladder ends at 10, whose smoothing does not lag, and which
keeps both ends of the curve; its `valley` is the middle of the longest descent, between a tenth and nine tenths of
the fall, where fastai counts minibatches; the thresholds of `slide` are relative. No image is augmented.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import PALETTE, STROKES, Figure, legend, panels
from lrx.papers.arms import Arm, claim_best_rates_inside_grid, compare, decades
from lrx.papers.figures import REFERENCE, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result, round_to_six_digits
from lrx.training import Batches, Workload
from lrx.training.sampling import keys_of
from lrx.workloads import dataset_workload, make_workload
from lrx.workloads.datasets import load

CLASSES = 10  # of all three data sets
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {"momentum": lambda rate: lrx.sgd(rate, momentum=0.9), "adam": lrx.adam}


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


SMALL, WIDE = {"widths": (64, 64)}, {"widths": (128,)}
DIGITS = (
    Task("digits, perceptron, SGD with momentum", "digits", "mlp", "momentum", decades(-4, 0, 3), 32, SMALL),
    Task("digits, perceptron, Adam", "digits", "mlp", "adam", decades(-5, 0, 3), 32, SMALL),
)
MNIST = (
    Task("MNIST, perceptron, SGD with momentum", "mnist", "mlp", "momentum", decades(-4, 0, 2), 128, WIDE),
    Task("MNIST, perceptron, Adam", "mnist", "mlp", "adam", decades(-5, 0, 2), 128, WIDE),
)
RESNET = Task(
    "CIFAR-10, ResNet-8, SGD with momentum", "cifar10", "resnet8", "momentum", decades(-3, 0, 2), 128, strategy="auto"
)
FEW = RESNET._replace(images=5000, strategy="map")
SCALES = {
    "demo": Scale("a perceptron with two optimizers, 3 seeds", "30 s, 2 CPU cores", DIGITS, "digits"),
    "cpu": Scale(
        "perceptrons with two optimizers, ResNet-8 with 5,000 images, 3 seeds",
        "11 minutes, 2 CPU cores",
        (*DIGITS, *MNIST, FEW),
        "digits, mnist, cifar10",
    ),
    "paper": Scale(
        "perceptrons with two optimizers, ResNet-8, 3 seeds",
        "2 hours, 2 CPU cores",
        (*DIGITS, *MNIST, RESNET),
        "digits, mnist, cifar10",
    ),
}
# The defaults of fastai; lrx's differ in the end of the ladder, which is the same for all seeds.
FINDER: dict[str, Any] = {"min_rate": 1e-7, "max_rate": 10.0, "num_steps": 100, "extend": False}
RULES = ("steepest", "valley", "minimum", "slide", "divergence")
JUDGED = ("valley", "steepest", "minimum")
TITLES = {"minimum": "minimum / 10", "divergence": "divergence / 10"}
NEAR = (0.1, 1.0)  # of the best rate
LOST = 0.1  # of what training gains
CURVATURES = np.geomspace(0.01, 10, 50)  # of the quadratic
NOISE = 0.1  # of its minimum, which is about 1 away from the start in each direction
LADDERS = (100, 300)  # steps of the finder on full batches
DILOGARITHM_ZERO = 12.595  # of the real part of Li_2


def make(task: Task, job: Job) -> Workload:
    """Build the workload of a task, without evaluation, since training losses are compared."""
    few = load(task.data, job.data_dir).first(task.images)
    return dataset_workload(few, task.model, batch_size=task.batch_size, evaluate_on=(), **task.options)


def run_finder(workload: Workload, tx: Callable[[Any], Any], seed: int) -> tuple[lrx.tuning.RangeTest, int, int]:
    """Run the finder from a caller's own arrays; return it, the number of arrays that it changed, and of all arrays."""
    given = jax.jit(workload.init)(keys_of(seed).init)
    before = jax.tree.map(jnp.copy, given)
    found = lrx.range_test(dataclasses.replace(workload, init=lambda key: given), tx=tx, seeds=[seed], **FINDER)  # noqa: ARG005
    same = jax.tree.leaves(jax.tree.map(is_unchanged, given, before))
    return found, same.count(False), len(same)


def is_unchanged(array: jax.Array, before: Any) -> bool:
    """Check that an array still exists and holds the same bits."""
    return not array.is_deleted() and np.asarray(array).tobytes() == np.asarray(before).tobytes()


def measure(tasks: tuple[Task, ...], job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the finder and the grid of rates on every task whose data are asked for, and the finder on full batches."""
    measured = {task.label: measure_task(task, job) for task in job.select_tasks(tasks)}
    settings = {"tasks": {task.label: task._asdict() for task in tasks if task.label in measured}, "finder": FINDER}
    return settings, {
        "tasks": {label: found for label, (found, _, _) in measured.items()},
        "arrays": sum(total for _, _, total in measured.values()),
        "arrays_changed": sum(changed for _, changed, _ in measured.values()),
        "full_batch": full_batch(job.seeds),
    }


def measure_task(task: Task, job: Job) -> tuple[dict[str, Any], int, int]:
    """Run the finder with every seed, and train with every rate."""
    workload, tx = make(task, job), OPTIMIZERS[task.optimizer]
    each = [run_finder(workload, tx, seed) for seed in job.seeds]
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


def full_batch(seeds: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Return the rate at which the finder sees the loss of gradient descent blow up, in units of 2 / lambda_max.

    The result maps the length of the ladder and the problem to the values of all seeds.
    """
    softmax = make_workload("digits", "mlp", batch_size=len(load("digits").train_labels), widths=())
    sharpest = np.full(len(seeds), CURVATURES.max())
    problems = {
        "quadratic": (quadratic(0.0), sharpest),
        "quadratic, noisy": (quadratic(NOISE), sharpest),
        "softmax regression": (softmax, sharpest_curvatures(softmax, seeds)),
    }
    found: dict[str, dict[str, np.ndarray]] = {}
    for steps in LADDERS:
        found[str(steps)] = {}
        for name, (workload, curvatures) in problems.items():
            rates = np.asarray(blow_ups(workload, seeds, steps), np.float64)
            found[str(steps)][name] = round_to_six_digits(rates * curvatures / 2)
    return found


def blow_ups(workload: Workload, seeds: tuple[int, ...], steps: int) -> list[float | None]:
    """Return the rate at which gradient descent diverges, for each seed; None if it does not."""
    tests = [lrx.range_test(workload, tx=lrx.sgd, seeds=[seed], **(FINDER | {"num_steps": steps})) for seed in seeds]
    return [test.diverged_at for test in tests]


def quadratic(noise: float) -> Workload:
    """Build the workload of a quadratic whose minimum moves at random from step to step, or stays if `noise` is 0."""
    places = noise * np.random.default_rng(0).normal(size=(max(LADDERS), len(CURVATURES)))
    curvatures = jnp.asarray(CURVATURES, jnp.float32)
    return Workload.from_functions(
        lambda x, place, key: 0.5 * jnp.sum(curvatures * (x - place[0]) ** 2),  # noqa: ARG005
        lambda key: jax.random.normal(key, CURVATURES.shape),
        Batches(jnp.asarray(places, jnp.float32), batch_size=1),
        name="quadratic",
    )


def sharpest_curvatures(workload: Workload, seeds: tuple[int, ...]) -> np.ndarray:
    """Return the largest eigenvalue of the Hessian of the loss of all examples at the start, for each seed."""

    @jax.jit
    def curvature(key: jax.Array, arrays: Any) -> jax.Array:
        params, model_state = workload.init(key)
        batch = workload.batches.transform(arrays, key)
        return lrx.sharpness(workload.loss_at(batch, model_state=model_state), params, tol=1e-3).largest

    return np.array([float(curvature(keys_of(seed).init, workload.batches.arrays)) for seed in seeds])


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
    """Compare the suggested rates with the best of the grid, what they cost, and the divergence with theory."""
    curves = result.curves
    tasks: dict[str, Any] = curves["tasks"]
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
    ladders = list(curves["full_batch"])  # from the shortest to the longest
    for name in curves["full_batch"][ladders[0]]:
        text = f"{name}, gradient descent: the finder's divergence over 2 / lambda_max is within a factor 3"
        found.append(Claim.of_values(text, "1/3 to 3", result.array("full_batch", ladders[0], name), 1 / 3, 3))
    theory, finder = DILOGARITHM_ZERO / 2, result.settings["finder"]
    step = (finder["max_rate"] / finder["min_rate"]) ** (1 / (int(ladders[-1]) - 1))
    text = (
        f"quadratic, a ladder of {ladders[-1]} steps: the divergence over 2 / lambda_max is that of theory, "
        f"{theory:.2f}, to a step of the ladder"
    )
    ratios = result.array("full_batch", ladders[-1], "quadratic")
    found.append(
        Claim.of_values(text, f"{theory / step:.2f} to {theory * step:.2f}", ratios, theory / step, theory * step)
    )
    found.append(
        Claim(
            "the caller's parameters and batch statistics have the same bits after the finder",
            "0 changed",
            f"{curves['arrays_changed']} of {curves['arrays']} arrays changed",
            curves["arrays_changed"] == 0,
        )
    )
    return found


def look(rule: str) -> dict[str, Any]:
    """Return the colour and stroke of a rule."""
    place = RULES.index(rule)
    return {"color": PALETTE[place], "ls": STROKES[place]}


def plot(result: Result) -> dict[str, Figure]:
    """Draw for each data set the finder's curves and the losses of the grids, with all suggestions; then all ratios."""
    by_data: dict[str, dict[str, Any]] = {}
    for label, task in result.curves["tasks"].items():
        by_data.setdefault(result.settings["tasks"][label]["data"], {})[label] = task
    return {data: plot_curves(tasks) for data, tasks in by_data.items()} | {"ratios": plot_ratios(result)}


def plot_curves(tasks: dict[str, Any]) -> Figure:
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


def plot_ratios(result: Result) -> Figure:
    """Draw all suggestions over the best rates, and the finder's divergence on full batches over 2 / lambda_max."""
    figure, (left, right) = panels(2, width_ratios=(1.6, 1))
    tasks: dict[str, Any] = result.curves["tasks"]
    left.axvspan(*NEAR, color="black", alpha=0.08, lw=0)
    for row, task in enumerate(tasks.values()):
        for place, rule in enumerate(RULES):
            ratios = suggested(task, rule) / best_rate(task)
            known = ratios[np.isfinite(ratios)]
            shape = {"marker": "oDs^v"[place], "color": look(rule)["color"], "label": TITLES.get(rule, rule)}
            left.plot(known, np.full(len(known), row + 0.13 * (place - 2)), "-", ms=5, **shape)
    left.set_yticks(range(len(tasks)), [label.replace(", ", "\n") for label in tasks])
    left.tick_params(axis="y", labelsize=9)
    left.set_ylim(len(tasks) - 0.5, -0.5)
    left.set(xscale="log", xlabel="suggested rate over the best one; shaded: 1/10 to 1")
    problems = list(next(iter(result.curves["full_batch"].values())))
    ladders = list(result.curves["full_batch"])
    right.axhspan(1 / 3, 3, color="black", alpha=0.08, lw=0)
    right.axhline(DILOGARITHM_ZERO / 2, **REFERENCE)
    for place, ladder in enumerate(ladders):
        for row, name in enumerate(problems):
            ratios = result.array("full_batch", ladder, name)
            heights = np.full(len(ratios), row + 0.2 * (place - 0.5))
            right.plot(heights, ratios, "o", ms=5, color="black", mfc="white" if place else None)
            label: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            if np.isfinite(ratios).any():
                right.annotate(ladder, (heights[0], np.nanmax(ratios)), **label)
    right.annotate("theory, no noise", (2.45, DILOGARITHM_ZERO / 2), va="bottom", ha="right", fontsize=8)
    right.set_xticks(range(len(problems)), [name.replace(", ", ",\n").replace(" ", "\n") for name in problems])
    right.set_xlim(-0.5, len(problems) - 0.5)
    right.set_yscale("log")
    right.set_ylim(0.2, 100)
    right.set_xlabel(f"gradient descent, {' and '.join(ladders)} steps")
    right.set_ylabel(r"divergence of the finder over $2 / \lambda_{max}$")
    legend(figure, left, columns=5)
    return figure


PAPER = Paper(
    name="howard_2018",
    title="fastai: the learning-rate finder",
    authors="J. Howard, S. Gugger and others",
    year=2018,
    source="software, 2018; Information 11(2), 108, 2020, arXiv:2002.04688",
    figure="the finder's curve and the losses of a grid of rates, with what the rules suggest",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
