"""Section 2.1: how long the steps of Adam are, beside the bound of the paper and that of Cauchy and Schwarz."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import BLUE, GREEN, VERMILION, Figure, legend, panels
from lrx.papers.figures import REFERENCE, arm_style, band
from lrx.papers.kingma_2015.correction import B1, B2
from lrx.papers.reproduction import Claim
from lrx.papers.steps import largest_of_parts, last_steps, longest_steps
from lrx.records import Result
from lrx.training import Workload

QUIET_STEPS = 100_000  # of zeros, after which 1 - b2^t is 1 for every b2
LOUD_STEPS = 200  # of growing gradients, the first of which count for nothing
STEP_RATE = 1e-3  # with which the steps of a training are measured
TRAINING_STEPS = 2500


def paper_bound(b1: float, b2: float) -> float:
    """Return the bound on a step of section 2.1, over alpha."""
    return max((1 - b1) / np.sqrt(1 - b2), 1.0)


def true_bound(b1: float, b2: float) -> float:
    """Return the largest step of any sequence of gradients in a long run, over alpha; b1^2 < b2."""
    return (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))


def growing_gradients(b1: jax.Array, b2: jax.Array) -> jax.Array:
    """Return two streams of gradients, (steps, 2): zeros and then a 1, and gradients that grow by b2 / b1 a step."""
    before = jnp.arange(LOUD_STEPS - 1, -1, -1.0)  # steps until the last
    return jnp.stack([jnp.where(before == 0, 1.0, 0.0), (b1 / b2) ** before], axis=1)


def adam_of(rate: float) -> Callable[[Any, Any], optax.GradientTransformation]:
    """Return a function from b1 and b2 to Adam with a rate."""
    return lambda b1, b2: lrx.adam(rate, b1=b1, b2=b2)


def measure(workload: Workload, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Measure the steps over alpha: the last one of both streams, (b1, b2, 2), and the longest ones of a training.

    Those of the training are (b1, b2, seeds, points).
    """
    streams = last_steps(adam_of(1.0), B1, B2, growing_gradients, QUIET_STEPS)
    steps = longest_steps(workload, adam_of(STEP_RATE), B1, B2, seeds, TRAINING_STEPS)
    ends, longest = largest_of_parts(steps / STEP_RATE, 100)
    return {"streams": streams, "training": {"steps": ends, "longest": np.round(longest, 5)}}


def claims(result: Result) -> list[Claim]:
    """Compare the steps with the bound of section 2.1, and with that of Cauchy and Schwarz."""
    pairs = [(b1, b2) for b1 in result.settings["b1"] for b2 in result.settings["b2"]]
    stated = np.array([paper_bound(*pair) for pair in pairs])
    true = np.array([true_bound(*pair) for pair in pairs])
    sparse, growing = result.array("streams").reshape(-1, 2).T
    longest = result.array("training", "longest").max(axis=-1).reshape(len(pairs), -1)
    rounding = 1 + 1e-4  # of a float32 sum
    text = "section 2.1: after zeros alone the step is the bound, for any b1, b2: off by less than 1 %"
    found = [Claim.of_values(text, "0 %", 100 * np.abs(sparse / stated - 1).max(), high=1.0)]
    for b1, b2 in ((0.9, 0.999), (0.9, 0.99)):  # one of each case
        text = f"section 2.1: no step of a logistic regression is beyond the bound, b1 = {b1}, b2 = {b2}"
        values = longest[pairs.index((b1, b2))] / paper_bound(b1, b2)
        found.append(Claim.of_values(text, "<= 1", values, high=rounding))
    text = "section 2.1: nor is one for growing gradients, the worst case, for any b1, b2"
    found.append(Claim.of_values(text, "<= 1", (growing / stated).max(), high=rounding))
    text = "derived here: for growing gradients it is that of Cauchy and Schwarz, any b1, b2: off by less than 1 %"
    found.append(Claim.of_values(text, "0 %", 100 * np.abs(growing / true - 1).max(), high=1.0))
    text = "derived here: no step of the logistic regression is beyond that, for any b1, b2"
    return [*found, Claim.of_values(text, "<= 1", (longest / true[:, None]).max(axis=0), high=rounding)]


def plot(result: Result) -> Figure:
    """Draw the longest steps for each b1 and b2, and those of a training over its steps."""
    figure, (left, right) = panels(2)
    b1s, b2s = result.settings["b1"], result.settings["b2"]
    pairs = [(b1, b2) for b1 in b1s for b2 in b2s]
    places = np.arange(len(pairs))
    streams = result.array("streams").reshape(-1, 2)
    longest = result.array("training", "longest")
    look: dict[str, Any] = {"color": "black", "lw": 1.0, "zorder": 1}
    for bound, label, ls in (
        (paper_bound, "bound of section 2.1", "-"),
        (true_bound, "Cauchy and Schwarz", (0, (2, 2))),
    ):
        left.hlines([bound(*pair) for pair in pairs], places - 0.4, places + 0.4, label=label, ls=ls, **look)
    for shift, values, label, marker, color in (
        (-0.2, streams[:, 0], "one gradient after zeros", "o", BLUE),
        (0.0, streams[:, 1], "growing gradients", "^", VERMILION),
        (0.2, longest.max(axis=(-1, -2)).ravel(), "logistic regression, all coordinates and steps", "s", GREEN),
    ):
        left.plot(places + shift, values, marker, color=color, ms=6, label=label)
    left.set_xticks(places, [f"{b1:g}\n{b2:g}" for b1, b2 in pairs])
    left.set(xlabel="b1, b2", ylabel="longest step over alpha")
    steps = result.curves["training"]["steps"]
    for place, b2 in enumerate(b2s):
        label = f"{b1s[-1]:g}, {b2:g}"
        band(right, steps, longest[-1, place], label, place)
        right.axhline(paper_bound(b1s[-1], b2), **REFERENCE | {"color": arm_style(label, place)["color"]})
    right.legend(title="b1, b2", loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9)
    right.set(xlabel="steps t of the logistic regression", ylabel="longest step of a coordinate over alpha")
    for axes in (left, right):
        axes.set_yscale("log")
    legend(figure, left, columns=3)
    return figure
