"""Schedule-Free: average the iterates in place of a schedule, and be as good at every length as one tuned for it.

A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled, A. Cutkosky, "The Road Less Scheduled", NeurIPS 2024,
arXiv:2405.15682, figures 1, 5 and 11. The rate gamma stays constant; gradients are taken at y and the result is x,

    y_t = (1 - beta) z_t + beta x_t,   z_{t+1} = z_t - gamma grad f(y_t),   x_{t+1} = (1 - c) x_t + c z_{t+1},

with c = 1 / (t + 1). Beta = 0 is Polyak averaging, which evaluates gradients at the newest iterate, and beta = 1 primal
averaging, at the average; 0.9 is better than both.

    lrx reproduce defazio_2024                 a perceptron on six characters, 100, 200 and 400 steps, 3 seeds
    lrx reproduce defazio_2024 --scale cpu     a block of attention, 250, 1,000 and 4,000 steps, 3 seeds

Published test accuracies (CIFAR-10, WRN-16-8, 300 epochs, 10 seeds): Schedule-Free 96.03, cosine 95.73, steps 95.59;
Polyak averaging 95.56, primal averaging 92.09.

Measured at the demo scale, one run of Schedule-Free ends within 2 % of the schedules that are tuned for each length,
and better than a constant rate and than both other averages; below the schedules, as published, it is not. At the cpu
scale it ends 0.7 % above them after 4,000 steps and 2 and 5 % below them after 1,000 and 250, at twice their best peak;
with a grid that ended at half of that rate, it seemed to be 3 % above them. The best rate of Polyak averaging is by far
the lowest, so its grid begins lower.

Differs from the source: models and lengths are smaller by orders of magnitude. One run of Schedule-Free at one rate,
the best one for its last step, is compared with a run of each length at the best peak for that length.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers import hagele_2024
from lrx.papers.arms import Arm, claim_best_rates_inside_grid, compare, compare_schedules, final_values, with_own
from lrx.papers.bergsma_2025 import B2, MODELS, WARMUP, WEIGHT_DECAY
from lrx.papers.figures import arm_style, band, describe, mark, sensitivity
from lrx.papers.hagele_2024 import Size
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result

SCALES = {
    "demo": Scale(
        "characters from the six before, a perceptron, 100 to 400 steps, 3 seeds",
        "a minute, 2 CPU cores",
        Size("n-gram", (100, 200, 400), (0.01, 0.02, 0.04, 0.08, 0.16), 50),
    ),
    **{scale: hagele_2024.SCALES[scale] for scale in ("cpu", "paper")},
}
FREE, POLYAK, PRIMAL, CONSTANT = "Schedule-Free", "Polyak averaging", "primal averaging", "constant"
BETAS = {FREE: 0.9, POLYAK: 1e-6, PRIMAL: 1.0}  # 0 itself is no average of y
LOWER = {POLYAK: 5}  # arms whose grids begin lower than that of the schedules, by how many halvings
LINEAR, COSINE = "linear", "cosine"
WITHIN = 1.0  # percent of the loss of the schedule that is tuned for a length


def optimizer(label: str, warmup: int, rate: Any) -> optax.GradientTransformation:
    """Return an arm without a decay of the rate, which warms up."""
    warmed = lrx.warmup(lrx.constant(rate), warmup)
    if label == CONSTANT:
        return lrx.adamw(warmed, b2=B2, weight_decay=WEIGHT_DECAY)
    return lrx.schedule_free_adamw(warmed, b1=BETAS[label], b2=B2, weight_decay=WEIGHT_DECAY)


def _with_lower(rates: tuple[float, ...], halvings: int) -> tuple[float, ...]:
    """Return rates behind the lower ones that halving the first one gives."""
    return tuple(rates[0] / 2**number for number in range(halvings, 0, -1)) + rates


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with both schedules at every length, and once with every arm that needs no length."""
    workload = MODELS[size.model]()
    warmup, longest = round(WARMUP * size.steps[0]), size.steps[-1]
    strategy = "auto" if size.model == "transformer" else "vmap"
    scheduled = {}
    for steps in size.steps:
        shapes = {LINEAR: lrx.linear_decay(1.0, steps - warmup), COSINE: lrx.cosine_decay(1.0, steps - warmup)}
        scheduled[str(steps)] = compare_schedules(
            workload,
            {label: lrx.warmup(shape, warmup) for label, shape in shapes.items()},
            lambda rate: lrx.adamw(rate, b2=B2, weight_decay=WEIGHT_DECAY),
            size.rates,
            dataclasses.replace(job, arms={}),
            num_steps=steps,
            metric="loss",
            evaluate_every=size.every,
            name=f"{steps} steps",
            strategy=strategy,
        )
    made = {
        label: Arm(partial(optimizer, label, warmup), _with_lower(size.rates, LOWER.get(label, 0)))
        for label in (*BETAS, CONSTANT)
    }
    arms = compare(
        workload,
        with_own(made, job),
        job,
        num_steps=longest,
        evaluate_every=size.every,
        metric="loss",
        name="without schedules",
        strategy=strategy,
    )
    return size._asdict() | {"warmup": warmup}, {"scheduled": scheduled, "arms": arms}


