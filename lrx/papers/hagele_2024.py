"""WSD: keep the rate constant, and end with a short cool-down: one long run gives the results of all shorter ones.

A. Hägele, E. Bakouch, A. Kosson, L. Ben Allal, L. Von Werra, M. Jaggi, "Scaling Laws and Compute-Optimal Training
Beyond Fixed Training Durations", NeurIPS 2024, arXiv:2405.18392, figures 1 to 5. A cosine must know the length of the
run. With a constant rate, whose last fifth falls to 0,

    eta(n) = eta f((n - (N - N_d)) / N_d)   for n > N - N_d,   f(u) = 1 - u or 1 - sqrt(u),

the loss is as low, and runs of other lengths N branch from the same stable run. The loss falls steeply in the
cool-down; most of its gain is there with a tenth to a fifth of the steps, and 1 - sqrt(u) is a little better.

    lrx reproduce hagele_2024                 a perceptron on six characters, 200, 500 and 1,250 steps, 3 seeds
    lrx reproduce hagele_2024 --scale cpu     a block of attention, 250, 1,000 and 4,000 steps, 3 seeds

Measured at the demo scale, a cool-down over a fifth ends 1 % above cosine, and one over two fifths ends where cosine
does: runs this short gain from longer cool-downs. At the cpu scale all claims hold: a fifth ends within 0.8 % of cosine
after 4,000 steps, and ahead of it after 250 and 1,000.

Differs from the source: models and lengths are smaller by orders of magnitude, and the cosine ends at 0, since that is
better than at a tenth (`bergsma_2025`). Each length is trained from the start; runs of a seed share parameters and
minibatches, so until its cool-down a run is the stable run of its peak, bit for bit, as a branch would be.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import claim_best_rates_inside_grid, compare_schedules, final_values
from lrx.papers.bergsma_2025 import B2, MODELS, WARMUP, WEIGHT_DECAY
from lrx.papers.figures import arm_style, band, describe, mark
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result


class Size(NamedTuple):
    """The model of text, the lengths of the runs and the peaks."""

    model: str  # in `lrx.papers.bergsma_2025.MODELS`
    steps: tuple[int, ...]
    rates: tuple[float, ...]
    every: int  # steps between evaluations; divides all lengths


SCALES = {
    "demo": Scale(
        "characters from the six before, a perceptron, 200 to 1,250 steps, 3 seeds",
        "a minute, 2 CPU cores",
        Size("n-gram", (200, 500, 1250), (0.005, 0.01, 0.02, 0.04, 0.08, 0.16), 50),
    ),
    "cpu": Scale(
        "a block of attention of width 32, 250 to 4,000 steps, 3 seeds",
        "half an hour, 1 CPU core",
        Size("attention", (250, 1000, 4000), (0.002, 0.004, 0.008, 0.016, 0.032, 0.064), 125),
    ),
    "paper": Scale(
        "a transformer of width 128, 1,000 to 16,000 steps, 3 seeds",
        "hours on one GPU",
        Size("transformer", (1000, 4000, 16_000), (0.0005, 0.001, 0.002, 0.004, 0.008), 500),
    ),
}
PART = 0.2  # of the run, that the cool-down takes
PARTS = (0.05, 0.1, 0.2, 0.4)  # that are compared at the longest run
COSINE, STABLE, LINEAR, SQRT = "cosine", "constant", "WSD, linear", "WSD, 1 - sqrt"


def schedule(kind: str, steps: int, warmup: int, part: float = PART) -> lrx.Schedule:
    """Return a schedule of a run whose peak is 1: `warmup` steps, which all lengths share, and then a shape.

    Args:
      kind: COSINE, STABLE, LINEAR or SQRT.
      steps: length of the run.
      warmup: steps of the warm-up.
      part: of the run, that the cool-down takes.
    """
    if kind == COSINE:
        return lrx.warmup(lrx.cosine_decay(1.0, steps - warmup), warmup)
    if kind == STABLE:
        return lrx.warmup(lrx.constant(1.0), warmup)
    cooldown = round(part * steps)
    return lrx.warmup_stable_decay(
        1.0,
        warmup_steps=warmup,
        stable_steps=steps - warmup - cooldown,
        decay_steps=cooldown,
        decay="linear" if kind == LINEAR else "sqrt",
    )


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with every schedule, peak and seed at every length, and with several cool-downs at the longest."""
    workload = MODELS[size.model]()
    warmup, longest = round(WARMUP * size.steps[0]), size.steps[-1]

    def run(schedules: dict[str, lrx.Schedule], steps: int, rates: tuple[float, ...], job: Job, name: str) -> Any:
        return compare_schedules(
            workload,
            schedules,
            lambda rate: lrx.adamw(rate, b2=B2, weight_decay=WEIGHT_DECAY),
            rates,
            job,
            num_steps=steps,
            metric="loss",
            evaluate_every=size.every,
            name=name,
            strategy="auto" if size.model == "transformer" else "vmap",
        )

    lengths = {}
    for steps in size.steps:
        schedules = {kind: schedule(kind, steps, warmup) for kind in (COSINE, STABLE, LINEAR, SQRT)}
        lengths[str(steps)] = {"arms": run(schedules, steps, size.rates, job, f"{steps} steps")}
    # The branches of one run: the peak that is best for the longest of them.
    best = lengths[str(longest)]["arms"][SQRT]
    peak = best["rates"][best["best"]]
    alone = dataclasses.replace(job, arms={})
    cooldowns = {}
    for kind in (LINEAR, SQRT):
        schedules = {f"{part:g}": schedule(kind, longest, warmup, part) for part in PARTS}
        cooldowns[kind] = run(schedules, longest, (peak,), alone, f"cool-downs, {kind}")
    return size._asdict() | {"warmup": warmup}, {"lengths": lengths, "cooldowns": cooldowns, "peak": peak}


