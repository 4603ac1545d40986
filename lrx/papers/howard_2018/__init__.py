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

from typing import Any

from lrx.figures import Figure, legend, panels
from lrx.papers.arms import decades
from lrx.papers.howard_2018 import divergence, finder, suggestions
from lrx.papers.howard_2018.suggestions import Task
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result

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


def measure(tasks: tuple[Task, ...], job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the finder and the grid of rates on every task whose data are asked for, and the finder on full batches."""
    measured = {task.label: suggestions.measure(task, job) for task in job.select_tasks(tasks)}
    settings = {
        "tasks": {task.label: task._asdict() for task in tasks if task.label in measured},
        "finder": finder.FINDER,
    }
    return settings, {
        "tasks": {label: found for label, (found, _, _) in measured.items()},
        "arrays": sum(total for _, _, total in measured.values()),
        "arrays_changed": sum(changed for _, changed, _ in measured.values()),
        "full_batch": divergence.measure(job.seeds),
    }


def claims(result: Result) -> list[Claim]:
    """Compare the suggested rates with the best of the grid, what they cost, and the divergence with theory."""
    changed, arrays = result.curves["arrays_changed"], result.curves["arrays"]
    text = "the caller's parameters and batch statistics have the same bits after the finder"
    unchanged = Claim(text, "0 changed", f"{changed} of {arrays} arrays changed", changed == 0)
    return [*suggestions.claims(result), *divergence.claims(result), unchanged]


def plot(result: Result) -> dict[str, Figure]:
    """Draw for each data set the finder's curves and the losses of the grids, with all suggestions; then all ratios."""
    by_data: dict[str, dict[str, Any]] = {}
    for label, task in result.curves["tasks"].items():
        by_data.setdefault(result.settings["tasks"][label]["data"], {})[label] = task
    return {data: suggestions.plot(tasks) for data, tasks in by_data.items()} | {"ratios": plot_ratios(result)}


def plot_ratios(result: Result) -> Figure:
    """Draw all suggestions over the best rates, and the finder's divergence on full batches over 2 / lambda_max."""
    figure, (left, right) = panels(2, width_ratios=(1.6, 1))
    suggestions.draw_ratios(left, result.curves["tasks"])
    divergence.draw(right, result)
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
