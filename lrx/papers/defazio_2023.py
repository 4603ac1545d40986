"""Linear decay, and the schedule that is optimal for the gradient norms of a run.

A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko, "Optimal Linear Decay Learning Rate Schedules and Further
Refinements", 2023, arXiv:2310.07831 (version 1: "When, Why and How Much? Adaptive Learning Rate Scheduling by
Refinement"). The worst-case bound on the last iterate of a schedule eta_t of T steps is best for linear decay,
eta_t ~ 1 - t/T. If the gradient norms G_t of an earlier run are known, it is best for the refined schedule

    eta_t ~ w_t sum_{s > t} w_s,   w_t = 1 / G_t^2 for SGD, 1 / ||g_t||_1 for Adam,

which is linear decay if G is constant, warms up if G falls early and anneals faster if it rises late. The figure of
synthetic norms is drawn here exactly: 2,000 steps, four profiles smoothed by a Gaussian of 40 steps. The paper reports
that over ten deep learning problems and a suite of logistic regressions linear decay matches or outperforms all common
schedules, cosine included, and that refinement gains more. Here this is tested on smaller tasks, with each schedule at
the peak rate of a grid that has the lowest training loss over all images. Only the last iterate counts. The refined
schedule is computed once, from the norms of the first seed's run with linear decay at its best rate, smoothed by a
running median over a tenth of the run.

    lrx reproduce defazio_2023                    the synthetic norms, and digits: half a minute on 2 CPU cores
    lrx reproduce defazio_2023 --scale cpu        the same and MNIST with two models: 6 minutes
    lrx reproduce defazio_2023 --scale paper      the same and CIFAR-10, ResNet-20 for 30 epochs: hours on a GPU

Thresholds were set before the runs. The test error of linear may exceed that of cosine, and that of refined that of
linear, by 0.2 points: 20 of MNIST's 10,000 test images; on digits by 0.56 points, which are 2 of its 360. A constant
rate should have a tenth more errors than any of the three: about a point on CIFAR-10, for which small networks have
errors of about 10 %; MNIST has too few errors for a whole point. Training losses within a tenth of each other match.

A rise counts as a warm-up if it ends before half of the run. On these tasks the norms keep falling, so the refined
schedules rise for longer and fall later than linear decay: the theory predicts that, but the paper saw otherwise on
larger tasks. The digits are memorized, and the noise falls with the norms, so a constant rate reaches the lowest
training loss there.

Differs from the source: other tasks and fewer epochs (its own network for CIFAR-10 is a wide residual one), no warm-up
before any schedule, and no weight decay except for ResNet-20. Step decay divides by ten after 30, 60 and 90 % of the
run, and 1 / t and 1 / sqrt t begin to fall after a hundredth of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import (
    Arm,
    claim_best_rates_inside_grid,
    compare,
    compare_schedules,
    final_values,
)
from lrx.papers.figures import REFERENCE, arm_style, band, describe, errors_at_the_end
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result
from lrx.training import Workload, train
from lrx.workloads.datasets import load
from lrx.workloads.images import error_workload

GRID_STEPS = 2000
GRID_SIGMA = 40.0  # steps, of the Gaussian that smooths the profiles
TIMES = (0, 0.003, 0.02, 0.03, 0.1, 1)  # parts of the run at which the norms are given; straight lines between them
PROFILES = {
    "constant": (1, 1, 1, 1, 1, 1),
    "falls early": (15, 6, 4, 2, 1, 1),
    "falls early, then rises": (15, 6, 4, 2, 1, 2),
    "falls early and late": (15, 6, 4, 2, 1, 0.7),
}
FIXED = ("linear", "cosine", "step", "constant", "1 / t", "1 / sqrt t")
POINTS = 200  # of the norms and schedules that are kept


class Task(NamedTuple):
    """Model, data and lengths, and the margin within which two test errors count as equal."""

    model: str
    options: dict[str, Any]
    method: str  # "SGD", with momentum 0.9, or "Adam"
    rates: tuple[float, ...]
    epochs: int
    batch_size: int = 128
    weight_decay: float = 0.0
    margin: float = 0.2  # points of test error
    data: str = "mnist"
    strategy: str = "auto"  # of the sweep

    @property
    def name(self) -> str:
        widths = "-".join(map(str, self.options.get("widths", ())))
        perceptron = f"perceptron {widths}" if widths else "softmax regression"
        return f"{perceptron if self.model == 'mlp' else self.model}, {self.method}"


RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
DIGITS = Task("mlp", {"widths": (128, 128)}, "SGD", RATES, 20, 64, margin=0.56, data="digits", strategy="vmap")
SOFTMAX = Task("mlp", {"widths": ()}, "Adam", (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1), 5, strategy="vmap")
PERCEPTRON = Task("mlp", {"widths": (64, 64)}, "SGD", RATES, 5)
RESNET = Task("resnet20", {}, "SGD", (0.03, 0.1, 0.3, 1.0), 30, weight_decay=1e-4, data="cifar10")
SCALES = {
    "demo": Scale("digits, a perceptron for 20 epochs, 3 seeds", "half a minute, 2 CPU cores", (DIGITS,), "digits"),
    "cpu": Scale(
        "digits as in the demo; MNIST, softmax regression and a perceptron for 5 epochs, 5 seeds",
        "6 minutes, 2 CPU cores",
        (DIGITS, SOFTMAX, PERCEPTRON),
        "digits, mnist",
        seeds=(0, 1, 2, 3, 4),
    ),
    "paper": Scale(
        "digits as in the demo; CIFAR-10, ResNet-20 for 30 epochs, 3 seeds",
        "hours on one GPU",
        (DIGITS, RESNET),
        "digits, cifar10",
    ),
}


def profile(name: str) -> np.ndarray:
    """Return the gradient norms of the synthetic figure, (GRID_STEPS,) float64."""
    from scipy.ndimage import gaussian_filter1d  # of JAX's own dependencies

    norms = np.interp(np.linspace(0, 1, GRID_STEPS), TIMES, PROFILES[name])
    return gaussian_filter1d(norms, GRID_SIGMA, mode="nearest")


def schedules(steps: int) -> dict[str, Callable[[Any], lrx.Schedule]]:
    """Return the fixed schedules of a run, each as a function of its peak rate."""
    return {
        "linear": lambda rate: lrx.linear_decay(rate, steps),
        "cosine": lambda rate: lrx.cosine_decay(rate, steps),
        "step": lambda rate: lrx.piecewise_constant(rate, {int(part * steps): 0.1 for part in (0.3, 0.6, 0.9)}),
        "constant": lrx.constant,
        "1 / t": lambda rate: lrx.inverse_time_decay(rate, 100 / steps),
        "1 / sqrt t": lambda rate: lrx.inverse_time_decay(rate, 100 / steps, power=0.5),
    }


def optimizer(task: Task, rate: lrx.Schedule) -> optax.GradientTransformation:
    """Return the method of a task, behind a snapshot of the gradient norm that refinement takes."""
    sgd = task.method == "SGD"
    return optax.chain(
        optax.snapshot("gradient_norm", partial(optax.tree.norm, ord=2 if sgd else 1)),
        optax.add_decayed_weights(task.weight_decay) if task.weight_decay else optax.identity(),
        lrx.sgd(rate, momentum=0.9) if sgd else lrx.adam(rate),
    )


def workload_of(task: Task, job: Job) -> Workload:
    """Build the workload of a task, which evaluates the test error in % and the loss over all training images."""
    data = load(task.data, job.data_dir)
    return error_workload(data, task.model, batch_size=task.batch_size, augment=data.augment, **task.options)


def measure_task(task: Task, job: Job) -> dict[str, Any]:
    """Train with all fixed schedules, refine linear decay, and train with the refined schedule."""
    workload = workload_of(task, job)
    steps = task.epochs * workload.batches.steps_per_epoch
    name = f"{task.data}, {task.name}"
    arms = compare_schedules(
        workload,
        {label: make(1.0) for label, make in schedules(steps).items()},
        partial(optimizer, task),
        task.rates,
        job,
        num_steps=steps,
        metric="training_loss",
        name=f"{name} fixed",
        strategy=task.strategy,
    )
    chosen = arms["linear"]["rates"][arms["linear"]["best"]]
    history = train(
        workload,
        optimizer(task, lrx.linear_decay(chosen, steps)),
        steps=steps,
        seed=job.seeds[0],
        evaluate_every=steps,
        checkpoint=job.folder(f"{name} norms"),
        progress=job.progress_title(f"{name}, gradient norms"),
    )
    norms = history.metrics["gradient_norm"]
    refine = partial(lrx.refined, norms, norm="l2" if task.method == "SGD" else "l1")
    arms |= compare(
        workload,
        {"refined": Arm(lambda rate: optimizer(task, refine(rate)), task.rates)},
        job,
        num_steps=steps,
        metric="training_loss",
        name=name,
        strategy=task.strategy,
    )
    counts = spread_counts(steps)
    return {
        "steps": steps,
        "norms": [float(f"{part.mean():.6g}") for part in np.array_split(norms, min(steps, POINTS))],
        "counts": counts,
        "refined": np.round(np.asarray(refine(1.0)(counts), np.float64), 6),
        "arms": arms,
    }


def spread_counts(steps: int) -> np.ndarray:
    """Return counts from the first to the last step, at most POINTS of them."""
    return np.unique(np.round(np.linspace(0, steps - 1, POINTS)).astype(int))


def measure(tasks: tuple[Task, ...], job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Refine the synthetic norms, and train on each task."""
    counts = spread_counts(GRID_STEPS)
    grid = {}
    for name in PROFILES:
        norms = profile(name)
        grid[name] = {
            "norms": np.round(norms[counts], 6),
            "refined": np.round(np.asarray(lrx.refined(norms, 1.0, smoothing=0.0)(counts), np.float64), 8),
        }
    asked = {f"{task.data}, {task.name}": task for task in job.select_tasks(tasks)}
    found = {name: measure_task(task, job) for name, task in asked.items()}
    settings = {name: task._asdict() for name, task in asked.items()}
    return {"grid_steps": GRID_STEPS, "tasks": settings}, {"counts": counts, "grid": grid, "tasks": found}


