"""Large batches train like small ones: the rate grows with the batch, and a gradual warm-up leads to it.

P. Goyal, P. Dollár, R. Girshick, P. Noordhuis, L. Wesolowski, A. Kyrola, A. Tulloch, Y. Jia, K. He, "Accurate, Large
Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv:1706.02677, tables 1 and 2 and figures 2 to 4. With batches of
k b images the rate is k eta (linear scaling). For the first epochs it climbs from eta to k eta, a little each step. The
rate is divided by 10 at 1/3, 2/3 and 8/9 of the epochs.

    lrx reproduce goyal_2017                 MNIST of 7 x 7 pixels, a perceptron, batches of 16 to 1,024, 3 seeds
    lrx reproduce goyal_2017 --scale cpu     CIFAR-10 of 8 x 8 pixels, two convolutions, batches of 32 to 2,048, 3 seeds

Published errors of ResNet-50 on ImageNet, in percent: batches of 256 23.60; of 8,192 with a gradual warm-up 23.74, with
a constant one 25.88, with none 24.84, with the rate of 256 41.67, with sqrt(32) times it 26.22; of 65,536 33.96.

Measured at the demo scale, batches of 64 reach the error of 16, and those of 256 are 0.8 points worse; a warm-up, its
gradual form and the linear factor each matter there as published. The training losses do not match: with batches of 64
and 256 they end 19 and 40 % higher. At the cpu scale batches of 128 end 1.0 point below those of 32, and batches of 512
0.8 above, their training losses 6 % apart. Batches of 2,048 are too large, as those of 65,536 are in the paper. A
constant warm-up is far worse than none.

Differs from the source: small networks without batch norm; the rate of the smallest batch is the best of a grid. The
error is the median of the last five epochs, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx.figures import Figure, panels
from lrx.papers.arms import claim_best_rates_inside_grid, compare, compare_schedules, decades, without_grid
from lrx.papers.figures import band, describe, errors_at_the_end, mark
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.small_images import Images, load_problem, workload_of
from lrx.records import Result

MakeOptimizer = Callable[[lrx.Schedule], optax.GradientTransformation]


class Size(NamedTuple):
    """Data and network, the batches, the epochs, and the rates of the smallest batch."""

    images: Images  # a multiple of the largest batch
    batch_size: int  # b
    factors: tuple[int, ...]  # k, increasing
    compared: int  # the factor of the comparisons of warm-ups and scalings
    epochs: int
    warmup: int  # epochs
    rates: tuple[float, ...]


SCALES = {
    "demo": Scale(
        "a perceptron of 64 units, batches of 16 to 1,024, 30 epochs, 3 seeds",
        "a minute, 2 CPU cores",
        Size(Images("perceptron", 3072, 2000, 4, (64,)), 16, (4, 16, 64), 16, 30, 5, decades(-2.5, -0.5, 2)),
        "mnist",
    ),
    "cpu": Scale(
        "two convolutions, batches of 32 to 2,048, 30 epochs, 3 seeds",
        "25 minutes, 1 CPU core",
        Size(Images("convolutions", 16_384, 5000, 4, (16, 32)), 32, (4, 16, 64), 16, 30, 5, decades(-2.5, -0.5, 2)),
        "cifar10",
    ),
    "paper": Scale(
        "two wide convolutions, batches of 64 to 16,384, 90 epochs, 5 seeds",
        "hours on one GPU",
        Size(
            Images("convolutions", 49_152, 10_000, 1, (64, 128)),
            64,
            (4, 16, 64, 256),
            16,
            90,
            5,
            decades(-2.5, -0.5, 2),
        ),
        "cifar10",
        (0, 1, 2, 3, 4),
    ),
}
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
DROPS = (1 / 3, 2 / 3, 8 / 9)  # of the epochs, where the rate is divided by 10
EPOCHS = 5  # the last, over which the error is the median
GRADUAL, CONSTANT, NONE = "gradual warm-up", "constant warm-up", "no warm-up"
ROOT, UNSCALED = "rate times sqrt(k)", "rate not scaled"
SAME = 0.5  # points of error


def momentum_with(link: Callable[..., optax.GradientTransformation], **options: bool) -> MakeOptimizer:
    """Return a function of the rate to a form of momentum with an L2 penalty."""
    return lambda rate: optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), link(rate, momentum=MOMENTUM, **options))


optimizer = momentum_with(lrx.sgd, nesterov=True)
MOMENTA = {  # the rate is a factor of the velocity, or of the gradients in it
    "rate outside": momentum_with(lrx.sgd),
    "rate inside, corrected": momentum_with(lrx.heavy_ball, momentum_correction=True),
    "rate inside": momentum_with(lrx.heavy_ball),
}
OUTSIDE, CORRECTED, _ = MOMENTA


def schedules(rate: float, factor: int, size: Size, per_epoch: int) -> dict[str, lrx.Schedule]:
    """Return the schedules of a batch of `factor` times the smallest, whose rate is `rate`.

    Args:
      rate: eta.
      factor: k.
      size: the epochs.
      per_epoch: steps of an epoch.
    """
    warmup = size.warmup * per_epoch
    drops = {round(part * size.epochs) * per_epoch: 0.1 for part in DROPS}

    def climbing(peak: float) -> lrx.Schedule:
        return lrx.piecewise_constant(peak, drops) * lrx.interpolate({0: rate / peak, warmup: 1.0})

    found = {GRADUAL: climbing(rate * factor)}
    if factor == size.compared:
        found[NONE] = lrx.piecewise_constant(rate * factor, drops)
        found[CONSTANT] = lrx.piecewise_constant(rate, {warmup: float(factor), **drops})
        found[ROOT] = climbing(rate * math.sqrt(factor))
        found[UNSCALED] = lrx.piecewise_constant(rate, drops)
    return found


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find the rate of the smallest batch, train with all batches, and with each form of momentum."""
    problem = load_problem(size.images, job)
    options: dict[str, Any] = {"metric": "error", "strategy": size.images.strategy}
    batches: dict[str, Any] = {}
    rate, momentum = 1.0, {}
    for factor in (1, *size.factors):
        batch_size = factor * size.batch_size
        workload = workload_of(problem, f"{job.data}, batches of {batch_size:,}", batch_size)
        per_epoch = size.images.number // batch_size
        lengths: dict[str, Any] = {"num_steps": size.epochs * per_epoch, "evaluate_every": per_epoch}
        shapes = schedules(rate, factor, size, per_epoch)
        rates = size.rates if factor == 1 else (1.0,)
        arms = compare_schedules(workload, shapes, optimizer, rates, job, name=workload.name, **lengths, **options)
        batches[str(batch_size)] = {"arms": arms}
        if factor == 1:
            rate = arms[GRADUAL]["rates"][arms[GRADUAL]["best"]]
        if factor == size.compared:
            scheduled = {name: without_grid(make(shapes[GRADUAL])) for name, make in MOMENTA.items()}
            momentum = compare(workload, scheduled, job, name="momentum", **lengths, **options)
    return size._asdict() | {"rate": rate}, {"batches": batches, "momentum": momentum}