def ends(result: Result, kind: str, steps: str) -> np.ndarray:
    """Return the held-out losses at the end of runs of a length, (seeds,), at their best peak."""
    return final_values(result.curves["lengths"][steps]["arms"][kind], "loss")


def above(result: Result, kind: str, other: str, steps: str) -> np.ndarray:
    """Return by how many percent the losses at the end are above those of another schedule."""
    return 100 * (ends(result, kind, steps) / ends(result, other, steps) - 1)


def at_peak(result: Result, kind: str, steps: str) -> np.ndarray:
    """Return the losses at the end of a schedule with the peak of the branches, (seeds,)."""
    arm = result.curves["lengths"][steps]["arms"][kind]
    return np.asarray(arm["final_loss"][arm["rates"].index(result.curves["peak"])], np.float64)


def cooled(result: Result, kind: str, part: float) -> np.ndarray:
    """Return the losses after a cool-down over a part of the longest run, (seeds,)."""
    return final_values(result.curves["cooldowns"][kind][f"{part:g}"], "loss")


def claims(result: Result) -> list[Claim]:
    """Compare the cool-downs with cosines of each length, with each other and with the constant rate."""
    *_, longest = lengths = result.curves["lengths"]
    found = []
    for steps in lengths:
        text = f"{int(steps):,} steps: loss of a linear cool-down over a fifth above that of cosine, at most 1 (%)"
        found.append(Claim.of_values(text, "0", above(result, LINEAR, COSINE, steps), high=1.0))
    text = f"{int(longest):,} steps: loss of 1 - sqrt above that of the linear cool-down, at most 0 (%)"
    found.append(Claim.of_values(text, "< 0", above(result, SQRT, LINEAR, longest), high=0.0))
    branched = np.stack([100 * (at_peak(result, SQRT, steps) / ends(result, COSINE, steps) - 1) for steps in lengths])
    text = "branches of one run, with the same peak, above cosines of each length at their own best, at most 1 (%)"
    found.append(Claim.of_values(text, "0", branched.mean(axis=0), high=1.0))
    constant, whole = at_peak(result, STABLE, longest), cooled(result, SQRT, PART)
    text = "a cool-down over a twentieth reaches at least half of what one over a fifth gains on the constant rate"
    short = (constant - cooled(result, SQRT, 0.05)) / (constant - whole)
    found.append(Claim.of_values(text, "nearly all", short, 0.5))
    text = "twice a fifth changes the loss by less than 0.5 (%)"
    change = 100 * (cooled(result, SQRT, 0.4) / whole - 1)
    found.append(Claim.of_values(text, "0", change, -0.5, 0.5))
    return [*found, claim_best_rates_inside_grid({f"{n} {kind}": arm for n, kind, arm in grids(result)})]


def grids(result: Result) -> list[tuple[str, str, Any]]:
    """Return length, schedule and arm of everything that was tried with all peaks."""
    lengths = result.curves["lengths"]
    return [
        (steps, kind, each["arms"][kind]) for steps, each in lengths.items() for kind in (COSINE, STABLE, LINEAR, SQRT)
    ]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the stable run with its branches and the cosines, the losses over length, and those over the cool-down."""
    figure, (left, middle, right) = panels(3, size=(12, 4.2))
    lengths = result.curves["lengths"]
    *_, longest = lengths
    for place, kind in enumerate((COSINE, SQRT), start=1):
        for steps in lengths:
            arm = lengths[steps]["arms"][kind]
            losses = np.asarray(arm["evaluations"]["loss"], np.float64).mean(axis=0)
            left.plot(arm["evaluation_steps"], losses, lw=1.4, **arm_style(kind, place))
            left.plot(arm["evaluation_steps"][-1], losses[-1], "o", ms=4, color=arm_style(kind, place)["color"])
    last = [ends(result, kind, steps).mean() for steps in lengths for kind in (COSINE, SQRT)]
    left.set_ylim(0.98 * min(last), 1.15 * max(last))
    describe(left, "each at its best peak, mean of the seeds")
    left.set(xlabel="step", ylabel="loss on held-out text, nats a character")
    arms = list(dict.fromkeys(kind for each in lengths.values() for kind in each["arms"]))
    for place, kind in enumerate([STABLE, COSINE, LINEAR, SQRT, *arms[4:]]):
        found = [ends(result, kind, steps) for steps in lengths]
        band(middle, [int(steps) for steps in lengths], np.stack(found, axis=1), kind, place, marker="o", ms=3)
    middle.set_xscale("log")
    mark(middle, [int(steps) for steps in lengths])
    describe(middle, "losses at the end", xlabel="steps of the run")
    for place, kind in enumerate((LINEAR, SQRT)):
        found = [cooled(result, kind, part) for part in PARTS]
        band(right, [100 * part for part in PARTS], np.stack(found, axis=1), kind, place + 2, marker="o", ms=3)
    right.axhline(ends(result, COSINE, longest).mean(), lw=1.4, **arm_style(COSINE, 1))
    describe(right, f"{int(longest):,} steps", xlabel="cool-down, % of the run")
    legend(figure, middle, columns=6)
    return {"branches": figure}


PAPER = Paper(
    name="hagele_2024",
    title="Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
    authors="A. Hägele, E. Bakouch, A. Kosson, L. Ben Allal, L. Von Werra, M. Jaggi",
    year=2024,
    source="NeurIPS 2024, arXiv:2405.18392",
    figure="Figures 1 to 5 (cool-downs of one stable run, against cosines of each length), on small models of text",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("lengths", "*", "arms"),),
)