def claims(result: Result) -> list[Claim]:
    """Check the shapes of the refined schedules, and compare what the last iterates reach."""
    places = result.array("counts") / (result.settings["grid_steps"] - 1)
    grid = {name: result.array("grid", name, "refined") for name in result.curves["grid"]}
    text = "constant norms: the refined schedule is linear decay, within 1e-6 of the peak rate"
    apart = np.max(np.abs(grid["constant"] - (1 - places)))
    found = [Claim.of_values(text, "0, and 1e-16 in float64", apart, high=1e-6)]
    text = "norms that fall over the first tenth: the peak is where they have fallen, within 0.05"
    found.append(Claim.of_values(text, "warm-up, 0.1", peak(grid["falls early"], places), 0.05, 0.15))
    text = "norms that rise late: at 0.9 of the run the rate is below linear decay's"
    found.append(Claim.of_values(text, "< 0.1", late(grid["falls early, then rises"], places), high=0.1))
    text = "norms that fall late: at 0.9 of the run the rate is above linear decay's"
    found.append(Claim.of_values(text, "> 0.1", late(grid["falls early and late"], places), 0.1))
    for name, task in result.curves["tasks"].items():
        found += task_claims(name, task["arms"], result.settings["tasks"][name]["margin"])
        shape, at = result.array("tasks", name, "refined"), result.array("tasks", name, "counts") / (task["steps"] - 1)
        text = f"{name}: the refined schedule warms up, its peak comes after 0.01 and before 0.5 of the run"
        found.append(Claim.of_values(text, "warm-up", peak(shape, at), 0.01, 0.5))
        text = f"{name}: the refined schedule anneals fast, at 0.9 of the run it is below linear decay's 0.1"
        found.append(Claim.of_values(text, "rapid annealing", late(shape, at), high=0.1))
    every = {
        f"{name} {label}": arm for name, task in result.curves["tasks"].items() for label, arm in task["arms"].items()
    }
    return [*found, claim_best_rates_inside_grid(every)]


