"""COCOB: each coordinate bets what it has won on the next gradient, without a learning rate.

F. Orabona, T. Tommasi, "Training Deep Networks without Learning Rates Through Coin Betting", NeurIPS 2017,
arXiv 1705.07795, figure 2, top row: a perceptron of two hidden layers of 1,000 units with ReLU on MNIST, batch 100,
40 epochs; training cost and test error over epochs, compared with methods that have a rate. In each coordinate, with
w_1 the initial value, alpha = 100 and L = 1e-8 at the start (algorithm 2)

    L <- max(L, |g|),   G <- G + |g|,   reward <- max(reward - g (w - w_1), 0),   theta <- theta - g
    w <- w_1 + theta / (L max(G + L, alpha L)) (L + reward)

The log of one run in the authors' repository:

    after epoch       0      1       2       37       38       39
    training cost     7.383  0.0915  0.0322  5.72e-5  5.53e-5  5.34e-5   over all training images
    test error (%)    88.5   4.14    2.27    1.65     1.64     1.65

    lrx reproduce orabona_2017                 COCOB and Adam for 2 epochs, 1 seed: 45 s on 2 CPU cores
    lrx reproduce orabona_2017 --scale cpu     6 epochs, COCOB with 3 seeds, Adam, RMSProp: 10 minutes on 2 CPU cores
    lrx reproduce orabona_2017 --scale paper   40 epochs, AdaGrad too: not run here, some hours on 2 CPU cores

In this reproduction COCOB starts with the cost of the log, has a lower cost after epoch 1 with every seed, and about
the same after epoch 2.

Differs from the source: the rates of the other methods are the best of a coarse grid, by the training cost at the end,
with one seed; Adadelta, which lrx does not have, is left out. The accumulator of AdaGrad starts at 0.1 and RMSProp has
a decay of 0.9, as in TensorFlow, which the authors used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, compare, with_own
from lrx.papers.figures import arm_style, band
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.statistics import around
from lrx.records import Result
from lrx.training import Workload
from lrx.workloads.datasets import load
from lrx.workloads.images import error_workload


class Size(NamedTuple):
    """Lengths, and the rates of the methods other than COCOB."""

    epochs: int
    rates: Mapping[str, tuple[float, ...]]  # of the methods beside COCOB
    widths: tuple[int, ...] = (1000, 1000)


COARSE = {"Adam": (1e-4, 3e-4, 1e-3), "RMSProp": (1e-4, 3e-4, 1e-3)}
WIDE = {
    "Adam": (3e-5, 1e-4, 3e-4, 1e-3),
    "AdaGrad": (3e-3, 1e-2, 3e-2, 1e-1),
    "RMSProp": (3e-5, 1e-4, 3e-4, 1e-3),
}
SCALES = {
    "demo": Scale("COCOB and Adam, 2 epochs, 1 seed", "45 s, 2 CPU cores", Size(2, {"Adam": (1e-3,)}), "mnist", (0,)),
    "cpu": Scale(
        "6 epochs, COCOB with 3 seeds, Adam and RMSProp with 1", "10 minutes, 2 CPU cores", Size(6, COARSE), "mnist"
    ),
    "paper": Scale(
        "40 epochs, COCOB with 3 seeds, the others with 1", "some hours, 2 CPU cores", Size(40, WIDE), "mnist"
    ),
}
METHODS = {
    "COCOB": lambda rate: lrx.cocob(),  # noqa: ARG005
    "Adam": lambda rate: lrx.adam(rate),
    "AdaGrad": lambda rate: lrx.adagrad(rate, initial_accumulator=0.1),
    "RMSProp": lambda rate: lrx.rmsprop(rate, decay=0.9, eps=1e-10),
}
BATCH_SIZE = 100
# Epoch to the training cost and the test error in percent after it.
PUBLISHED = {1: (0.0915, 4.14), 2: (0.0322, 2.27), 37: (5.72e-5, 1.65), 38: (5.53e-5, 1.64), 39: (5.34e-5, 1.65)}
CHECKED = (1, 2, 39)
COST_TOLERANCE = 0.25  # of the published cost
ERROR_TOLERANCE = 0.4  # in points of percent: three standard deviations of an error of 2 % on 10,000 images


def workload_of(data: str, data_dir: Any, widths: tuple[int, ...]) -> Workload:
    """Build the workload of the authors: pixels of 0 to 1, their initial values, the cost over all training images."""
    dataset = load(data, data_dir)._replace(mean=np.zeros(1), std=np.ones(1))
    return error_workload(dataset, "mlp", batch_size=BATCH_SIZE, widths=widths, initial=initial)


def initial(key: jax.Array, fan_in: int, shape: tuple[int, ...]) -> jax.Array:
    """Draw kernels from a normal distribution of deviation 0.1, cut off at two of them; biases are 0.1."""
    del fan_in
    return jnp.full(shape, 0.1) if len(shape) == 1 else 0.1 * jax.random.truncated_normal(key, -2.0, 2.0, shape)


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with COCOB and every seed, and with the others, every rate and the first seed."""
    workload = workload_of(job.data, job.data_dir, size.widths)
    epoch = workload.batches.steps_per_epoch
    others = {name: Arm(METHODS[name], rates) for name, rates in size.rates.items()}
    found: dict[str, Any] = {}
    without_rate = with_own({"COCOB": Arm(METHODS["COCOB"])}, job)
    for arms, seeds in ((without_rate, job.seeds), (others, job.seeds[:1])):
        part = dataclasses.replace(job, seeds=seeds)
        found |= compare(
            workload, arms, part, num_steps=size.epochs * epoch, evaluate_every=epoch, metric="training_loss"
        )
    kept = {
        name: {
            "rate": None if name in without_rate else arm["rates"][arm["best"]],
            "rates": arm["rates"],
            "costs": arm["final_loss"],
            "cost": arm["evaluations"]["training_loss"],
            "error": arm["evaluations"]["error"],
        }
        for name, arm in found.items()
    }
    return {"epochs": size.epochs, "widths": size.widths}, {"arms": kept}


