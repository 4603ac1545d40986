"""Section 3.3 and figure 3: a short run whose rate rises, and the bounds of the cycle that are read from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import lrx
from lrx.figures import Figure, panels
from lrx.papers.figures import arm_style, describe
from lrx.records import Result
from lrx.training import Workload, train

PUBLISHED_BOUNDS = (0.001, 0.006)  # for CIFAR-10


def measure(
    workload: Workload,
    make: Callable[[lrx.Schedule], optax.GradientTransformation],
    *,
    steps: int,
    highest: float,
    seed: int,
    progress: bool | str,
) -> dict[str, Any]:
    """Train with a rate that rises linearly from 0, for one short run, and record the accuracy.

    Args:
      workload: what is trained.
      make: rate to method.
      steps: length of the run.
      highest: the rate at its end.
      seed: of the run.
      progress: as for `lrx.train`.
    """
    rising = lrx.linear_decay(0.0, steps, end_value=highest)
    history = train(
        workload,
        make(rising),
        steps=steps,
        seed=seed,
        evaluate_every=max(steps // 80, 1),
        progress=progress,
        stop_on_nonfinite=False,  # the end of a range test may diverge
    )
    times = history.evaluation_steps
    return {
        "steps": times.tolist(),
        "rate": np.asarray(rising(times)).tolist(),
        "accuracy": history.evaluations["accuracy"].tolist(),
    }


def read_bounds(rates: np.ndarray, accuracies: np.ndarray) -> tuple[float, float]:
    """Read the cycle's bounds from a range test by the rule of section 3.3.

    The upper bound is where the accuracy, smoothed over five evaluations, stops rising: the smallest rate at which it
    is within a point of its highest. The lower bound is a quarter of that ("one third or one fourth").
    """
    smooth = np.convolve(np.pad(accuracies, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    high = float(rates[int(np.argmax(smooth >= smooth.max() - 0.01))])
    return high / 4, high


def plot(result: Result, title: str) -> Figure:
    """Draw the test accuracy over the rising rate, and the bounds of the cycle."""
    figure, (axes,) = panels(size=(8.0, 3.6))
    accuracy = 100 * result.array("range_test", "accuracy")
    axes.plot(result.array("range_test", "rate"), accuracy, color=arm_style("triangular2", 0)["color"], lw=1.6)
    bounds = tuple(result.settings["bounds"])
    axes.axvspan(*bounds, color=arm_style("decay", 0)["color"], alpha=0.15, lw=0)
    origin = "the paper's" if bounds == PUBLISHED_BOUNDS else "read from this test"
    text = f"bounds of the cycle, {origin}: {bounds[0]:.3g} to {bounds[1]:.3g}"
    beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "fontsize": 9}
    axes.annotate(text, (bounds[1], 0.08), xycoords=("data", "axes fraction"), **beside)
    describe(axes, f"Figure 3: range test, {title}")
    axes.set(xlabel="learning rate, rising linearly", ylabel="test accuracy (%)")
    return figure
