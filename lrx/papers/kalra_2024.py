"""Why warm-up: it lets a run start at rates that would otherwise ruin it; a better start of Adam does much the same.

D. S. Kalra, M. Barkeshli, "Why Warmup the Learning Rate? Underlying Mechanisms and Improvements", NeurIPS 2024,
arXiv:2406.09405: the test error over the rate and the length of a linear warm-up, as a map. Without warm-up a large
rate throws Adam far away in its first steps, when its second moment is that of a single gradient. GI-Adam begins with

    v_0 = g_0^2   in place of   v_0 = 0,

under the usual bias correction, so its first steps are shorter by sqrt(1 - beta_2^t), a warm-up of its own.

    lrx reproduce kalra_2024                 digits, a perceptron of four hidden layers, 600 steps, 3 seeds
    lrx reproduce kalra_2024 --scale cpu     CIFAR-10, ResNet-8, 800 steps, 3 seeds

Published test accuracies of Adam (WRN-16-4, CIFAR-10, 100,000 steps) with a warm-up of 1 and of 1,024 steps: 93.37 and
94.47 % at the rate 0.00512, 87.60 and 92.06 at 0.02048, 10.03 (diverged) and 89.45 at 0.04096; GI-Adam with a warm-up
of 1 step: 93.86, 91.97 and 88.38.

Differs from the source: networks and lengths are smaller. g_0 is the gradient of the first minibatch, where the authors
take that of another one. A rate is called stable if the test error is within 5 points of the lowest of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import legend, panels
from lrx.papers.arms import error_workload, strategy_of_networks
from lrx.papers.figures import band
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result, round_to_six_digits
from lrx.tuning import Execution, sweep
from lrx.workloads.datasets import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Size(NamedTuple):
    """Data, network, length, rates and warm-ups."""

    model: str  # in `lrx.workloads.models.MODELS`
    model_options: dict[str, Any]
    images: int  # of the training set
    steps: int
    rates: tuple[float, ...]
    warmups: tuple[int, ...]  # in steps; the first one is none
    batch_size: int = 64


DOUBLINGS = tuple(0.002 * 2.0**power for power in range(8))
SCALES = {
    "demo": Scale(
        "a perceptron of four hidden layers of 64, 600 steps, 8 rates, 4 warm-ups, 3 seeds",
        "half a minute, 2 CPU cores",
        Size("mlp", {"widths": (64,) * 4}, 1437, 600, DOUBLINGS, (1, 16, 64, 256)),
        "digits",
    ),
    "cpu": Scale(
        "ResNet-8, 800 steps, 5 rates, 3 warm-ups, 3 seeds",
        "hours, 2 CPU cores",
        Size("resnet8", {}, 20_000, 800, tuple(0.004 * 4.0**power for power in range(5)), (1, 32, 256)),
        "cifar10",
    ),
    "paper": Scale(
        "ResNet-20, 20,000 steps, 7 rates, 3 warm-ups, 3 seeds",
        "hours on one GPU",
        Size("resnet20", {}, 50_000, 20_000, tuple(0.00256 * 2.0**power for power in range(7)), (1, 64, 1024), 128),
        "cifar10",
    ),
}
FLOOR = 0.1  # where the cosine ends, over the peak
WITHIN = 5.0  # points of the lowest test error, in which a rate is stable
LONGER = 4.0  # at least this ratio of the highest stable rates with and without warm-up
ADAM, GI_ADAM = "Adam", "GI-Adam"


def scale_by_gi_adam() -> optax.GradientTransformationExtraArgs:
    """Build Adam's direction with a second moment that begins at the square of the first gradient."""
    adam = lrx.scale_by_adam()

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        first = state.count == 0
        second = jax.tree.map(lambda v, g: jnp.where(first, g * g, v), state.second_moment, gradients)
        return adam.update(gradients, state._replace(second_moment=second), params, **extra)

    return optax.GradientTransformationExtraArgs(adam.init, update)


METHODS = {ADAM: lrx.scale_by_adam, GI_ADAM: scale_by_gi_adam}