def losses_at(result: Result, label: str, steps: str) -> np.ndarray:
    """Return the held-out losses of an arm without schedule after a number of steps, (seeds,)."""
    arm = result.curves["arms"][label]
    return np.asarray(arm["evaluations"]["loss"], np.float64)[:, list(arm["evaluation_steps"]).index(int(steps))]


def above(result: Result, label: str, steps: str) -> np.ndarray:
    """Return by how many percent the loss of an arm is above that of the better schedule of this length, (seeds,)."""
    arms = result.curves["scheduled"][steps]
    best = min((final_values(arms[shape], "loss") for shape in (LINEAR, COSINE)), key=np.mean)
    return 100 * (losses_at(result, label, steps) / best - 1)


def claims(result: Result) -> list[Claim]:
    """Compare one run of Schedule-Free with schedules of each length, and with its variants."""
    *_, longest = lengths = list(result.curves["scheduled"])
    found = []
    for steps in lengths:
        text = f"{int(steps):,} steps: loss of Schedule-Free above that of the better schedule, at most {WITHIN:g} (%)"
        expected = "below 0" if steps == longest else "near 0"
        found.append(Claim.of_values(text, expected, above(result, FREE, steps), high=WITHIN))
    ours = losses_at(result, FREE, longest)
    for other in (CONSTANT, POLYAK, PRIMAL):
        text = (
            f"{int(longest):,} steps: loss of Schedule-Free above that of {other}, each at its best rate, below 0 (%)"
        )
        found.append(Claim.of_values(text, "< 0", 100 * (ours / losses_at(result, other, longest) - 1), high=-1e-9))
    arms = {f"{n} {label}": arm for n, each in result.curves["scheduled"].items() for label, arm in each.items()}
    own = {label: result.curves["arms"][label] for label in (*BETAS, CONSTANT)}
    return [*found, claim_best_rates_inside_grid(arms | own)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the losses of one run without schedule and of the runs of each length, and the losses over rates."""
    figure, (left, right) = panels(2, size=(10.5, 4.4), width_ratios=(3, 2))
    lowest = np.inf
    for place, (label, arm) in enumerate(result.curves["arms"].items()):
        band(left, arm["evaluation_steps"], arm["evaluations"]["loss"], label, place, middle=np.mean)
        lowest = min(lowest, np.min(np.asarray(arm["evaluations"]["loss"], np.float64)))
    for steps, each in result.curves["scheduled"].items():
        for place, (label, arm) in enumerate(each.items()):
            curve = np.asarray(arm["evaluations"]["loss"], np.float64).mean(axis=0)
            look = arm_style(label, place)
            left.plot(arm["evaluation_steps"], curve, lw=1.1, label=f"{label}, for each length", **look)
            left.plot(int(steps), curve[-1], "o", ms=4, color=look["color"])
    first = next(iter(result.curves["scheduled"].values()))[LINEAR]
    left.set_ylim(0.97 * lowest, highest := 1.12 * final_values(first, "loss").mean())
    above_all = [label for label, arm in result.curves["arms"].items() if final_values(arm, "loss").min() > highest]
    if above_all:
        describe(left, f"{', '.join(above_all)}: above the panel")
    left.set(xlabel="step", ylabel="loss on held-out text, nats a character")
    *_, longest = result.curves["scheduled"]
    sensitivity(right, {**result.curves["arms"], **result.curves["scheduled"][longest]})
    rates = result.settings["rates"]
    right.set(xlim=(0.8 * rates[0], 1.25 * rates[-1]), ylim=(0.97 * lowest, 1.4 * lowest))
    mark(right, rates, "g")
    describe(right, f"after {int(longest):,} steps")
    legend(figure, left, columns=3)
    return {"schedule_free": figure}


PAPER = Paper(
    name="defazio_2024",
    title="The Road Less Scheduled",
    authors="A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled, A. Cutkosky",
    year=2024,
    source="NeurIPS 2024, arXiv:2405.15682",
    figure="Figures 1 and 11 (one run without a schedule against schedules of each length), on small models of text",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
