"""Fixed schedules and the refined one, each at its best peak, on a task of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, claim_best_rates_inside_grid, compare, compare_schedules, final_values
from lrx.papers.defazio_2023.shapes import POINTS, late, peak, spread_counts
from lrx.papers.figures import arm_style, band, describe, errors_at_the_end
from lrx.papers.reproduction import Claim, Job
from lrx.records import Result
from lrx.training import Workload, train
from lrx.workloads.datasets import load
from lrx.workloads.images import error_workload

FIXED = ("linear", "cosine", "step", "constant", "1 / t", "1 / sqrt t")


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


def measure(task: Task, job: Job) -> dict[str, Any]:
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


def claims(result: Result) -> list[Claim]:
    """Compare what the last iterates reach on every task, and check the shapes of the refined schedules."""
    found: list[Claim] = []
    for name, task in result.curves["tasks"].items():
        found += compare_ends(name, task["arms"], result.settings["tasks"][name]["margin"])
        shape, at = result.array("tasks", name, "refined"), result.array("tasks", name, "counts") / (task["steps"] - 1)
        text = f"{name}: the refined schedule warms up, its peak comes after 0.01 and before 0.5 of the run"
        found.append(Claim.of_values(text, "warm-up", peak(shape, at), 0.01, 0.5))
        text = f"{name}: the refined schedule anneals fast, at 0.9 of the run it is below linear decay's 0.1"
        found.append(Claim.of_values(text, "rapid annealing", late(shape, at), high=0.1))
    every = {
        f"{name} {label}": arm for name, task in result.curves["tasks"].items() for label, arm in task["arms"].items()
    }
    return [*found, claim_best_rates_inside_grid(every)]


def compare_ends(name: str, arms: Mapping[str, Any], margin: float) -> list[Claim]:
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


def plot(name: str, task: Mapping[str, Any]) -> Figure:
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