def peak(refined: np.ndarray, places: np.ndarray) -> float:
    """Return the part of the run after which a schedule is highest."""
    return float(places[np.argmax(refined)])


def late(refined: np.ndarray, places: np.ndarray) -> float:
    """Return a schedule after 0.9 of the run."""
    return float(np.interp(0.9, places, refined))


def task_claims(name: str, arms: Mapping[str, Any], margin: float) -> list[Claim]:
    """Compare the errors and the training losses of the last iterates on one task."""
    error = {label: final_values(arm, "error") for label, arm in arms.items()}
    loss = {label: final_values(arm, "training_loss") for label, arm in arms.items()}
    worst = max(("linear", "cosine", "refined"), key=lambda label: error[label].mean())
    rival = min((label for label in FIXED if label != "linear"), key=lambda label: loss[label].mean())
    found = []
    for one, other in (("linear", "cosine"), ("refined", "linear")):
        text = f"{name}: test error of {one} minus that of {other}, at most {margin:g} points"
        found.append(Claim.of_values(text, "<= 0", error[one] - error[other], high=margin))
    text = f"{name}: test error of constant over that of {worst}, worst of linear, cosine and refined, at least 1.1"
    found.append(Claim.of_values(text, "> 1", error["constant"] / error[worst], 1.1))
    text = f"{name}: training loss of linear over that of {rival}, the best other fixed schedule, at most 1.1"
    found.append(Claim.of_values(text, "<= 1", loss["linear"] / loss[rival], high=1.1))
    text = f"{name}: training loss of refined over that of linear, at most 1"
    return [*found, Claim.of_values(text, "< 1", loss["refined"] / loss["linear"], high=1.0)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the synthetic norms beside their schedules, and each task's norms, schedules, losses and errors."""
    places = result.array("counts") / (result.settings["grid_steps"] - 1)
    figure, (left, right) = panels(2)
    for place, (name, each) in enumerate(result.curves["grid"].items()):
        look = {"color": arm_style("", place)["color"], "ls": arm_style("", place)["ls"], "lw": 1.8}
        left.plot(places, each["norms"], label=name, **look)
        right.plot(places, each["refined"], **look)
    right.plot(places, 1 - places, label="linear decay", **(REFERENCE | {"zorder": 5}))
    left.plot([], [], label="linear decay", **REFERENCE)
    left.set(yscale="log", ylabel=r"gradient norm $G_t$, smoothed")
    right.set_ylabel(r"refined rate $\eta_t$ / peak")
    for axes in (left, right):
        axes.set_xlabel("time t / T")
    legend(figure, left, columns=5)
    return {"synthetic": figure} | {
        name.replace(", ", "_").replace(" ", "_").lower(): plot_task(name, task)
        for name, task in result.curves["tasks"].items()
    }


def plot_task(name: str, task: Mapping[str, Any]) -> Figure:
    """Draw one task: norms and schedules above, training losses and test errors below."""
    figure, (norms, rates, losses, errors) = panels(2, rows=2, size=(8.2, 5.7))
    steps, arms = task["steps"], task["arms"]
    blocks = len(task["norms"])
    norms.plot((np.arange(blocks) + 0.5) * steps / blocks, task["norms"], color=arm_style("linear", 0)["color"], lw=1.4)
    describe(norms, name, yscale="log", ylabel="gradient norm, linear decay")
    counts = np.asarray(task["counts"])
    for label, make in schedules(steps).items():
        rates.plot(counts, np.asarray(make(1.0)(counts)), lw=1.4, **arm_style(label, 0))
    rates.plot(counts, task["refined"], lw=2.2, **arm_style("refined", 0))
    rates.set_ylabel("rate / peak rate")
    for label, arm in arms.items():
        # The median alone: seven bands would hide each other.
        band(losses, arm["steps"], [np.median(np.asarray(arm["loss"], np.float64), axis=0)], label)
    losses.set(yscale="log", ylabel="training loss, median")
    for axes in (norms, rates, losses):
        axes.set_xlabel("steps")
    peaks = [f"{label}, {arm['rates'][arm['best']]:g}" for label, arm in arms.items()]
    errors_at_the_end(errors, {label: final_values(arm, "error") for label, arm in arms.items()}, peaks)
    describe(errors, "seeds and mean, at the best peak rate", xlabel="test error of the last iterate (%)")
    legend(figure, losses, columns=7)
    return figure


PAPER = Paper(
    name="defazio_2023",
    title="Optimal Linear Decay Learning Rate Schedules and Further Refinements",
    authors="A. Defazio, A. Cutkosky, H. Mehta, K. Mishchenko",
    year=2023,
    source="arXiv:2310.07831",
    figure="the refined schedules of synthetic gradient norms; the comparison of schedules, on smaller tasks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("tasks", "*", "arms"),),
)
