"""Weight decay as a time scale: over how many epochs AdamW averages is what must be tuned, whatever the data's size.

X. Wang, L. Aitchison, "How to set AdamW's weight decay as you scale model and dataset size", ICML 2025,
arXiv:2405.13698. With the rate eta and the decay lambda, AdamW's weights are an exponential moving average of its
updates over

    tau = 1 / (eta lambda) steps,   tau / M epochs,   M minibatches an epoch,

and the best number of epochs hardly depends on the size of the data. So at a fixed rate the best lambda falls as
1 / M: a decay that was tuned on an eighth of the data is eight times too large for all of it.

    lrx reproduce wang_2025                 MNIST of 7 x 7 pixels, a perceptron, 500 to 4,000 images, 3 seeds
    lrx reproduce wang_2025 --scale cpu     MNIST, a larger perceptron, 1,000 to 16,000 images, 3 seeds

Measured at the demo scale, decays below the best one cost next to nothing, so the best one is hardly defined. What is
well defined is the largest harmless decay, up to which errors stay within 5 % of the lowest; its claims were added
after the first run. At the cpu scale both fall by about 3 octaves over 16 times the images, where the paper's rule says
4: here the best decay falls a little more slowly than the data grow.

Differs from the source: perceptrons in place of residual networks and transformers, on images of which a fifth have
wrong labels, so that decay matters. The rate falls along a cosine to a tenth, as the paper's does; tau is counted
with its peak. As in the paper, each size is trained for the same number of epochs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.figures import band, describe, mark
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import sweep_seeds
from lrx.papers.small_images import Images, load_problem, workload_of
from lrx.records import Result, round_to_six_digits


class Size(NamedTuple):
    """Data, network, length and the decays."""

    images: tuple[int, ...]  # of the training sets, the first ones of the data
    test_images: int
    shrink: int  # pixels along each axis that are averaged
    widths: tuple[int, ...]
    epochs: int
    rate: float
    decays: tuple[float, ...]
    batch_size: int = 50
    wrong_labels: float = 0.2  # part of the training images


DOUBLINGS = tuple(0.01 * 2.0**power for power in range(10))
SCALES = {
    "demo": Scale(
        "a perceptron of 64 units, 500 to 4,000 images, 20 epochs, 10 decays, 3 seeds",
        "half a minute, 2 CPU cores",
        Size((500, 1000, 2000, 4000), 2000, 4, (64,), 20, 0.003, DOUBLINGS),
        "mnist",
    ),
    "cpu": Scale(
        "a perceptron of two layers of 128, 1,000 to 16,000 images, 30 epochs, 12 decays, 3 seeds",
        "4 minutes, 1 CPU core",
        Size(
            (1000, 4000, 16_000), 5000, 2, (128, 128), 30, 0.001, tuple(0.01 * 2.0**power for power in range(12)), 100
        ),
        "mnist",
    ),
    "paper": Scale(
        "a perceptron of two layers of 512, 4,000 to 60,000 images, 50 epochs, 14 decays, 3 seeds",
        "an hour on one GPU",
        Size(
            (4000, 16_000, 60_000),
            10_000,
            1,
            (512, 512),
            50,
            0.001,
            tuple(0.005 * 2.0**power for power in range(14)),
            100,
        ),
        "mnist",
    ),
}
FINAL_RATE = 0.1  # over its peak
MOVES = 4.0  # the best decay, over 8 times the data, at least
STAYS = 2.0  # the best number of epochs, at most
ENOUGH = 1.05  # errors within this ratio of the lowest count for the best decay


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with every decay and seed on every size of the data."""
    sizes = {}
    for number in size.images:
        images = Images("perceptron", number, size.test_images, size.shrink, size.widths, size.wrong_labels)
        name = f"{job.data}, {number:,} images"
        workload = workload_of(load_problem(images, job), name, size.batch_size)
        epoch = workload.batches.steps_per_epoch
        schedule = lrx.cosine_decay(size.rate, size.epochs * epoch, end_value=FINAL_RATE * size.rate)
        swept = sweep_seeds(
            workload,
            lambda decay, schedule=schedule: lrx.adamw(schedule, weight_decay=decay),
            {"decay": size.decays},
            job,
            name,
            num_steps=size.epochs * epoch,
            num_points=1,
            title=name,
        )
        epochs = 1 / (size.rate * np.asarray(size.decays) * epoch)
        sizes[str(number)] = {
            "epochs": round_to_six_digits(epochs),
            "error": round_to_six_digits(swept.evaluations["error"]),
            "training_loss": round_to_six_digits(swept.final_loss),
        }
    return size._asdict(), {"decays": list(size.decays), "sizes": sizes}


def best_decay(result: Result, number: str) -> np.ndarray:
    """Return for each seed the log2 of the best decay for a number of images, (seeds,).

    The minimum of a noisy curve over decays is read off all that are within 5 % of it: their mean, on the log scale.
    """
    errors = result.array("sizes", number, "error")
    decays = np.log2(np.asarray(result.curves["decays"]))
    near = errors <= ENOUGH * errors.min(axis=0)
    return (near * decays[:, None]).sum(axis=0) / near.sum(axis=0)


def harmless_decay(result: Result, number: str) -> np.ndarray:
    """Return for each seed the log2 of the largest decay whose error is within 5 % of the lowest, (seeds,)."""
    errors = result.array("sizes", number, "error")
    decays = np.log2(np.asarray(result.curves["decays"]))
    near = errors <= ENOUGH * errors.min(axis=0)
    return np.where(near, decays[:, None], -np.inf).max(axis=0)


