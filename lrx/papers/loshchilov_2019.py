"""AdamW: weight decay outside of the gradient, so that its best strength hardly depends on the learning rate.

I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, figures 1 and 2: the
test error over rate and decay, as a map, of Adam with an L2 penalty and of AdamW, whose algorithm 2 is

    theta_t = theta_{t-1} - eta_t (alpha m^ / (sqrt(v^) + eps) + lambda theta_{t-1}),

with eta_t a schedule that starts at 1, here cosine decay. Adam divides the gradient of the penalty by the root of its
square, so weights with large gradients hardly decay, and a good penalty depends on the rate. As published, the decay of
a step is eta_t lambda whatever alpha is; in optax and PyTorch it is eta_t alpha lambda. Both couplings are shown: on
this map the second is the first with its axis of lambda shifted by log alpha, so the best cells of only one of the two
can lie along an axis.

    lrx reproduce loshchilov_2019                 digits, a perceptron, 7 x 7 grid, 3 seeds
    lrx reproduce loshchilov_2019 --scale cpu     MNIST, 4,000 images, 9 x 9 grid, 3 seeds

At both scales the claim of separability does not hold: the best decays of the published coupling grow with alpha. Those
of the coupling of optax and PyTorch, and the best penalties, hardly depend on it at the cpu scale (correlations 0.1 and
0.0), and grow too at the demo scale (0.6 and 0.5, and 0.8 as published), where the best decay of AdamW is the largest
of the map.

Differs from the source: perceptrons in place of a Shake-Shake network, and few images, a fifth of which have wrong
labels, so that weight decay matters. How separable a map is, is measured by the correlation of log alpha and log lambda
over its ten best cells, which has no number in the paper. A perceptron has no normalization, so the effect of decay is
its penalty alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import lrx
from lrx.figures import Figure, panels
from lrx.papers.figures import describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import sweep_seeds
from lrx.papers.small_images import replace_divergence
from lrx.papers.statistics import correlation
from lrx.records import Result, round_to_six_digits
from lrx.workloads.datasets import load
from lrx.workloads.images import error_workload
from lrx.workloads.labels import mislabel


class Size(NamedTuple):
    """Data, network, length and grid."""

    images: int  # of the training set
    widths: tuple[int, ...]
    epochs: int
    cells: int  # of the grid along each axis
    batch_size: int = 64
    wrong_labels: float = 0.2  # part of the training images


LARGE = Size(4000, (128, 128), 30, 9, 128)
SCALES = {
    "demo": Scale(
        "a perceptron on 500 digits, 49 cells, 3 seeds", "a minute, 2 CPU cores", Size(500, (64,), 40, 7), "digits"
    ),
    "cpu": Scale("a perceptron on 4,000 images of MNIST, 81 cells, 3 seeds", "50 minutes, 1 CPU core", LARGE, "mnist"),
    "paper": Scale("as cpu: the paper's network is not part of lrx", "50 minutes, 1 CPU core", LARGE, "mnist"),
}
PEAKS = (-3.5, -1.0)  # log10 of the first and the last alpha
DECAYS = (-4.5, -1.0)  # log10 of lambda as the paper counts it, and of the L2 penalty
SHIFT = 2.5  # log10 of what lambda is multiplied by if the decay of a step is alpha lambda: 1 / alpha at 10^-2.5
BEST = 10  # cells whose rate and decay are correlated
SEPARATE = 0.2  # by how much the correlation of L2 must be above that of AdamW

Make = Callable[[Any, Any, int], optax.GradientTransformation]
METHODS: dict[str, Make] = {
    "Adam, L2": lambda alpha, decay, steps: optax.chain(
        optax.add_decayed_weights(decay), lrx.adam(lrx.cosine_decay(alpha, steps))
    ),
    "AdamW": lambda alpha, decay, steps: lrx.adamw(
        lrx.cosine_decay(alpha, steps), weight_decay=decay, decoupling="schedule", base_rate=alpha
    ),
    "AdamW, times alpha": lambda alpha, decay, steps: lrx.adamw(lrx.cosine_decay(alpha, steps), weight_decay=decay),
}
CONSTANT = "AdamW, constant"  # the arm without a schedule, at the best decay of AdamW


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train every method with every rate, decay and seed, and AdamW at a constant rate."""
    data = load(job.data, job.data_dir).first(size.images)
    images, labels = mislabel((data.train_images, data.train_labels), size.wrong_labels)
    data = data._replace(train_images=images, train_labels=labels)
    workload = error_workload(data, "mlp", batch_size=size.batch_size, widths=size.widths)
    steps = size.epochs * workload.batches.steps_per_epoch
    alphas = np.logspace(*PEAKS, size.cells).tolist()
    maps: dict[str, Any] = {}
    for name, make in METHODS.items():
        factor = 10.0**SHIFT if name == "AdamW, times alpha" else 1.0
        decays = (factor * np.logspace(*DECAYS, size.cells)).tolist()
        swept = sweep_seeds(
            workload,
            lambda alpha, decay, make=make: make(alpha, decay, steps),
            {"alpha": alphas, "decay": decays},
            job,
            name,
            num_steps=steps,
            num_points=1,
        )
        maps[name] = {"alpha": alphas, "decay": round_to_six_digits(decays), **_results(swept)}
    best = np.unravel_index(int(np.argmin(means(maps["AdamW"]["error"]))), (size.cells, size.cells))
    decay = maps["AdamW"]["decay"][best[1]]
    constant = sweep_seeds(
        workload,
        lambda alpha: lrx.adamw(alpha, weight_decay=decay, decoupling="schedule", base_rate=alpha),
        {"alpha": alphas},
        job,
        CONSTANT,
        num_steps=steps,
        num_points=1,
    )
    maps[CONSTANT] = {"alpha": alphas, "decay": [decay], **_results(constant)}
    return size._asdict() | {"steps": steps}, {"maps": maps}


