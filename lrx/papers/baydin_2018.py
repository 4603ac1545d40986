"""Hypergradient descent: the rate descends along its own gradient, so a rate that is too small grows.

A. G. Baydin, R. Cornish, D. Martínez Rubio, M. Schmidt, F. Wood, "Online Learning Rate Adaptation with Hypergradient
Descent", ICLR 2018, arXiv 1703.04782, figure 2: logistic regression and a perceptron of two hidden layers of 1,000
units on MNIST. With u the direction of a step, the gradient of the loss with respect to the rate is -<g_t, u_{t-1}>,
and so

    alpha_t = alpha_{t-1} + beta <g_t, u_{t-1}>,    theta_t = theta_{t-1} - alpha_t u_t

for SGD, SGD with Nesterov's momentum of 0.9 (SGDN) and Adam, each with it (-HD) and without. alpha_0 = 0.001; beta =
0.001, and 1e-7 with Adam; batch 128, weight decay 1e-4. The published numbers are those of the result files in the
authors' repository, one run each; there is none for the perceptron with Adam-HD:

    logistic regression         SGD    SGD-HD  SGDN   SGDN-HD  Adam   Adam-HD
    training loss, epoch 1      1.204  0.417   0.568  0.361    0.431  0.421    mean over its steps
    training loss, epoch 10     0.396  0.293   0.289  0.261    0.259  0.258
    validation loss, epoch 2    0.583  0.302   0.332  0.275    0.281  0.281    after the epoch, on the test images
    validation loss, epoch 10   0.374  0.288   0.285  0.272    0.272  0.272
    perceptron
    training loss, epoch 1      2.158  0.634   1.016  0.341    0.197
    validation loss, epoch 100  0.149  0.097   0.0614 0.0599   0.0628

In logistic regression the rate of SGD-HD is 0.0135 at step 2, reaches its maximum of 0.0471 at step 14, is 0.0185 at
the end of epoch 1 (mean over the epoch: 0.0292), and 0.0021 at the end of epoch 10.

    lrx reproduce baydin_2018                 logistic regression for 2 epochs: 40 s on 2 CPU cores
    lrx reproduce baydin_2018 --scale cpu     for 10 epochs, the perceptron for 3: 8 minutes on 2 CPU cores
    lrx reproduce baydin_2018 --scale paper   for 10 epochs, the perceptron for 100: hours, not run here

Differs from the source: the last, smaller batch of an epoch is left out; lrx's rate does not go below 0, while the
published rate of SGDN-HD ends epoch 10 at -0.0002; three seeds instead of one; VGG on CIFAR-10, the figure's last
column, is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, claim_near_published, compare, with_own
from lrx.papers.figures import REFERENCE, arm_style, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.statistics import around
from lrx.records import Result
from lrx.training import Workload
from lrx.workloads import make_workload
from lrx.workloads.dense import uniform_by_fan_in


class Size(NamedTuple):
    """The number of epochs for each model; 0 leaves it out."""

    regression: int
    perceptron: int


SCALES = {
    "demo": Scale("logistic regression, 2 epochs, 3 seeds", "40 s, 2 CPU cores", Size(2, 0), "mnist"),
    "cpu": Scale(
        "logistic regression, 10 epochs, perceptron, 3 epochs, 3 seeds", "8 minutes, 2 CPU cores", Size(10, 3), "mnist"
    ),
    "paper": Scale(
        "logistic regression, 10 epochs, perceptron, 100 epochs, 3 seeds",
        "some hours, 2 CPU cores",
        Size(10, 100),
        "mnist",
    ),
}
WIDTHS = {"logistic regression": (), "perceptron": (1000, 1000)}
BATCH_SIZE = 128
RATE = 1e-3  # alpha_0
WEIGHT_DECAY = 1e-4
METHODS = {
    "SGD": lambda rate: lrx.sgd(rate),
    "SGD-HD": lambda rate: lrx.hypergradient_sgd(rate, hyper_rate=1e-3),
    "SGDN": lambda rate: lrx.sgd(rate, momentum=0.9, nesterov=True),
    "SGDN-HD": lambda rate: lrx.hypergradient_sgd(rate, hyper_rate=1e-3, momentum=0.9, nesterov=True),
    "Adam": lambda rate: lrx.adam(rate),
    "Adam-HD": lambda rate: lrx.hypergradient_adam(rate, hyper_rate=1e-7),
}
PAIRS = {"SGD-HD": "SGD", "SGDN-HD": "SGDN", "Adam-HD": "Adam"}

# (model, curve, epoch) to the value of each arm in the authors' files.
PUBLISHED: dict[tuple[str, str, int], dict[str, float]] = {
    (model, curve, epoch): dict(zip(METHODS, values, strict=False))
    for model, curve, epoch, values in (
        ("logistic regression", "training", 1, (1.204, 0.417, 0.568, 0.361, 0.431, 0.421)),
        ("logistic regression", "training", 10, (0.3957, 0.2934, 0.2893, 0.2612, 0.2590, 0.2583)),
        ("logistic regression", "validation", 2, (0.583, 0.302, 0.332, 0.275, 0.281, 0.281)),
        ("logistic regression", "validation", 10, (0.3737, 0.2878, 0.2846, 0.2719, 0.2719, 0.2723)),
        ("perceptron", "training", 1, (2.158, 0.634, 1.016, 0.341, 0.197)),
        ("perceptron", "validation", 100, (0.149, 0.097, 0.0614, 0.0599, 0.0628)),
    )
}
TOLERANCE = 0.1  # of a published loss
# The rate of SGD-HD in logistic regression, at steps of the first epoch.
PUBLISHED_STEPS = (1, 2, 3, 4, 6, 9, 14, 20, 29, 50, 70, 99, 140, 189, 431, 469)
PUBLISHED_RATES = (
    *(0.001, 0.0135, 0.0245, 0.0338, 0.0430, 0.0459, 0.0471, 0.0451),
    *(0.0397, 0.0389, 0.0388, 0.0369, 0.0333, 0.0311, 0.0194, 0.0185),
)
PUBLISHED_PEAK, PUBLISHED_END, PUBLISHED_MEAN = 0.0471, 0.0185, 0.0292  # at its highest, at the end, of the epoch
RATES_KEPT = 60  # of each trace, evenly spread over the decades of steps


def workload_of(data: str, data_dir: Any, widths: tuple[int, ...]) -> Workload:
    """Build the workload of the authors: normalized pixels, and initial values as PyTorch draws them."""
    options: dict[str, Any] = {"widths": widths, "initial": uniform_by_fan_in}
    return make_workload(data, "mlp", batch_size=BATCH_SIZE, data_dir=data_dir, **options)


def method(name: str, rate: Any = RATE) -> optax.GradientTransformation:
    """Return the method of an arm; its weight decay is part of the gradient, as in PyTorch."""
    return optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), METHODS[name](rate))


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train each model with each of the six methods; keep the losses of each epoch, and the rate over the steps."""
    arms = {name: Arm(functools.partial(method, name), (RATE,)) for name in METHODS}
    curves = {}
    for (model, widths), epochs in zip(WIDTHS.items(), size, strict=True):
        if not epochs:
            continue
        workload = workload_of(job.data, job.data_dir, widths)
        epoch = workload.batches.steps_per_epoch
        points = max(points for points in range(1, 121) if epoch % points == 0)  # of an epoch, of as many steps each
        found = compare(
            workload,
            with_own(arms, job),
            job,
            num_steps=epochs * epoch,
            num_points=epochs * points,
            evaluate_every=epoch,
            with_rates=True,
            name=model,
        )
        kept = np.unique(np.geomspace(1, epochs * points, RATES_KEPT).round().astype(int)) - 1
        kept = np.union1d(kept, [points - 1])  # the end of epoch 1
        curves[model] = {
            "steps_per_epoch": epoch,
            "rate_steps": np.asarray(next(iter(found.values()))["steps"])[kept],
            "arms": {name: by_epoch(arm, epochs, kept) for name, arm in found.items()},
        }
    return {"epochs": dict(zip(WIDTHS, size, strict=True))}, curves