def claims(result: Result) -> list[Claim]:
    """Compare how far the best decay and the best time scale move from the smallest to the largest data."""
    first, *_, last = numbers = list(result.curves["sizes"])
    down = best_decay(result, first) - best_decay(result, last)
    more = int(last) / int(first)
    text = f"{more:.3g} times the images: the best decay falls by octaves, at least {np.log2(MOVES):.3g}"
    found = [Claim.of_values(text, f"{np.log2(more):.3g}", down, np.log2(MOVES))]
    moved = down - np.log2(more)
    text = f"the best number of epochs moves by octaves between {-np.log2(STAYS):.3g} and {np.log2(STAYS):.3g}"
    found.append(Claim.of_values(text, "0", moved, -np.log2(STAYS), np.log2(STAYS)))
    edge = harmless_decay(result, first) - harmless_decay(result, last)
    text = f"the largest harmless decay falls by octaves, at least {np.log2(MOVES):.3g}"
    found.append(Claim.of_values(text, f"{np.log2(more):.3g}", edge, np.log2(MOVES)))
    text = f"its number of epochs moves by octaves between {-np.log2(STAYS):.3g} and {np.log2(STAYS):.3g}"
    found.append(Claim.of_values(text, "0", edge - np.log2(more), -np.log2(STAYS), np.log2(STAYS)))
    penalties = {
        what: np.array([penalty(result, first, number, scaled) for number in numbers[1:]])
        for what, scaled in (("decay", False), ("epochs", True))
    }
    text = "error with the decay that is best for the fewest images, over the lowest: above that with its epochs"
    found.append(Claim.of_values(text, "> 0", (penalties["decay"] - penalties["epochs"])[-1], 1e-9))
    matters = max(result.array("sizes", n, "error").mean(axis=1).max() / lowest(result, n).mean() for n in numbers)
    text = "decay matters: the highest error over decays is at least 1.2 times the lowest, at some size"
    found.append(Claim.of_values(text, "> 1", matters, 1.2))
    inside = sum(
        0 < int(np.argmin(result.array("sizes", n, "error").mean(axis=1))) < len(result.curves["decays"]) - 1
        for n in numbers
    )
    text = "every size has its best decay inside the grid, not at an end"
    return [*found, Claim(text, "all", f"{inside} of {len(numbers)}", inside == len(numbers))]


def lowest(result: Result, number: str) -> np.ndarray:
    """Return the errors at the decay whose mean over seeds is lowest, (seeds,)."""
    errors = result.array("sizes", number, "error")
    return errors[int(np.argmin(errors.mean(axis=1)))]


def penalty(result: Result, tuned: str, number: str, scaled: bool) -> np.ndarray:
    """Return the errors with the decay of another size over the lowest ones, minus 1, (seeds,).

    Args:
      result: the result.
      tuned: the size on which the decay was tuned.
      number: the size on which it is used.
      scaled: whether its number of epochs is used in place of the decay itself.
    """
    decays = np.log(np.asarray(result.curves["decays"]))
    wanted = np.log(2.0) * float(np.mean(best_decay(result, tuned)))
    if scaled:
        wanted -= np.log(int(number) / int(tuned))
    errors = result.array("sizes", number, "error")
    used = np.array([np.interp(wanted, decays, of_seed) for of_seed in errors.T])
    return used / lowest(result, number) - 1


def plot(result: Result) -> dict[str, Figure]:
    """Draw the test errors over the decay and over the number of epochs that it averages, a line a size."""
    figure, (left, middle, right) = panels(3, size=(13, 4.4))
    numbers = list(result.curves["sizes"])
    for place, number in enumerate(numbers):
        found = result.curves["sizes"][number]
        label = f"{int(number):,} images"
        relative = result.array("sizes", number, "error").T
        for axes, x in ((left, result.curves["decays"]), (middle, found["epochs"])):
            band(axes, x, relative, label, place, marker="o", ms=3, middle=np.mean)
            axes.set_xscale("log")
    left.set(xlabel=r"weight decay $\lambda$", ylabel="test error (%), mean and range of seeds")
    middle.set_xlabel(r"epochs that AdamW averages over, $1 / (\eta \lambda M)$")
    counts = np.array([int(number) for number in numbers])
    for find, label, stroke in ((best_decay, "best", "-"), (harmless_decay, "largest harmless", "--")):
        octaves = np.stack([find(result, number) for number in numbers])
        right.plot(counts, 2.0 ** octaves.mean(axis=1), marker="o", ms=4, color="black", ls=stroke)
        right.vlines(counts, 2.0 ** octaves.min(axis=1), 2.0 ** octaves.max(axis=1), color="black", lw=1)
        right.annotate(
            label, (counts[0], 2.0 ** octaves[0].mean()), xytext=(4, 6), textcoords="offset points", fontsize=9
        )
        start = 2.0 ** octaves[0].mean()
        right.plot(counts, start * counts[0] / counts, color="black", lw=1, ls=(0, (1, 2)))
    describe(right, "dotted: 1 / images", xscale="log", yscale="log", xlabel="images", ylabel=r"$\lambda$")
    mark(right, counts)
    legend(figure, left, columns=4)
    return {"time_scale": figure}


PAPER = Paper(
    name="wang_2025",
    title="How to set AdamW's weight decay as you scale model and dataset size",
    authors="X. Wang, L. Aitchison",
    year=2025,
    source="ICML 2025, arXiv:2405.13698",
    figure="the test error over weight decay, and over the epochs that it averages, for sizes of the data",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
