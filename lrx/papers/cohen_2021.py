"""The edge of stability: gradient descent drives the sharpness up to 2 / rate, and continues to train at that edge.

J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, "Gradient Descent on Neural Networks Typically Occurs at the Edge
of Stability", ICLR 2021, arXiv:2103.00065. The sharpness lambda is the largest eigenvalue of the Hessian of the
training loss. On a quadratic, gradient descent with rate eta is stable up to

    lambda = 2 / eta,   with Polyak's momentum (2 + 2 beta) / eta,   with Nesterov's (2 + 2 beta) / (eta (1 + 2 beta)).

Below that limit the sharpness of a network rises (progressive sharpening) along the path of gradient flow. It then
stays at or just above 2 / eta, while the loss oscillates from step to step and falls over longer times. The figure
shows loss and sharpness over iterations, as figure 1 does, of the authors' `fc-tanh`: 3072-200-200-10, tanh, PyTorch's
initial values, and the squared loss (half the sum over classes) on the first images of CIFAR-10, each pixel with zero
mean and unit variance over all training images. Every step uses all images. A second figure compares the sharpness with
that of gradient flow, which does not stop rising, and shows momentum.

    lrx reproduce cohen_2021                      500 images, two rates, one seed: half a minute on 2 CPU cores
    lrx reproduce cohen_2021 --scale cpu          1,000 images, three rates, 3 seeds: six minutes
    lrx reproduce cohen_2021 --scale paper        5,000 images, as the authors

Differs from the source: the authors stop at an accuracy of 99 %, which few images reach soon after the edge; here
every rate trains for the same time, steps times rate. Gradient flow is gradient descent with a rate small enough to
stay below its edge; the authors use a Runge-Kutta method. With fewer images than pixels, the first layer holds only the
part of its weights in the span of the images: the rest never moves, and the Hessian is 0 along it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import lrx
from lrx.figures import LIGHT, Figure, legend, panels
from lrx.papers.figures import REFERENCE, arm_style, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import train_seeds
from lrx.papers.statistics import median_of_last, rising_parts
from lrx.records import Result, round_to_six_digits
from lrx.workloads.datasets import load
from lrx.workloads.full_batch import make_full_batch_workload, standardize_pixels


class Size(NamedTuple):
    """Images, rates and lengths."""

    images: int
    edges: tuple[float, ...]  # 2 / rate of gradient descent; times every / 2 it is a whole number of steps
    flow: float  # 2 / rate of the descent that stands for gradient flow
    time: float  # steps times rate
    every: float  # time between two measurements of the sharpness
    momentum_edge: float
    momentum_steps: int
    momentum_every: int  # steps


SCALES = {
    "demo": Scale(
        "fc-tanh, 500 images, two rates for a time of 12, momentum; one seed",
        "30 s, 2 CPU cores",
        Size(500, (100, 120), 240, 12.0, 1.0, 100, 200, 20),
        "cifar10",
        (0,),
    ),
    "cpu": Scale(
        "fc-tanh, 1,000 images, three rates for a time of 20, momentum; 3 seeds",
        "6 minutes, 2 CPU cores",
        Size(1000, (100, 120, 140), 320, 20.0, 0.5, 120, 300, 10),
        "cifar10",
    ),
    "paper": Scale(
        "fc-tanh, 5,000 images, three rates for a time of 60, momentum; 3 seeds",
        "5 hours, 2 CPU cores, by the cost of a step",
        Size(5000, (100, 160, 200), 1000, 60.0, 0.5, 160, 2000, 20),
        "cifar10",
    ),
}
WIDTHS = (200, 200)
BETA = 0.9
TOLERANCE = 1e-2  # of the residual over the sharpness
ACCURACY = 0.99  # at which the authors stop
LAST = 0.3  # part of a run that is certainly at the edge
HOVERS = (1.9, 2.3)  # of sharpness times rate: at or just above 2
POINTS = 250  # of a curve of losses, approximately
FIRST_PLACE = 2  # of the colours of descent; those before belong to momentum


class Run(NamedTuple):
    """One method with one rate."""

    tx: optax.GradientTransformation
    rate: float
    edge: float  # the sharpness up to which it is stable
    steps: int
    every: int  # steps between two measurements


def runs(size: Size) -> dict[str, Run]:
    """Return every run of a size by its label."""

    def descent(edge: float) -> Run:
        rate = 2 / edge
        every = round(size.every / rate)
        return Run(lrx.sgd(rate), rate, edge, every * round(size.time / size.every), every)

    found = {f"2 / {edge:g}": descent(edge) for edge in size.edges} | {"gradient flow": descent(size.flow)}
    edge = size.momentum_edge
    for name, rate in (("heavy ball", (2 + 2 * BETA) / edge), ("Nesterov", (2 + 2 * BETA) / (1 + 2 * BETA) / edge)):
        # As in the authors' code, which measures Nesterov's sharpness at the look-ahead point.
        tx = lrx.sgd(rate, momentum=BETA, nesterov=name == "Nesterov")
        found[name] = Run(tx, rate, edge, size.momentum_steps, size.momentum_every)
    return found


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with every rate and seed, and keep the loss of every step and the sharpness every so often."""
    data = load(job.data, job.data_dir)
    rows, labels = standardize_pixels(data.train_images, size.images), data.train_labels[: size.images]
    workload = make_full_batch_workload(rows, labels, widths=WIDTHS, num_classes=data.num_classes)
    curves = {}
    for label, run in runs(size).items():
        records = [job.folder(f"{label} {seed} sharpness.json") for seed in job.seeds]
        monitors = [lrx.sharpness_monitor(workload, every=run.every, tol=TOLERANCE, path=record) for record in records]
        with jax.default_matmul_precision("highest"):  # less would raise the loss by rounding on a GPU
            title = f"{workload.name}, {label}, seed"
            by_seed = train_seeds(
                workload, run.tx, job, label, steps=run.steps, evaluate_every=run.every, title=title, callbacks=monitors
            )
        losses = np.array([history.loss for history in by_seed])
        stride = max(1, run.steps // POINTS) | 1  # odd, since the loss goes up and down with a period of two steps
        curves[label] = {
            "rate": run.rate,
            "edge": round_to_six_digits(monitors[0].limits[-1]).item(),
            "steps": monitors[0].steps,
            "sharpness": round_to_six_digits([monitor.sharpness for monitor in monitors]),
            "accuracy": round_to_six_digits([history.evaluations["accuracy"] for history in by_seed]),
            # Of the steps since the measurement before: how many raised the loss, of all of them, and its mean.
            "rising": round_to_six_digits([rising_parts(each, run.every) for each in losses]),
            "mean_loss": round_to_six_digits(losses.reshape(len(losses), -1, run.every).mean(axis=-1)),
            "loss_steps": np.arange(0, run.steps, stride),
            "loss": round_to_six_digits(losses[0, ::stride]),
        }
    return {"images": len(labels), "widths": WIDTHS, "beta": BETA}, curves


def crossing(run: dict[str, Any], seed: int, flow: np.ndarray) -> tuple[float, float, float, float]:
    """Return what a run does before and after its sharpness first reaches the edge.

    These are the parts of the steps that raise the loss, before and after; the larger ratio of mean losses of thirds
    afterwards, each over the one before; and how far the sharpness is from that of gradient flow before, relative.
    """
    sharpness, rising, mean = (np.asarray(run[name][seed], np.float64) for name in ("sharpness", "rising", "mean_loss"))
    first = int(np.argmax([*(sharpness >= run["edge"]), True]))  # the number of all if there is none
    before, after = (float(np.mean(part)) if len(part) else 0.0 for part in (rising[:first], rising[first + 1 :]))
    parts = [float(np.mean(part)) for part in np.array_split(mean[first + 1 :], 3) if len(part)]
    falls = max(parts[1] / parts[0], parts[2] / parts[1]) if len(parts) == 3 else np.nan
    return before, after, falls, float(np.max(np.abs(sharpness[:first] / flow[seed, :first] - 1), initial=0.0))


def claims(result: Result) -> list[Claim]:
    """Compare sharpness with 2 / rate, the loss before with that after the crossing, and the path with the flow's."""
    curves = result.curves
    descents = _descents(curves)
    flow = result.array("gradient flow", "sharpness")
    ratios = {name: median_of_last(result.array(name, "sharpness") / run["edge"], LAST) for name, run in curves.items()}
    low, high = HOVERS
    last = f"last {LAST:.0%} of the steps"
    found = []
    for label in descents:
        text = f"eta = {label}: median of sharpness times eta, {last}, from {low} to {high}"
        found.append(Claim.of_values(text, "2", 2 * ratios[label], low, high))
    of_runs = [[crossing(run, seed, flow) for seed in range(len(flow))] for run in descents.values()]
    before, after, thirds, apart = np.moveaxis(np.array(of_runs), -1, 0)  # (runs, seeds) each
    text = "before the sharpness crosses 2 / eta at most 1 % of the steps raise the loss, at every rate"
    found.append(Claim.of_values(text, "0", np.max(before, axis=0), high=0.01))
    found.append(Claim.of_values("after it more than 5 % do, at every rate", "> 0.05", np.min(after, axis=0), low=0.05))
    text = "over longer times the loss still falls: means of thirds after the crossing, each over the one before"
    found.append(Claim.of_values(text, "< 1", np.max(thirds, axis=0), high=1.0))
    text = "until then the sharpness is that of gradient flow at the same time, within 5 %"
    found.append(Claim.of_values(text, "0", np.max(apart, axis=0), high=0.05))
    text = "gradient flow becomes sharper than every 2 / eta: its largest sharpness over the largest of them"
    highest = max(run["edge"] for run in descents.values())
    found.append(Claim.of_values(text, "> 1", flow.max(axis=1) / highest, low=1.0))
    for label, formula in (("heavy ball", "(2 + 2 beta) / eta"), ("Nesterov", "(2 + 2 beta) / (eta (1 + 2 beta))")):
        text = f"{label}: median of sharpness over {formula}, {last}, from {low / 2} to {high / 2}"
        found.append(Claim.of_values(text, "1", ratios[label], low / 2, high / 2))
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw loss and sharpness over iterations; and the sharpness beside that of gradient flow, and with momentum."""
    return {"edge": _draw_edge(result.curves), "flow_and_momentum": _draw_flow_and_momentum(result.curves)}


def _draw_edge(curves: dict[str, Any]) -> Figure:
    figure, (left, right) = panels(2)
    for place, (label, run) in enumerate(_descents(curves).items(), FIRST_PLACE):
        name, color = rf"$\eta$ = {label}", arm_style(label, place)["color"]
        left.plot(run["loss_steps"], run["loss"], lw=0.9, color=color)
        learned = np.flatnonzero(np.asarray(run["accuracy"][0], np.float64) > ACCURACY)
        if len(learned):
            step = run["steps"][learned[0]]
            left.plot(step, np.interp(step, run["loss_steps"], run["loss"]), "o", ms=5, color=color)
        band(right, run["steps"], run["sharpness"], name, place, ls="-")
        right.axhline(run["edge"], **REFERENCE | {"color": color})
    right.plot([], [], label=r"edge of stability, $2/\eta$", **REFERENCE)
    right.plot([], [], "o", ms=5, color="black", label=f"accuracy above {ACCURACY:.0%}")
    left.set(xlabel="iterations", ylabel="training loss, first seed")
    right.set(xlabel="iterations", ylabel=r"sharpness $\lambda$")
    legend(figure, right, columns=6)
    return figure


def _draw_flow_and_momentum(curves: dict[str, Any]) -> Figure:
    figure, (left, right) = panels(2)
    flow = curves["gradient flow"]
    label = rf"gradient flow ($\eta$ = 2 / {flow['edge']:g})"
    band(left, np.asarray(flow["steps"]) * flow["rate"], flow["sharpness"], label, color=LIGHT, lw=3.5, zorder=1)
    for place, (label, run) in enumerate(_descents(curves).items(), FIRST_PLACE):
        band(left, np.asarray(run["steps"]) * run["rate"], run["sharpness"], rf"$\eta$ = {label}", place, ls="-")
        left.axhline(run["edge"], **REFERENCE | {"color": arm_style(label, place)["color"]})
    left.plot([], [], label="edge of stability", **REFERENCE)
    for label in ("heavy ball", "Nesterov"):
        band(right, curves[label]["steps"], curves[label]["sharpness"], label)
    right.axhline(curves["Nesterov"]["edge"], **REFERENCE)
    right.legend(loc="lower right", frameon=False, fontsize=9)
    left.set(xlabel=r"time, iterations times $\eta$", ylabel=r"sharpness $\lambda$")
    describe(right, rf"momentum, $\beta$ = {BETA}", xlabel="iterations", ylabel=r"sharpness $\lambda$")
    legend(figure, left, columns=6)
    return figure


def _descents(curves: dict[str, Any]) -> dict[str, Any]:
    """Return the runs without momentum."""
    return {label: run for label, run in curves.items() if label.startswith("2 / ")}


PAPER = Paper(
    name="cohen_2021",
    title="Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability",
    authors="J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar",
    year=2021,
    source="ICLR 2021, arXiv:2103.00065",
    figure="figure 1, fully connected tanh network: training loss and sharpness over iterations; flow, momentum",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