def by_epoch(arm: Mapping[str, Any], epochs: int, kept: np.ndarray) -> dict[str, Any]:
    """Return losses and the rate by epoch, (seeds, epochs), and the rate at the points that are kept."""

    def means(curve: Any) -> np.ndarray:
        values = np.asarray(curve, np.float64)
        return values.reshape(len(values), epochs, -1).mean(axis=2).round(7)

    return {
        "training": means(arm["loss"]),
        "validation": arm["evaluations"]["loss"],
        "epoch_rate": means(arm["rate"]),
        "rate": np.asarray(arm["rate"])[:, kept],
    }


def claims(result: Result) -> list[Claim]:
    """Compare the losses with those published, each method with and without hypergradient, and check the rate."""
    found = []
    for (model, curve, epoch), published in PUBLISHED.items():
        if epoch <= result.settings["epochs"][model]:
            reached = {name: result.array(model, "arms", name, curve)[:, epoch - 1] for name in published}
            text = f"{model}: {curve} loss of epoch {epoch}"
            found.append(claim_near_published(text, published, reached, TOLERANCE))
    for model in result.curves:
        for adaptive, plain in PAIRS.items():
            losses = [result.array(model, "arms", name, "training") for name in (adaptive, plain)]
            text = f"{model}: training loss of {adaptive} over that of {plain}, the largest of all epochs"
            found.append(Claim.of_values(text, "<= 1", (losses[0] / losses[1]).max(axis=1), high=1.0))
    return found + (rate_claims(result) if "logistic regression" in result.curves else [])


