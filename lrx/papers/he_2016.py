"""Residual networks: with shortcuts, deeper is better; the deepest needs a small rate until it has begun to learn.

K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385, section
4.2, figure 6 and table 6. Plain networks have the higher training error the deeper they are; with shortcuts x + F(x)
deeper ones are better. SGD with momentum, the rate 0.1 divided by 10 at 1/2 and 3/4 of the run. For 110 layers 0.1 is
"slightly too large to start converging": the rate is 0.01 until the training error is below 80 %, about 400 steps,

    eta(n) = 0.01 until the first n with error(n) < 80 %, then 0.1,   lrx.warmup_until(..., threshold=80),

and where 0.1 is used from the start, the network converges later, to a similar error.

    lrx reproduce he_2016                 digits, networks of 8 and 20 layers, 3 seeds
    lrx reproduce he_2016 --scale cpu     CIFAR-10 of 8 x 8 pixels, networks of 8, 20 and 56 layers, 3 seeds

Published test errors (CIFAR-10): 8.75, 7.51, 7.17, 6.97 and 6.43 % with 20, 32, 44, 56 and 110 layers.

Measured at the demo scale, 20 layers without shortcuts end at a training error of 22 %, where 8 end at 2 %, as in the
paper. With shortcuts they train, but are not better than 8, which fit these images already. A constant rate costs 1.4
points of error. The warm-up is 12 points of training error ahead when it ends, after 10 or 20 steps, and then loses
its lead: at the full rate the error falls more slowly, and one of three seeds does not recover.

At the cpu scale 20 layers with shortcuts are 2 points better than 8, and without them 4 points worse. 56 layers need
the warm-up, far more than in the paper: with it they end at 51 % test error, without at 59 %, where 8 layers end at
51 %. After these few epochs the drops lower the training loss by 6 and 1 % only, and a constant rate ends 1.6 points
lower.

Differs from the source: small networks and short runs below the `paper` scale, whose 50,000 training images are not
split. The training error of the warm-up is that of the evaluations, on the first training images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx import figures
from lrx.figures import PALETTE, Figure, legend, panels
from lrx.papers.arms import final_values, momentum_with_penalty, with_own, without_grid
from lrx.papers.figures import band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.residual_networks import Network, residual_workload
from lrx.papers.runs import summarize_histories, train_seeds
from lrx.records import Result
from lrx.training import Workload


class Size(NamedTuple):
    """The networks, and the length of a run."""

    network: Network
    depths: tuple[int, ...]  # layers, with shortcuts and without
    steps: int
    every: int  # steps between evaluations
    rate: float = 0.1


SCALES = {
    "demo": Scale(
        "residual and plain networks of 8 and 20 layers, 240 steps, 3 seeds",
        "a minute, 2 CPU cores",
        Size(Network(1437, 360, 256, 32, 8), (8, 20), 240, 10),
        "digits",
    ),
    "cpu": Scale(
        "residual and plain networks of 8, 20 and 56 layers, 2,000 steps, 3 seeds",
        "25 minutes, 1 CPU core",
        Size(Network(10_000, 2000, 1000, 64, 16, 4), (8, 20, 56), 2000, 40),
        "cifar10",
    ),
    "paper": Scale(
        "ResNet-20 to ResNet-110 with and without shortcuts, 64,000 steps, 3 seeds",
        "24 hours on one GPU",
        Size(Network(50_000, 10_000, 5000, 128, 0), (20, 32, 44, 56, 110), 64_000, 200),
        "cifar10",
    ),
}
WEIGHT_DECAY = 1e-4
POINTS = 50  # of the curve of training losses
DROPS = (0.5, 0.75)  # of the run, where the rate is divided by 10
SMALL = 0.1  # part of the rate that the warm-up has
THRESHOLD = 80.0  # training error at which it ends, in percent
STEP, CONSTANT, WARMUP = "step", "constant", "warm-up, step"
RESIDUAL, PLAIN = "residual", "plain"
TABLE = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}  # test errors in percent
FALL = 0.85  # of the training loss, within an epoch after a drop
FIRST_PART = 0.1  # of the run, in which the warm-up ends


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train every network with the step schedule, and the deepest one with shortcuts also with the others."""
    step = lrx.piecewise_constant(size.rate, {round(part * size.steps): 0.1 for part in DROPS})
    warm = lrx.warmup_until(step, warmup_value=SMALL * size.rate, threshold=THRESHOLD, feedback="observed")
    rates = {STEP: step, CONSTANT: lrx.constant(size.rate), WARMUP: warm}
    arms = with_own(
        {name: without_grid(momentum_with_penalty(rate, WEIGHT_DECAY)) for name, rate in rates.items()}, job
    )
    networks: dict[str, Any] = {PLAIN: {}, RESIDUAL: {}}
    for kind, found in networks.items():
        for depth in size.depths:
            workload = residual_workload(size.network, depth, job, shortcuts=kind == RESIDUAL)
            found[str(depth)] = train(workload, arms[STEP].make(size.rate), size, job, STEP)
    deepest = {STEP: networks[RESIDUAL][str(size.depths[-1])]}
    for name, arm in arms.items():
        if name != STEP:
            deepest[name] = train(workload, arm.make(size.rate), size, job, name)
    return size._asdict(), {"networks": networks, "arms": deepest}