def _results(swept: Any) -> dict[str, Any]:
    """Return test errors in percent and training losses, (alphas, decays, seeds); a run that diverged guesses."""
    error = replace_divergence(swept.evaluations["error"])
    return {"error": round_to_six_digits(error), "loss": round_to_six_digits(swept.evaluations["training_loss"])}


def means(by_seed: Any) -> np.ndarray:
    """Return the means over seeds, the last axis."""
    return np.asarray(by_seed, np.float64).mean(axis=-1)


def correlation_of_best(found: Any, errors: np.ndarray) -> float:
    """Return the correlation of log alpha and log lambda over the best cells of a map; 0 if they share a row."""
    alphas, decays = np.meshgrid(np.log(found["alpha"]), np.log(found["decay"]), indexing="ij")
    best = np.argsort(errors, axis=None, kind="stable")[:BEST]
    return correlation(alphas.ravel()[best], decays.ravel()[best])


def correlations(result: Result, name: str) -> np.ndarray:
    """Return the correlation of a map for each seed."""
    errors = np.moveaxis(result.array("maps", name, "error"), -1, 0)
    return np.array([correlation_of_best(result.curves["maps"][name], of_seed) for of_seed in errors])


def best_errors(result: Result, name: str) -> np.ndarray:
    """Return the error of each seed in the cell whose mean over seeds is lowest."""
    errors = result.array("maps", name, "error")
    flat = errors.reshape(-1, errors.shape[-1])
    return flat[int(np.argmin(flat.mean(axis=1)))]


def claims(result: Result) -> list[Claim]:
    """Compare the best errors, and how much rate and decay depend on each other."""
    best = {name: best_errors(result, name) for name in result.curves["maps"]}
    found = []
    text = "figure 1: the lowest error of AdamW minus that of Adam with L2, each at its best cell, at most 0 (points)"
    found.append(Claim.of_values(text, "< 0", best["AdamW"] - best["Adam, L2"], high=0.0))
    text = f"figure 2: log alpha and log lambda of the {BEST} best cells: |correlation| with L2 minus that of AdamW"
    apart = np.abs(correlations(result, "Adam, L2")) - np.abs(correlations(result, "AdamW"))
    found.append(Claim.of_values(f"{text}, at least {SEPARATE}", "> 0", apart, SEPARATE))
    text = "the decay of optax and PyTorch, alpha lambda: the best cells correlate negatively, at most -0.2"
    found.append(Claim.of_values(text, "< 0", correlations(result, "AdamW, times alpha"), high=-0.2))
    text = "both couplings reach the same: lowest errors differ by at most 0.5 points"
    found.append(Claim.of_values(text, "0", np.abs(best["AdamW"] - best["AdamW, times alpha"]), high=0.5))
    text = "figure 1: the lowest error with cosine decay minus that at a constant rate, AdamW's best decay, at most 0"
    return [*found, Claim.of_values(text, "< 0", best["AdamW"] - best[CONSTANT], high=0.0)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the test error over rate and decay, a map a method."""
    maps = {name: found for name, found in result.curves["maps"].items() if name != CONSTANT}
    figure, axes = panels(len(maps), size=(11.0, 4.2), grid=False)
    shown = np.concatenate([means(found["error"]).ravel() for found in maps.values()])
    low, high = float(shown.min()), float(np.quantile(shown, 0.7))
    for place, (panel, (name, found)) in enumerate(zip(axes, maps.items(), strict=True)):
        errors = means(found["error"])
        drawn = panel.pcolormesh(
            found["decay"], found["alpha"], errors, vmin=low, vmax=high, cmap="viridis_r", shading="nearest"
        )
        panel.set(xscale="log", yscale="log")
        row, column = np.unravel_index(np.argsort(errors, axis=None, kind="stable")[:BEST], errors.shape)
        panel.plot(np.asarray(found["decay"])[column], np.asarray(found["alpha"])[row], "o", color="black", ms=3)
        label = r"penalty $\lambda$" if name == "Adam, L2" else r"decay $\lambda$"
        panel.set_xlabel(label)
        if place == 0:
            panel.set_ylabel(r"rate $\alpha$")
        describe(panel, f"{name}: {errors.min():.2f} %")
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, extend="max")
    bar.set_label(f"test error (%), mean of {len(result.seeds)} seeds; dots: the {BEST} best")
    return {"maps": figure}


PAPER = Paper(
    name="loshchilov_2019",
    title="Decoupled Weight Decay Regularization",
    authors="I. Loshchilov, F. Hutter",
    year=2019,
    source="ICLR 2019, arXiv:1711.05101",
    figure="Figures 1 and 2 (test error over rate and decay), on a perceptron",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