def rate_claims(result: Result) -> list[Claim]:
    """Claim that the rate of SGD-HD in logistic regression rises at once and falls afterwards."""
    model = "logistic regression"
    steps, rates = result.array(model, "rate_steps"), result.array(model, "arms", "SGD-HD", "rate")
    epoch = result.curves[model]["steps_per_epoch"]
    peaks = rates.max(axis=1)
    end = rates[:, np.searchsorted(steps, epoch, side="right") - 1]
    mean = result.array(model, "arms", "SGD-HD", "epoch_rate")[:, 0]
    what = f"{model}, rate of SGD-HD"
    of_values = functools.partial(Claim.of_values, published=True)
    text = f"{what} at its highest: within 25 % of the published one"
    found = [of_values(text, f"{PUBLISHED_PEAK}", peaks, *around(PUBLISHED_PEAK, 0.25))]
    text = f"{what}: highest within the first 30 steps"
    found.append(of_values(text, "14", steps[rates.argmax(axis=1)], high=30))
    text = f"{what} at the end of epoch 1 over its highest: below 1/2"
    found.append(of_values(text, f"{PUBLISHED_END / PUBLISHED_PEAK:.2f}", end / peaks, high=0.5))
    text = f"{what}, mean of epoch 1: within 10 % of the published one"
    return [*found, of_values(text, f"{PUBLISHED_MEAN}", mean, *around(PUBLISHED_MEAN, 0.1))]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the rate over the steps, and training and validation losses over epochs, as figure 2 does."""
    return {model.replace(" ", "_"): draw(model, curves, result.data) for model, curves in result.curves.items()}


def draw(model: str, curves: Mapping[str, Any], data: str) -> Figure:
    """Draw one column of figure 2, from left to right."""
    figure, (rates, training, validation) = panels(3)
    for place, (name, arm) in enumerate(curves["arms"].items()):
        look = arm_style(name, place) | ({"ls": "--"} if name in PAIRS.values() else {})
        epochs = np.arange(1, len(arm["training"][0]) + 1)
        band(rates, curves["rate_steps"], arm["rate"], name, **look)
        for panel, curve in ((training, "training"), (validation, "validation")):
            band(panel, epochs, arm[curve], name, **look, marker="." if len(epochs) < 20 else "")
            for (of, what, epoch), published in PUBLISHED.items():
                if data == "mnist" and (of, what) == (model, curve) and name in published and epoch <= len(epochs):
                    cross = {"color": look["color"], "mec": "black", "marker": "X", "ms": 8, "ls": "", "zorder": 5}
                    panel.plot([epoch], [published[name]], **cross)
    if data == "mnist" and model == "logistic regression":
        shown = np.searchsorted(PUBLISHED_STEPS, curves["rate_steps"][-1], side="right")
        rates.plot(PUBLISHED_STEPS[:shown], PUBLISHED_RATES[:shown], label="SGD-HD, published", **REFERENCE)
    describe(rates, f"{model}, {data}", xscale="log", xlabel="steps", ylabel="learning rate")
    for panel, ylabel in ((training, "training loss, mean of the epoch"), (validation, "validation loss")):
        panel.set(yscale="log", xlabel="epoch", ylabel=ylabel)
        panel.locator_params(axis="x", integer=True)
    rates.plot([], [], "X", color="white", mec="black", ms=8, label="published loss")
    legend(figure, rates, columns=8)
    return figure


PAPER = Paper(
    name="baydin_2018",
    title="Online Learning Rate Adaptation with Hypergradient Descent",
    authors="A. G. Baydin, R. Cornish, D. Martínez Rubio, M. Schmidt, F. Wood",
    year=2018,
    source="ICLR 2018, arXiv:1703.04782",
    figure="Figure 2 (learning rate, training and validation loss on MNIST)",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("*", "arms"),),
)