def train(workload: Workload, tx: optax.GradientTransformation, size: Size, job: Job, name: str) -> dict[str, Any]:
    """Train with every seed, and return the curves as `lrx.papers.arms.compare` does.

    `warm_steps` counts the steps of each seed before the rate is above that of the warm-up.
    """
    histories = train_seeds(
        workload,
        tx,
        job,
        f"{workload.name}, {name}, seed",
        steps=size.steps,
        evaluate_every=size.every,
        feedback_metric="training_error" if name == WARMUP else None,
    )
    above = [history.rate > 2 * SMALL * size.rate for history in histories]
    warm_steps = [int(np.argmax(each)) if each.any() else size.steps for each in above]
    return summarize_histories(histories, POINTS) | {"warm_steps": warm_steps}


def ends(result: Result, kind: str, depth: int, metric: str) -> np.ndarray:
    """Return an evaluation at the end of the runs of a network, (seeds,)."""
    return final_values(result.curves["networks"][kind][str(depth)], metric)


def falls(result: Result, drop: float) -> np.ndarray:
    """Return the training loss in the epoch after a drop over that in the epoch before, (seeds,), of the deepest."""
    arm, settings = result.curves["arms"][STEP], result.settings
    steps, loss = np.asarray(arm["steps"]), np.asarray(arm["loss"], np.float64)
    network = Network(*settings["network"])
    epoch = max(network.number // network.batch_size, float(steps[1] - steps[0]))
    away = steps - round(drop * settings["steps"])
    return loss[:, (away > 0) & (away <= epoch)].mean(axis=1) / loss[:, (away <= 0) & (away > -epoch)].mean(axis=1)


def ahead(result: Result) -> np.ndarray:
    """Return by how many points the training error is higher without warm-up when the warm-up ends, (seeds,)."""
    arms = result.curves["arms"]
    found = []
    for seed, end in enumerate(arms[WARMUP]["warm_steps"]):
        without, warm = (
            np.interp(end, arms[name]["evaluation_steps"], arms[name]["evaluations"]["training_error"][seed])
            for name in (STEP, WARMUP)
        )
        found.append(without - warm)
    return np.array(found)


def claims(result: Result) -> list[Claim]:
    """Compare depths with shortcuts and without, the schedules, and the warm-up with none."""
    first, last = min(result.settings["depths"]), max(result.settings["depths"])
    pair = f"{last} layers minus {first}"
    found = []
    apart = ends(result, PLAIN, last, "training_error") - ends(result, PLAIN, first, "training_error")
    text = f"figure 6: without shortcuts: training error of {pair}, at least 0.1 (points)"
    found.append(Claim.of_values(text, "> 0", apart, 0.1))
    apart = ends(result, RESIDUAL, last, "error") - ends(result, RESIDUAL, first, "error")
    text = f"figure 6: with shortcuts: test error of {pair}, at most 0 (points)"
    found.append(Claim.of_values(text, "-1.8, 56 and 20", apart, high=0.0))
    ratio = ends(result, RESIDUAL, last, "training_loss") / ends(result, RESIDUAL, first, "training_loss")
    text = f"with shortcuts: training loss of {last} layers over that of {first}, at most 1"
    found.append(Claim.of_values(text, "< 1", ratio, high=1.0))
    apart = ends(result, PLAIN, last, "training_error") - ends(result, RESIDUAL, last, "training_error")
    text = f"{last} layers: training error without shortcuts minus that with, at least 0.1 (points)"
    found.append(Claim.of_values(text, "> 0", apart, 0.1))
    for drop in DROPS:
        text = f"drop at {drop:g} of the run: training loss in the epoch after over that before, at most {FALL:g}"
        found.append(Claim.of_values(text, "< 1", falls(result, drop), high=FALL))
    errors = {name: final_values(result.curves["arms"][name], "error") for name in (STEP, CONSTANT, WARMUP)}
    text = f"{last} layers: test error with a constant rate minus that with drops, at least 0.5 (points)"
    found.append(Claim.of_values(text, "> 0", errors[CONSTANT] - errors[STEP], 0.5))
    part = np.array(result.curves["arms"][WARMUP]["warm_steps"]) / result.settings["steps"]
    text = f"the training error falls below {THRESHOLD:g} % in the first {FIRST_PART:g} of the run"
    found.append(Claim.of_values(text, "0.006, 110 layers", part, 1e-9, FIRST_PART))
    text = "then the training error without warm-up is higher, by above 0 (points)"
    found.append(Claim.of_values(text, "> 10, 110 layers", ahead(result), 1e-9))
    text = "with and without warm-up the test errors end within 1 point of each other"
    found.append(Claim.of_values(text, "0", errors[WARMUP] - errors[STEP], -1.0, 1.0))
    if result.scale == "paper":
        for depth in sorted(set(TABLE) & set(result.settings["depths"])):
            text = f"table 6: test error of {depth} layers, within 0.5 points of {TABLE[depth]:g} %"
            reached = ends(result, RESIDUAL, depth, "error") if depth < last else errors[WARMUP]
            low, high = TABLE[depth] - 0.5, TABLE[depth] + 0.5
            found.append(Claim.of_values(text, f"{TABLE[depth]:g}", reached, low, high, published=True))
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw the errors of plain and residual networks, as figure 6 does, and those of the schedules and the warm-up."""
    figure, (left, right, schedules, start) = panels(2, 2, size=(8.6, 5.4))
    for panel, kind in ((left, PLAIN), (right, RESIDUAL)):
        for place, (depth, arm) in enumerate(result.curves["networks"][kind].items()):
            times = arm["evaluation_steps"]
            look: dict[str, Any] = {"color": PALETTE[place], "ls": "-"}
            figures.band(panel, times, arm["evaluations"]["error"], f"{depth} layers", middle=np.mean, **look)
            training = np.mean(np.asarray(arm["evaluations"]["training_error"], np.float64), axis=0)
            panel.plot(times, training, **look | {"ls": "--", "lw": 1.0})
        describe(panel, f"{kind}; dashed: training error")
    right.legend(loc="lower left")
    arms = result.curves["arms"]
    for place, (name, arm) in enumerate(arms.items()):
        band(schedules, arm["evaluation_steps"], arm["evaluations"]["error"], name, place, middle=np.mean)
        if name != CONSTANT:  # it begins as the step schedule does
            band(start, arm["evaluation_steps"], arm["evaluations"]["training_error"], name, place, middle=np.mean)
    smallest = 50 / Network(*result.settings["network"]).measured  # half of an image
    lowest = min(np.min(line.get_ydata()) for panel in (left, right, schedules) for line in panel.get_lines())
    for panel in (left, right, schedules):
        panel.set_yscale("log", nonpositive="clip")
        panel.set_ylim(max(0.7 * lowest, smallest), 100)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("{x:g}" if lowest > 10 else "")
    depth = f"residual, {max(result.settings['depths'])} layers"
    describe(schedules, depth)
    describe(start, f"{depth}, the first steps")
    start.axhline(THRESHOLD, color="black", lw=0.8, alpha=0.5)
    shown = max(5 * max(arms[WARMUP]["warm_steps"]), 5 * result.settings["every"])
    start.set_xlim(0, min(shown, result.settings["steps"]))
    start.set_ylim(0, 100)
    for panel in (left, right, schedules, start):
        panel.set(xlabel="step", ylabel="training error (%)" if panel is start else "error (%)")
    legend(figure, schedules, columns=4)
    return {"residual": figure}


PAPER = Paper(
    name="he_2016",
    title="Deep Residual Learning for Image Recognition",
    authors="K. He, X. Zhang, S. Ren, J. Sun",
    year=2016,
    source="CVPR 2016, arXiv:1512.03385",
    figure="Figure 6 and table 6 (plain and residual networks of several depths, the warm-up of the deepest)",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