def errors(arm: dict[str, Any]) -> np.ndarray:
    """Return the test error, the median over the last epochs, in percent, (seeds,)."""
    return np.median(np.asarray(arm["evaluations"]["error"], np.float64)[:, -EPOCHS:], axis=1)


def curve(result: Result, batch: str, name: str = GRADUAL) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs of a curve of training losses, (points,), and its values, (seeds, points)."""
    arm = result.curves["batches"][batch]["arms"][name]
    per_epoch = result.settings["images"][1] / int(batch)
    return np.asarray(arm["steps"]) / per_epoch, np.asarray(arm["loss"], np.float64)


def apart_after_warmup(result: Result, batch: str) -> float:
    """Return how far two mean training losses are apart after the warm-up, the root mean square, relative.

    Args:
      result: its smallest batch is the reference.
      batch: the other one.
    """
    smallest = next(iter(result.curves["batches"]))
    (times, values), (other_times, other) = (curve(result, each) for each in (smallest, batch))
    epochs = np.arange(result.settings["warmup"] + 1, result.settings["epochs"] + 1)
    at = np.interp(epochs, times, values.mean(axis=0)), np.interp(epochs, other_times, other.mean(axis=0))
    return float(np.sqrt(np.mean((at[1] / at[0] - 1) ** 2)))


def claims(result: Result) -> list[Claim]:
    """Compare batches, warm-ups, scalings and the forms of momentum."""
    batches = {batch: each["arms"] for batch, each in result.curves["batches"].items()}
    smallest, *larger = batches
    base = errors(batches[smallest][GRADUAL])
    factors = {batch: int(batch) // int(smallest) for batch in larger}
    compared = next(batch for batch, factor in factors.items() if factor == result.settings["compared"])
    found = []
    for batch, published in ((larger[0], "0"), (compared, "0.14, k = 32")):
        text = f"k = {factors[batch]}: error minus that of k = 1, within {SAME:g} points"
        found.append(Claim.of_values(text, published, errors(batches[batch][GRADUAL]) - base, -SAME, SAME))
    text = f"k = {factors[larger[-1]]}: error minus that of k = 1, at least {SAME:g} points"
    found.append(Claim.of_values(text, "10.4, k = 256", errors(batches[larger[-1]][GRADUAL]) - base, SAME))
    text = f"k = {factors[compared]}: training loss after the warm-up beside that of k = 1, within 5 % (rms)"
    found.append(Claim.of_values(text, "the curves match", 100 * apart_after_warmup(result, compared), high=5.0))
    best = errors(batches[compared][GRADUAL])
    for name, published in ((NONE, "1.10"), (CONSTANT, "2.14"), (ROOT, "2.48"), (UNSCALED, "17.9")):
        text = f"k = {factors[compared]}: error with {name} minus that with a gradual one and k, above 0"
        expected = f"{published}, k = 32"
        found.append(Claim.of_values(text, expected, errors(batches[compared][name]) - best, 1e-9))
    losses = {name: np.asarray(arm["loss"], np.float64) for name, arm in result.curves["momentum"].items()}
    apart = np.max(np.abs(losses[CORRECTED] / losses[OUTSIDE] - 1), axis=1)
    text = "momentum with the rate inside, corrected: training loss as with the rate outside, to 0.1 % (percent)"
    found.append(Claim.of_values(text, "equal", 100 * apart, high=0.1))
    return [*found, claim_best_rates_inside_grid({smallest: batches[smallest][GRADUAL]})]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the training losses over epochs, the error over the batch, and the errors of what is compared."""
    figure, (left, middle, right) = panels(3, size=(13, 4.4))
    batches = {batch: each["arms"] for batch, each in result.curves["batches"].items()}
    smallest = next(iter(batches))
    for place, batch in enumerate(batches):
        band(left, *curve(result, batch), f"{int(batch):,} images", place, middle=np.mean)
    left.axvline(result.settings["warmup"], color="grey", lw=0.8, ls=":")
    describe(left, "batches, with a gradual warm-up", yscale="log", xlabel="epoch", ylabel="training loss")
    left.legend()
    sizes = [int(batch) for batch in batches]
    band(middle, sizes, np.stack([errors(arms[GRADUAL]) for arms in batches.values()], axis=1), "error", marker="o")
    middle.set_xscale("log", base=2)
    mark(middle, sizes)
    describe(middle, "linear scaling, gradual warm-up", xlabel="images in a batch", ylabel="test error (%)")
    compared = str(int(smallest) * result.settings["compared"])
    found = {name: errors(arm) for name, arm in batches[compared].items()}
    rows = {name: found[name] for name in (GRADUAL, NONE, CONSTANT, ROOT, UNSCALED)}
    rows |= {f"heavy ball,\n{name}": errors(arm) for name, arm in result.curves["momentum"].items()}
    rows |= found  # with the arms of the caller at the end
    errors_at_the_end(right, rows)
    describe(right, f"batches of {int(compared):,}", xlabel="test error (%), a dot a seed")
    return {"large_batches": figure}


PAPER = Paper(
    name="goyal_2017",
    title="Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    authors="P. Goyal, P. Dollár, R. Girshick, P. Noordhuis, L. Wesolowski, A. Kyrola, A. Tulloch, Y. Jia, K. He",
    year=2017,
    source="arXiv:1706.02677",
    figure="Tables 1 and 2, figures 2 to 4 (linear scaling, warm-ups, momentum correction), on small networks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("batches", "*", "arms"),),
)