def claims(result: Result) -> list[Claim]:
    """Compare COCOB with its published log, and with the methods whose rate was tuned, one run each."""
    cost, error = (result.array("arms", "COCOB", key) for key in ("cost", "error"))
    found = []
    for epoch in CHECKED:
        if epoch > result.settings["epochs"]:
            break
        low, high = around(PUBLISHED[epoch][0], COST_TOLERANCE)
        text = f"training cost after epoch {epoch}, within {COST_TOLERANCE:.0%} of the published one"
        found.append(Claim.of_values(text, f"{PUBLISHED[epoch][0]:.3g}", cost[:, epoch - 1], low, high, published=True))
        low, high = (PUBLISHED[epoch][1] + sign * ERROR_TOLERANCE for sign in (-1, 1))
        text = f"test error after epoch {epoch} (%), within {ERROR_TOLERANCE} points of the published one"
        found.append(Claim.of_values(text, f"{PUBLISHED[epoch][1]}", error[:, epoch - 1], low, high, published=True))
    others = {name: arm for name, arm in result.curves["arms"].items() if len(arm["rates"]) > 1}
    if not others:
        return found
    least_cost, least_error = (
        min(float(np.mean(result.array("arms", name, key)[:, -1])) for name in others) for key in ("cost", "error")
    )
    names = ", ".join(f"{name} at {arm['rate']:g}" for name, arm in others.items())
    last = f"after epoch {result.settings['epochs']}"
    text = f"training cost {last}: COCOB's over the lowest of {names} is at most 1; ± is COCOB's"
    found.append(Claim.of_values(text, "an advantage", cost[:, -1] / least_cost, high=1.0))
    text = f"test error {last} (%): COCOB's is at most 0.2 points above the lowest of {names}; ± is COCOB's"
    found.append(Claim.of_values(text, "an advantage", error[:, -1] - least_error, high=0.2))
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw training cost and test error over epochs, as figure 2, and the cost at the end over rates."""
    arms, last = result.curves["arms"], result.settings["epochs"]
    gridded = any(len(arm["rates"]) > 1 for arm in arms.values())
    figure, axes = panels(3 if gridded else 2)
    for place, (name, arm) in enumerate(arms.items()):
        label = name if arm["rate"] is None else f"{name}, rate {arm['rate']:g}"
        for panel, key in zip(axes[:2], ("cost", "error"), strict=True):
            band(panel, np.arange(1, last + 1), arm[key], label, **arm_style(name, place), marker=".")
        if gridded:
            costs = np.asarray(arm["costs"], np.float64).T
            if arm["rate"] is None:
                axes[2].axhline(np.median(costs), **arm_style(name, place), lw=1.6)
            else:
                band(axes[2], arm["rates"], costs, label, **arm_style(name, place), marker="o", ms=4)
    for epoch, values in PUBLISHED.items():
        if result.data == "mnist" and epoch <= last:
            for panel, value in zip(axes[:2], values, strict=True):
                cross = {"color": arm_style("COCOB", 0)["color"], "mec": "black", "ms": 8, "ls": "", "zorder": 5}
                panel.plot([epoch], [value], marker="X", label="COCOB, published", **cross)
    axes[0].set(yscale="log", ylabel="training cost, all images")
    axes[1].set_ylabel("test error (%)")
    for panel in axes[:2]:
        panel.set_xlabel("epoch")
        panel.locator_params(axis="x", integer=True)
    if gridded:
        axes[2].set(xscale="log", yscale="log")
        axes[2].set(xlabel="learning rate; COCOB has none", ylabel=f"training cost after epoch {last}")
    legend(figure, axes[0], columns=5)
    return {"mnist": figure}


PAPER = Paper(
    name="orabona_2017",
    title="Training Deep Networks without Learning Rates Through Coin Betting",
    authors="F. Orabona, T. Tommasi",
    year=2017,
    source="NeurIPS 2017, arXiv:1705.07795",
    figure="Figure 2, top row (training cost and test error on MNIST)",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
