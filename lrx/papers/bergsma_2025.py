"""Straight to zero: with AdamW, linear decay to 0 beats cosine decay to a tenth, and the more the longer the run.

S. Bergsma, N. Dey, G. Gosal, G. Gray, D. Soboleva, J. Hestness, "Straight to Zero: Why Linearly Decaying the Learning
Rate to Zero Works Best for LLMs", ICLR 2025, arXiv:2502.15938. Each schedule is compared at its own best peak, over
runs of different lengths. The last weights of AdamW are a sum of its updates u_i, in units of 1 / lambda,

    theta_T = sum_i c_{T,i} u_i,   c_{T,i} = eta_i lambda prod_{j = i+1..T} (1 - eta_j lambda),

and a rate that ends at 0 gives the last updates little weight, so that it averages over more of them.

    lrx reproduce bergsma_2025                 a perceptron on six characters, 200, 800 and 3,200 steps, 3 seeds
    lrx reproduce bergsma_2025 --scale cpu     a block of attention, 250, 1,000 and 4,000 steps, 3 seeds

Measured at the cpu scale, all claims hold: the schedules that end at 10 % are 1.4 and 1.6 % above linear decay to 0
after 4,000 steps, and no worse than it after 250. Linear and cosine decay to 0 differ by less than the seeds do.
At the demo scale cosine to 10 % is better at all lengths, by 1.1 % after 200 steps and 0.1 % after 3,200.

Differs from the source: models and lengths are smaller by orders of magnitude. In published logs of a model of 124M
parameters (F. Schaipp et al., 2025, arXiv:2501.18965; peak 1e-3) cosine decay to 10 % ends 0.0067 nats above cosine
decay to 0 after 25,000 steps, and 0.0184 after 50,000.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import claim_best_rates_inside_grid, compare_schedules, decades, final_values
from lrx.papers.figures import arm_style, band, describe, mark
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload
from lrx.workloads.text import make_text_workload
from lrx.workloads.words import make_ngram_workload, make_sequence_workload


class Size(NamedTuple):
    """The model of text, the lengths of the runs and the peaks."""

    model: str  # in MODELS
    steps: tuple[int, ...]
    rates: tuple[float, ...]


MODELS: dict[str, Callable[[], Workload]] = {
    "n-gram": make_ngram_workload,
    "attention": partial(make_sequence_workload, length=32, width=32, batch_size=16),
    "transformer": partial(make_text_workload, length=64, width=128, num_layers=4, num_heads=4, batch_size=64),
}
SCALES = {
    "demo": Scale(
        "characters from the six before, a perceptron, 200 to 3,200 steps, 3 seeds",
        "half a minute, 2 CPU cores",
        Size("n-gram", (200, 800, 3200), decades(-2.5, -0.5, 2)),
    ),
    "cpu": Scale(
        "a block of attention of width 32, 250 to 4,000 steps, 3 seeds",
        "25 minutes, 1 CPU core",
        Size("attention", (250, 1000, 4000), decades(-3, -1, 2)),
    ),
    "paper": Scale(
        "a transformer of width 128, 1,000 to 16,000 steps, 3 seeds",
        "hours on one GPU",
        Size("transformer", (1000, 4000, 16_000), decades(-3.5, -1.5, 3)),
    ),
}
WARMUP = 0.1  # of the run
WEIGHT_DECAY = 0.1
B2 = 0.95
Shape = Callable[[Any, int], lrx.Schedule]
SHAPES: dict[str, Shape] = {
    "linear to 0": lambda peak, steps: lrx.linear_decay(peak, steps),
    "linear to 10 %": lambda peak, steps: lrx.linear_decay(peak, steps, end_value=0.1 * peak),
    "cosine to 0": lambda peak, steps: lrx.cosine_decay(peak, steps),
    "cosine to 10 %": lambda peak, steps: lrx.cosine_decay(peak, steps, end_value=0.1 * peak),
}
STRAIGHT, USUAL = "linear to 0", "cosine to 10 %"
DRAWN = 200  # points of the weights of updates


def schedule(shape: str, peak: Any, steps: int) -> lrx.Schedule:
    """Return a schedule of a run: a linear warm-up over its first tenth, and then the shape."""
    warmup = round(WARMUP * steps)
    return lrx.warmup(SHAPES[shape](peak, steps - warmup), warmup)


def update_weights(rates: np.ndarray, weight_decay: float) -> np.ndarray:
    """Return c_{T,i} for every i: how much each update counts in AdamW's last weights, (steps,)."""
    shrink = np.asarray(rates, np.float64) * weight_decay
    kept = np.concatenate([np.cumprod((1 - shrink)[::-1])[::-1][1:], [1.0]])  # by all later steps
    return shrink * kept


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with every schedule, peak and seed, at every length."""
    workload = MODELS[size.model]()
    lengths: dict[str, Any] = {}
    strategy = "auto" if size.model == "transformer" else "vmap"
    for steps in size.steps:
        arms = compare_schedules(
            workload,
            {shape: schedule(shape, 1.0, steps) for shape in SHAPES},
            lambda rate: lrx.adamw(rate, b2=B2, weight_decay=WEIGHT_DECAY),
            size.rates,
            job,
            num_steps=steps,
            metric="loss",
            name=f"{steps} steps",
            strategy=strategy,
        )
        lengths[str(steps)] = {"arms": arms}
    longest = size.steps[-1]
    places = np.unique(np.linspace(0, longest - 1, DRAWN).astype(int))
    weights = {}
    for shape in (STRAIGHT, USUAL):
        arm = lengths[str(longest)]["arms"][shape]
        rates = np.asarray(schedule(shape, arm["rates"][arm["best"]], longest)(jnp.arange(longest)))
        weights[shape] = round_to_six_digits(update_weights(rates, WEIGHT_DECAY)[places])
    return size._asdict(), {"lengths": lengths, "weights": {"steps": places, **weights}}


def gains(result: Result, over: str = USUAL) -> dict[int, np.ndarray]:
    """Return, for each length, by how many percent the loss of another schedule is above that of linear decay to 0."""
    found = {}
    for steps, each in result.curves["lengths"].items():
        theirs, ours = (final_values(each["arms"][shape], "loss") for shape in (over, STRAIGHT))
        found[int(steps)] = 100 * (theirs / ours - 1)
    return found


def moved(result: Result, shape: str) -> float:
    """Return by which factor the best peak of a schedule changes from the shortest to the longest run."""
    first, *_, last = (found["arms"][shape] for found in result.curves["lengths"].values())
    ratio = first["rates"][first["best"]] / last["rates"][last["best"]]
    return float(max(ratio, 1 / ratio))


def claims(result: Result) -> list[Claim]:
    """Check that linear decay to 0 is best at the longest run, that its gain grows, and that its best peak stays."""
    by_length = gains(result)
    first, *_, last = by_length
    text = f"{last:,} steps: the loss with {USUAL} is above that with linear decay to 0, each at its best peak"
    found = [Claim.of_values(f"{text} (%)", "0.77, 610M parameters", by_length[last], 0.0)]
    text = f"the gain grows with the length: at {last:,} steps minus at {first:,} (points)"
    found.append(Claim.of_values(text, "> 0", by_length[last] - by_length[first], 0.0))
    for shape in ("cosine to 0", "linear to 10 %"):
        text = f"{last:,} steps: the loss with {shape} over that with linear decay to 0, minus 1, at least -0.1 (%)"
        found.append(Claim.of_values(text, ">= 0", gains(result, shape)[last], -0.1))
    text = (
        f"the best peak of linear decay to 0 moves from {first:,} to {last:,} steps at most as far as that of {USUAL}"
    )
    ours, theirs = moved(result, STRAIGHT), moved(result, USUAL)
    found.append(Claim(text, "less", f"by {ours:.3g} and {theirs:.3g}", ours <= theirs))
    arms = {
        f"{steps} {shape}": arm
        for steps, each in result.curves["lengths"].items()
        for shape, arm in each["arms"].items()
        if shape in SHAPES
    }
    return [*found, claim_best_rates_inside_grid(arms)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the losses over peaks at the longest run, the gain over the length, and the weights of the updates."""
    figure, (left, middle, right) = panels(3, size=(13, 4.4))
    lengths = result.curves["lengths"]
    *_, longest = lengths
    for place, (shape, arm) in enumerate(lengths[longest]["arms"].items()):
        reached = np.asarray(arm["final_loss"], np.float64)
        if len(arm["rates"]) > 1:
            band(left, arm["rates"], reached.T, shape, place, marker="o", ms=3)
        else:
            left.axhline(float(np.median(reached)), label=shape, lw=1.6, **arm_style(shape, place))
    finite = [np.asarray(arm["final_loss"], np.float64)[arm["best"]] for arm in lengths[longest]["arms"].values()]
    left.set_ylim(0.99 * min(map(np.min, finite)), 1.25 * min(map(np.min, finite)))
    describe(left, f"{int(longest):,} steps", xscale="log")
    left.set(xlabel="peak of the learning rate", ylabel="loss on held-out text, nats a character")
    for place, shape in enumerate(shape for shape in SHAPES if shape != STRAIGHT):
        found = gains(result, shape)
        band(middle, list(found), np.stack(list(found.values()), axis=1), shape, place + 1, marker="o", ms=3)
    middle.axhline(0, color="black", lw=0.8)
    middle.set_xscale("log")
    mark(middle, [int(steps) for steps in lengths])
    describe(middle, "each at its best peak", xlabel="steps of the run", ylabel="loss above that of linear to 0 (%)")
    weights = result.curves["weights"]
    for place, shape in enumerate(SHAPES):
        if shape in weights:
            right.plot(weights["steps"], weights[shape], lw=1.6, **arm_style(shape, place))
    describe(right, "at the best peaks", xlabel="update i", ylabel=r"its weight $c_{T,i}$ in the last parameters")
    legend(figure, left, columns=5)
    return {"straight_to_zero": figure}


PAPER = Paper(
    name="bergsma_2025",
    title="Straight to Zero: Why Linearly Decaying the Learning Rate to Zero Works Best for LLMs",
    authors="S. Bergsma, N. Dey, G. Gosal, G. Gray, D. Soboleva, J. Hestness",
    year=2025,
    source="ICLR 2025, arXiv:2502.15938",
    figure="the comparison of schedules at their best peaks over the length of the run, on a small transformer",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("lengths", "*", "arms"),),
)
