"""A rate from the loss curve alone: whatever rate a run starts with, it ends with much the same accuracy.

S. Biswas et al., "Learning Rate Tuner with Relative Adaptation (LRT-RA): Road to Sustainable Computing", AppliedMath
5(1), 8, 2025: the rate of each iteration follows from the relative change of the global loss curve, and needs no
initial value; 84.96 % on CIFAR-10. The formula was not available to us. What is trained here is a rule of ours with the
same idea, `lrx.relative_adaptation`, so nothing below is a verdict on LRT-RA itself: only its claim, that the rate at
the start does not matter, is checked.

Measured at the demo scale, the search from low rates ends as soon as the loss has fallen by a tenth, near 0.02, or
lower with one seed of three, where the best constant rate is 1, the highest that was tried; 600 steps are too few to
creep up from there. At the cpu scale rates from all starts end at 1.6 to 3.5, above the best constant rate, 1, the
highest that was tried, and errors are 4 to 12 points above its error.

    lrx reproduce biswas_2025                 digits, a perceptron, 600 steps, starting rates 1e-6 to 1, 3 seeds
    lrx reproduce biswas_2025 --scale cpu     CIFAR-10 of 8 x 8 pixels, two convolutions, 3,000 steps, 3 seeds
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import lrx
from lrx.figures import PALETTE, Figure, legend, panels
from lrx.papers.arms import Arm, final_values, summarize_arm, with_own
from lrx.papers.figures import arm_style, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import sweep_seeds
from lrx.papers.small_images import Images, load_problem, replace_divergence, workload_of
from lrx.records import Result, round_to_six_digits


class Size(NamedTuple):
    """Data and network, length and starting rates."""

    images: Images
    steps: int
    rates: tuple[float, ...]
    batch_size: int = 64


STARTS = tuple(10.0**power for power in range(-6, 1))
SCALES = {
    "demo": Scale(
        "a perceptron of 64 units, 600 steps, 7 starting rates, 3 seeds",
        "half a minute, 2 CPU cores",
        Size(Images("perceptron", 1437, 360, 1, (64,)), 600, STARTS),
        "digits",
    ),
    "cpu": Scale(
        "two convolutions, 20,000 images, 3,000 steps, 7 starting rates, 3 seeds",
        "5 minutes, 1 CPU core",
        Size(Images("convolutions", 20_000, 5000, 4, (16, 32)), 3000, STARTS),
        "cifar10",
    ),
    "paper": Scale(
        "two wide convolutions, 20,000 steps, 7 starting rates, 3 seeds",
        "an hour on one GPU",
        Size(Images("convolutions", 50_000, 10_000, 1, (64, 128)), 20_000, STARTS, 128),
        "cifar10",
    ),
}
ADAPTED, CONSTANT = "relative adaptation", "constant"
METHODS = {
    ADAPTED: lambda rate: lrx.sgd(lrx.constant(rate) * lrx.relative_adaptation()),
    CONSTANT: lrx.sgd,
}
POINTS = 2.0  # of test error, within which a start does not matter


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with both methods from every starting rate and with every seed."""
    workload = workload_of(load_problem(size.images, job), f"{job.data}, {size.images.network}", size.batch_size)
    arms: dict[str, Any] = {}
    for name, arm in with_own({name: Arm(make, size.rates) for name, make in METHODS.items()}, job).items():
        swept = sweep_seeds(
            workload,
            lambda lr, arm=arm: arm.make(lr),
            {"lr": arm.rates},
            job,
            name,
            num_steps=size.steps,
            num_points=60,
            strategy=size.images.strategy,
        )
        arms[name] = summarize_arm(swept, metric="error")
        error = replace_divergence(swept.evaluations["error"])
        arms[name] |= {"error": round_to_six_digits(error), "applied": round_to_six_digits(swept.rates.mean(axis=1))}
    return size._asdict(), {"arms": arms}


def spread(result: Result, name: str) -> np.ndarray:
    """Return how far the test errors from different starting rates are apart, in points, for each seed."""
    return np.ptp(result.array("arms", name, "error"), axis=0)


def claims(result: Result) -> list[Claim]:
    """Check that the start does not matter with adaptation, that it does without, and what that costs."""
    text = f"test errors from all starting rates differ by at most {POINTS:g} points"
    found = [Claim.of_values(text, "0", spread(result, ADAPTED), high=POINTS)]
    text = "at a constant rate they differ by more than 20 points, so that there is something to adapt"
    found.append(Claim.of_values(text, "> 20", spread(result, CONSTANT), 20.0))
    best = final_values(result.curves["arms"][CONSTANT], "error")
    worst = result.array("arms", ADAPTED, "error").max(axis=0)
    text = f"the worst start with adaptation minus the best constant rate, at most {POINTS:g} points"
    found.append(Claim.of_values(text, "0", worst - best, high=POINTS))
    last = result.array("arms", ADAPTED, "applied")[:, -1]
    text = "rates applied at the end, from all starts: the highest over the lowest, at most 10"
    return [*found, Claim.of_values(text, "near 1", last.max() / last.min(), high=10.0)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the rates over steps from every start, and the test errors over the starting rate."""
    figure, (left, right) = panels(2)
    arm = result.curves["arms"][ADAPTED]
    for place, (start, rates) in enumerate(zip(arm["rates"], arm["applied"], strict=True)):
        left.plot(arm["steps"], rates, color=PALETTE[place % len(PALETTE)], lw=1.4)
        left.plot(arm["steps"][0], start, "o", ms=4, color=PALETTE[place % len(PALETTE)])
    describe(left, ADAPTED, yscale="log")
    left.set(xlabel="step; dots: starting rates", ylabel="learning rate, mean of the seeds")
    for place, (name, arm) in enumerate(result.curves["arms"].items()):
        errors = np.asarray(arm["error"], np.float64)
        if len(arm["rates"]) > 1:
            band(right, arm["rates"], errors.T, name, place, middle=np.mean, marker="o", ms=3)
        else:
            right.axhline(errors.mean(), label=name, lw=1.6, **arm_style(name, place))
    right.set_xscale("log")
    right.set_ylim(0, 100)
    right.set(xlabel="starting rate", ylabel="test error (%), mean and range of seeds")
    legend(figure, right, columns=4)
    return {"starts": figure}


PAPER = Paper(
    name="biswas_2025",
    title="Learning Rate Tuner with Relative Adaptation (LRT-RA): Road to Sustainable Computing",
    authors="S. Biswas et al.",
    year=2025,
    source="AppliedMath 5(1), 8, doi 10.3390/appliedmath5010008",
    figure="independence of the starting rate, with a rule of ours in place of LRT-RA",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