def schedule(peak: Any, warmup: Any, steps: int) -> lrx.Schedule:
    """Return a linear warm-up from 0 and then a cosine to a tenth of the peak; its arguments may be traced."""
    return lrx.warmup(lrx.cosine_decay(peak, steps - warmup, end_value=FLOOR * peak), warmup)


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with every method, rate, warm-up and seed."""
    data = load(job.data, job.data_dir).first(size.images)
    workload = error_workload(data, size.model, batch_size=size.batch_size, **size.model_options)
    maps = {}
    for name, direction in METHODS.items():
        swept = sweep(
            workload,
            lambda rate, warmup, direction=direction: optax.chain(direction(), schedule(rate, warmup, size.steps)),
            {"rate": list(size.rates), "warmup": [float(warmup) for warmup in size.warmups]},
            num_steps=size.steps,
            seeds=job.seeds,
            num_points=1,
            execution=Execution("vmap" if size.model == "mlp" else strategy_of_networks()),
            checkpoint=job.folder(name),
            progress=job.progress_title(f"{workload.name}, {name}"),
        )
        guessing = 100 * (1 - 1 / data.num_classes)
        error = np.where(np.isfinite(swept.evaluations["error"]), swept.evaluations["error"], guessing)
        maps[name] = {"error": round_to_six_digits(error)}
    return size._asdict(), {"rates": list(size.rates), "warmups": list(size.warmups), "maps": maps}


def errors(result: Result, name: str) -> np.ndarray:
    """Return the test errors in percent, (rates, warm-ups, seeds)."""
    return result.array("maps", name, "error")


def highest_stable(result: Result, name: str, warmup: int) -> np.ndarray:
    """Return for each seed the highest rate up to which all are stable with a warm-up of this place; 0 if none."""
    lowest = min(errors(result, each).mean(axis=-1).min() for each in METHODS)
    stable = np.logical_and.accumulate(errors(result, name)[:, warmup] <= lowest + WITHIN, axis=0)
    rates = np.array([0.0, *result.curves["rates"]])
    return rates[stable.sum(axis=0)]


def claims(result: Result) -> list[Claim]:
    """Compare the highest stable rates over warm-ups, and GI-Adam with Adam without warm-up."""
    warmups = result.curves["warmups"]
    highest = np.stack([highest_stable(result, ADAM, place) for place in range(len(warmups))])
    longer = np.log2(highest[-1] / highest[0])
    text = f"Adam: doublings of the highest stable rate from no warm-up to {warmups[-1]} steps, at least 2 (4 times)"
    found = [Claim.of_values(text, "2, WRN-16-4", longer, np.log2(LONGER))]
    means = np.log2(highest).mean(axis=1)
    text = "Adam: the highest stable rate does not fall as the warm-up grows (mean log2 over seeds)"
    found.append(Claim(text, "grows", ", ".join(f"{mean:.3g}" for mean in means), bool((np.diff(means) >= 0).all())))
    text = "without warm-up: doublings of the highest stable rate from Adam to GI-Adam, at least 1"
    found.append(
        Claim.of_values(text, "1 to 2, WRN-16-4", np.log2(highest_stable(result, GI_ADAM, 0) / highest[0]), 1.0)
    )
    gains = (errors(result, ADAM) - errors(result, GI_ADAM))[:, 0].mean(axis=-1)
    text = "without warm-up: errors of Adam minus those of GI-Adam, lowest over rates, at least -0.5 (points)"
    found.append(Claim.of_values(text, ">= 0", gains.min(), -0.5))
    text = "without warm-up: GI-Adam is better by more than a point at 3 rates or more"
    found.append(Claim(text, ">= 3", f"{(gains > 1).sum()} of {len(gains)}", bool((gains > 1).sum() >= 3)))
    best = errors(result, ADAM).mean(axis=-1).min(axis=0)
    text = f"Adam, each at its best rate: error with a warm-up of {warmups[-1]} steps minus that without, at most 0.5"
    return [*found, Claim.of_values(text, "-1.1, WRN-16-4", best[-1] - best[0], high=0.5)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the maps of both methods, and the errors over the rate, a line a warm-up."""
    figure, (left, middle, right) = panels(3, grid=False)
    figure.set_size_inches(13, 4.4)
    rates, warmups = result.curves["rates"], result.curves["warmups"]
    lowest = min(errors(result, name).mean(axis=-1).min() for name in METHODS)
    for axes, name in ((left, ADAM), (middle, GI_ADAM)):
        shown = errors(result, name).mean(axis=-1)
        drawn = axes.pcolormesh(shown.T, vmin=lowest, vmax=lowest + 4 * WITHIN, cmap="viridis_r")
        axes.set_xticks(np.arange(len(rates)) + 0.5, [f"{rate:.3g}" for rate in rates], rotation=60)
        axes.set_yticks(np.arange(len(warmups)) + 0.5, [str(warmup) for warmup in warmups])
        axes.set_xlabel("peak of the learning rate")
        axes.set_title(name, loc="left", fontsize=10)
    left.set_ylabel("steps of warm-up")
    figure.colorbar(drawn, ax=[left, middle], extend="max", label="test error (%)", pad=0.02)
    right.grid(True)
    for place, warmup in enumerate(warmups):
        label = f"Adam, warm-up of {warmup} step{'s' * (warmup > 1)}"
        band(right, rates, errors(result, ADAM)[:, place].T, label, place, marker="o", ms=3)
    gi = errors(result, GI_ADAM)[:, 0].T
    band(right, rates, gi, f"GI-Adam, warm-up of {warmups[0]} step", color="black", ls="-", marker="o", ms=3)
    right.axhspan(lowest, lowest + WITHIN, color="black", alpha=0.08, lw=0)
    right.set_xscale("log")
    right.set_xlabel("peak of the learning rate; grey: stable")
    right.set_ylabel("test error (%)")
    legend(figure, right, columns=5)
    return {"warmups": figure}


PAPER = Paper(
    name="kalra_2024",
    title="Why Warmup the Learning Rate? Underlying Mechanisms and Improvements",
    authors="D. S. Kalra, M. Barkeshli",
    year=2024,
    source="NeurIPS 2024, arXiv:2406.09405",
    figure="the test error over rate and warm-up of Adam and GI-Adam, on small networks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
