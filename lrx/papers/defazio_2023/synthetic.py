"""The synthetic figure: the refined schedules of gradient norms that fall and rise as they may."""

from __future__ import annotations

from typing import Any

import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.defazio_2023.shapes import late, peak, spread_counts
from lrx.papers.figures import REFERENCE, arm_style
from lrx.papers.reproduction import Claim
from lrx.records import Result

STEPS = 2000
SIGMA = 40.0  # steps, of the Gaussian that smooths the profiles
TIMES = (0, 0.003, 0.02, 0.03, 0.1, 1)  # parts of the run at which the norms are given; straight lines between them
PROFILES = {
    "constant": (1, 1, 1, 1, 1, 1),
    "falls early": (15, 6, 4, 2, 1, 1),
    "falls early, then rises": (15, 6, 4, 2, 1, 2),
    "falls early and late": (15, 6, 4, 2, 1, 0.7),
}


def profile(name: str) -> np.ndarray:
    """Return the gradient norms of the synthetic figure, (STEPS,) float64."""
    from scipy.ndimage import gaussian_filter1d  # of JAX's own dependencies

    norms = np.interp(np.linspace(0, 1, STEPS), TIMES, PROFILES[name])
    return gaussian_filter1d(norms, SIGMA, mode="nearest")


def measure() -> dict[str, Any]:
    """Refine the norms of every profile, and keep both at some steps."""
    counts = spread_counts(STEPS)
    grid = {}
    for name in PROFILES:
        norms = profile(name)
        grid[name] = {
            "norms": np.round(norms[counts], 6),
            "refined": np.round(np.asarray(lrx.refined(norms, 1.0, smoothing=0.0)(counts), np.float64), 8),
        }
    return {"counts": counts, "grid": grid}


def claims(result: Result) -> list[Claim]:
    """Check the shapes of the refined schedules."""
    places = result.array("counts") / (result.settings["grid_steps"] - 1)
    grid = {name: result.array("grid", name, "refined") for name in result.curves["grid"]}
    text = "constant norms: the refined schedule is linear decay, within 1e-6 of the peak rate"
    apart = np.max(np.abs(grid["constant"] - (1 - places)))
    found = [Claim.of_values(text, "0, and 1e-16 in float64", apart, high=1e-6)]
    text = "norms that fall over the first tenth: the peak is where they have fallen, within 0.05"
    found.append(Claim.of_values(text, "warm-up, 0.1", peak(grid["falls early"], places), 0.05, 0.15))
    text = "norms that rise late: at 0.9 of the run the rate is below linear decay's"
    found.append(Claim.of_values(text, "< 0.1", late(grid["falls early, then rises"], places), high=0.1))
    text = "norms that fall late: at 0.9 of the run the rate is above linear decay's"
    found.append(Claim.of_values(text, "> 0.1", late(grid["falls early and late"], places), 0.1))
    return found


def plot(result: Result) -> Figure:
    """Draw the norms beside their refined schedules."""
    places = result.array("counts") / (result.settings["grid_steps"] - 1)
    figure, (left, right) = panels(2)
    for place, (name, each) in enumerate(result.curves["grid"].items()):
        look = {"color": arm_style("", place)["color"], "ls": arm_style("", place)["ls"], "lw": 1.8}
        left.plot(places, each["norms"], label=name, **look)
        right.plot(places, each["refined"], **look)
    right.plot(places, 1 - places, label="linear decay", **(REFERENCE | {"zorder": 5}))
    left.plot([], [], label="linear decay", **REFERENCE)
    left.set(yscale="log", xlabel="time t / T", ylabel=r"gradient norm $G_t$, smoothed")
    right.set(xlabel="time t / T", ylabel=r"refined rate $\eta_t$ / peak")
    legend(figure, left, columns=5)
    return figure
