"""Figure 4: a variational autoencoder with and without the bias correction, over b1, b2 and alpha."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.figures import band, describe
from lrx.papers.reproduction import Claim, Job
from lrx.papers.runs import strategy_of_networks, sweep_seeds
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload

B1, B2 = (0.0, 0.9), (0.99, 0.999, 0.9999)
RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def measure(workload: Workload, job: Job, epochs: int) -> np.ndarray:
    """Train with each b1, b2 and alpha, with and without correction; return the losses of the last tenth of the steps.

    Their axes are (b1, b2, 2, alpha, seeds).
    """
    num_steps = epochs * workload.batches.steps_per_epoch

    def make(b1: Any, b2: Any, corrected: Any, rate: Any) -> optax.GradientTransformation:
        factors = jnp.where(corrected == 1, 1.0, uncorrection(b1, b2, num_steps))
        return lrx.adam(lrx.tabulated(factors) * rate, b1=b1, b2=b2)

    grid = {"b1": B1, "b2": B2, "corrected": (1, 0), "rate": RATES}
    name, strategy = "autoencoder", strategy_of_networks()
    swept = sweep_seeds(workload, make, grid, job, name, num_steps=num_steps, title=name, strategy=strategy)
    return round_to_six_digits(swept.final_loss)


def uncorrection(b1: Any, b2: Any, num_steps: int) -> jax.Array:
    """Return (1 - b1^t) / sqrt(1 - b2^t), t = 1, 2, ...: the step without correction over that with it."""
    t = jnp.arange(1, num_steps + 1)
    return -jnp.expm1(t * jnp.log(b1)) / jnp.sqrt(-jnp.expm1(t * jnp.log(b2)))


def losses_of(result: Result) -> np.ndarray:
    """Return the autoencoder's losses, (b1, b2, 2, alpha, seeds); infinite if a run diverged."""
    losses = result.array("autoencoder")
    return np.where(np.isnan(losses), np.inf, losses)


def claims(result: Result) -> list[Claim]:
    """Compare with and without bias correction."""
    losses, found = losses_of(result), []
    large = np.asarray(result.settings["rates"]) > 5e-4
    for b1, by_b2 in zip(result.settings["b1"], losses, strict=True):
        corrected, uncorrected = by_b2[-1][:, large]
        worse = np.isfinite(corrected) & (uncorrected > corrected)
        text = f"figure 4, b1 = {b1:g}, b2 = 0.9999: without correction it diverges or is worse at every alpha >= 1e-3"
        found.append(Claim.of_values(text, "all of them", worse.mean(axis=0), low=1.0))
    best = losses.min(axis=3)  # over alpha: (b1, b2, 2, seeds)
    text = "figure 4: the loss with correction over that without, each at its best alpha, at most 1.02 for any b1, b2"
    found.append(Claim.of_values(text, "<= 1", (best[:, :, 0] / best[:, :, 1]).max(axis=(0, 1)), high=1.02))
    return found


def plot(result: Result) -> Figure:
    """Draw the autoencoder's loss over alpha for each b1 and b2, with and without correction."""
    b1s, b2s, rates = (result.settings[name] for name in ("b1", "b2", "rates"))
    figure, places = panels(len(b2s), rows=len(b1s), sharex=True, sharey=True)
    figure.set_size_inches(10, 6)
    losses = losses_of(result)
    shown = losses[np.isfinite(losses)]
    for place, axes in enumerate(places):
        row, column = divmod(place, len(b2s))
        for kind, label in enumerate(("Adam", "Adam without bias correction")):
            values = np.where(np.isinf(losses[row, column, kind]), 1e9, losses[row, column, kind])
            band(axes, rates, values.T, label, 1, marker="o", ms=3)
        describe(axes, f"b1 = {b1s[row]:g}, b2 = {b2s[column]:g}", xscale="log")
        axes.set(xlabel="alpha", ylabel="loss, nats an image")
        axes.label_outer()
    places[0].set_ylim(0.9 * shown.min(), 1.1 * np.median(losses[:, :, 0, 0]))
    legend(figure, places[0])
    return figure
