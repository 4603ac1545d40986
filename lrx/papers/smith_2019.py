"""Super-convergence: one cycle to a very high rate and back reaches in few steps what a step schedule needs many for.

L. N. Smith, N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2019,
arXiv:1708.07120, figures 1 and 5. One cycle climbs to a peak of up to 3 and falls far below its start. With it
10,000 steps are better than 80,000 of the usual drops by 10, and the fewer the training images the greater its lead.

    lrx reproduce smith_2019                 MNIST of 7 x 7 pixels, a perceptron, 150 and 600 steps, 3 seeds
    lrx reproduce smith_2019 --scale cpu     CIFAR-10 of 8 x 8 pixels, two convolutions, 800 and 3,200 steps, 3 seeds

Published test accuracies (CIFAR-10, the authors' logs): ResNet-56 92.44 % with one cycle of 10,000 steps, 90.32 with
80,000 of the step schedule; with 10,000 training images 80.59 and 71.20, with 40,000 91.10 and 90.43.

Measured at the demo scale there is no super-convergence: at the same length one cycle is ahead by less than the spread
of the seeds, and so is its greater lead on few images; four times the steps, of either schedule, are 4 points better.
At the cpu scale one cycle is 2 points ahead at the same length, with 3 times the rate. A step schedule with four times
the steps is still 4 points better, and the lead is no greater on few images, where four times the steps gain 1.6
points with the step schedule and nothing with one cycle; the best rate of these longer runs is the lowest of the grid.

Differs from the source: small networks without batch norm, four times the steps in place of eight; both schedules have
the best of the same grid of rates, where the paper gives the step schedule 0.35; its drops come after 1/2 and 3/4 of
the run, in the authors' files after 5/8 and 7/8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import (
    claim_best_rates_inside_grid,
    compare_schedules,
    decades,
    final_values,
    momentum_with_penalty,
)
from lrx.papers.figures import arm_style, band, describe, sensitivity
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.small_images import Images, load_problem, workload_of
from lrx.records import Result


class Size(NamedTuple):
    """Data and network, the steps of a short run, and the rates."""

    images: Images  # their number is that of the largest training set
    fewer: int  # images of the smaller training set
    steps: int
    rates: tuple[float, ...]
    batch_size: int


SCALES = {
    "demo": Scale(
        "a perceptron of 64 units, 150 and 600 steps, 5 rates, 3 seeds",
        "half a minute, 2 CPU cores",
        Size(Images("perceptron", 4000, 2000, 4, (64,)), 500, 150, decades(-2, 0, 2), 64),
        "mnist",
    ),
    "cpu": Scale(
        "two convolutions, 800 and 3,200 steps, 5 rates, 3 seeds",
        "25 minutes, 1 CPU core",
        Size(Images("convolutions", 20_000, 5000, 4, (16, 32)), 4000, 800, decades(-1.5, 0.5, 2), 128),
        "cifar10",
    ),
    "paper": Scale(
        "two wide convolutions, 5,000 and 20,000 steps, 9 rates, 3 seeds",
        "hours on one GPU",
        Size(Images("convolutions", 50_000, 10_000, 1, (64, 128)), 10_000, 5000, decades(-1.5, 0.5, 4), 500),
        "cifar10",
    ),
}
WEIGHT_DECAY = 1e-4
LONGER = 4
DROPS = (0.5, 0.75)  # of the run, where the step schedule is divided by 10
CYCLE, STEP = "1cycle", "step"
LEAD = 0.5  # points of test error


def schedules(steps: int) -> dict[str, lrx.Schedule]:
    """Return both schedules of a run, whose peak is 1."""
    drops = {round(part * steps): 0.1 for part in DROPS}
    return {CYCLE: lrx.one_cycle(1.0, steps), STEP: lrx.piecewise_constant(1.0, drops)}


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with both schedules, both lengths, every rate and seed, on few images and on all."""
    sets: dict[str, Any] = {}
    for number in (size.fewer, size.images.number):
        problem = load_problem(size.images._replace(number=number), job)
        workload = workload_of(problem, f"{job.data}, {number:,} images", size.batch_size)
        sets[str(number)] = {}
        for steps in (size.steps, LONGER * size.steps):
            arms = compare_schedules(
                workload,
                schedules(steps),
                lambda rate: momentum_with_penalty(rate, WEIGHT_DECAY),
                size.rates,
                job,
                num_steps=steps,
                metric="error",
                evaluate_every=max(1, size.steps // 15),
                name=f"{workload.name}, {steps} steps",
                strategy=size.images.strategy,
            )
            sets[str(number)][str(steps)] = {"arms": arms}
    return size._asdict(), {"sets": sets}


def ends(result: Result, number: str, steps: str, name: str) -> np.ndarray:
    """Return the test errors at the end at the best rate, in percent, (seeds,)."""
    return final_values(result.curves["sets"][number][steps]["arms"][name], "error")


def lead(result: Result, number: str) -> np.ndarray:
    """Return by how many points the step schedule is worse than one cycle in the shorter run, (seeds,)."""
    short = next(iter(result.curves["sets"][number]))
    return ends(result, number, short, STEP) - ends(result, number, short, CYCLE)


def claims(result: Result) -> list[Claim]:
    """Compare one cycle with the step schedule at the same and at four times the length, and on few images."""
    few, most = result.curves["sets"]
    short, long = result.curves["sets"][most]
    text = f"{int(short):,} steps: error of the step schedule minus that of one cycle, at least {LEAD:g} points"
    found = [Claim.of_values(text, "> 0", lead(result, most), LEAD)]
    text = (
        f"one cycle of {int(short):,} steps minus the step schedule of {int(long):,}, at most {LEAD:g} points of error"
    )
    apart = ends(result, most, short, CYCLE) - ends(result, most, long, STEP)
    found.append(Claim.of_values(text, "-2.1, ResNet-56", apart, high=LEAD))
    text = f"the lead on {int(few):,} images minus that on {int(most):,}, above 0 (points)"
    found.append(Claim.of_values(text, "8.7, ResNet-56", lead(result, few) - lead(result, most), 1e-9))
    arms = result.curves["sets"][most][short]["arms"]
    peaks = [arms[name]["rates"][arms[name]["best"]] for name in (CYCLE, STEP)]
    text = "the best peak of one cycle is at least 3 times the best rate of the step schedule"
    found.append(Claim.of_values(text, "8.6 (3 and 0.35)", peaks[0] / peaks[1], 3.0))
    grids = {
        f"{number} {steps} {name}": each["arms"][name]
        for number, lengths in result.curves["sets"].items()
        for steps, each in lengths.items()
        for name in (CYCLE, STEP)
    }
    return [*found, claim_best_rates_inside_grid(grids)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the test errors over steps on all images, over the rate, and at the end of every run."""
    figure, (left, middle, right) = panels(3, size=(13, 4.4))
    few, most = result.curves["sets"]
    short, long = result.curves["sets"][most]
    for steps, options in ((short, {}), (long, {"alpha": 0.55})):
        for place, (name, arm) in enumerate(result.curves["sets"][most][steps]["arms"].items()):
            errors = arm["evaluations"]["error"]
            band(left, arm["evaluation_steps"], errors, name, place, middle=np.mean, **options)
    last = [ends(result, most, steps, name).mean() for steps in (short, long) for name in (CYCLE, STEP)]
    left.set_ylim(0.8 * min(last), min(3 * max(last), left.get_ylim()[1]))
    describe(left, f"{int(most):,} images, best rates; pale: the longer runs", xlabel="step", ylabel="test error (%)")
    sensitivity(middle, result.curves["sets"][most][short]["arms"], highest=4.0)
    describe(middle, f"{int(short):,} steps", xlabel="peak of the learning rate", ylabel="test error at the end (%)")
    for place, name in enumerate((CYCLE, STEP)):
        for row, (number, steps) in enumerate((n, s) for n in (few, most) for s in (short, long)):
            errors = ends(result, number, steps, name)
            color = arm_style(name, place)["color"]
            right.plot(
                errors, np.full(len(errors), row + 0.16 * (place - 0.5)), "o", color=color, ms=5, alpha=0.7, mew=0
            )
    labels = [f"{int(n):,} images,\n{int(s):,} steps" for n in (few, most) for s in (short, long)]
    right.set_yticks(range(4), labels)
    right.invert_yaxis()
    right.set_xlabel("test error at the end (%), a dot a seed")
    legend(figure, left, columns=4)
    return {"super_convergence": figure}


PAPER = Paper(
    name="smith_2019",
    title="Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    authors="L. N. Smith, N. Topin",
    year=2019,
    source="arXiv:1708.07120",
    figure="Figures 1 and 5 (one cycle against a step schedule, on many images and on few), on small networks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("sets", "*", "*", "arms"),),
)
