"""Gain sequences: with noisy gradients the gains must fall, neither too slowly nor too fast.

H. Robbins, S. Monro, "A Stochastic Approximation Method", Annals of Mathematical Statistics 22(3), 1951, pages
400-407. The theorem: theta_{n+1} = theta_n - a_n Y_n converges if sum a_n diverges and sum a_n^2 converges. It has no
figure; its statement is checked here for f(theta) = mu theta^2 / 2 with noise of unit variance on the gradient:

    a_n = c / n      E theta_n^2 ~ c^2 / ((2 c mu - 1) n), if c mu > 1/2; ~ n^(-2 c mu) below
    a_n = a          a plateau, a / (mu (2 - a mu))
    a_n = c / n^2    summable: it stalls at theta_1^2 prod (1 - c mu / n^2)^2 and more

    lrx reproduce robbins_1951                    10^5 steps, 5 seeds of 200 runs: half a minute on 2 CPU cores
    lrx reproduce robbins_1951 --scale cpu        10^6 steps, 5 seeds of 200 runs

Differs from the source: the theorem leaves the gains free; c mu = 1, 0.2 and 0.5 and a mu = 0.1 are ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.descent import descend, log_spaced
from lrx.papers.figures import REFERENCE, band
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.statistics import slope
from lrx.records import Result

SEEDS = (0, 1, 2, 3, 4)


class Size(NamedTuple):
    """The number of steps."""

    steps: int


SCALES = {
    "demo": Scale("10^5 steps, 5 seeds of 200 runs", "half a minute, 2 CPU cores", Size(10**5), seeds=SEEDS),
    "cpu": Scale("10^6 steps, 5 seeds of 200 runs", "3 minutes, 2 CPU cores", Size(10**6), seeds=SEEDS),
    "paper": Scale("as cpu: a theorem has no size of its own", "3 minutes, 2 CPU cores", Size(10**6), seeds=SEEDS),
}
RUNS = 200  # of each seed; their mean square is the error
START = 10.0
MU = 1.0
GAINS: dict[str, lrx.Schedule] = {
    "1 / n": lrx.inverse_time_decay(1.0, 1.0),  # of count n - 1
    "0.2 / n": lrx.inverse_time_decay(0.2, 1.0),
    "0.1": lrx.constant(0.1),
    "0.5 / n^2": lrx.inverse_time_decay(0.5, 1.0, power=2.0),
}


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the mean square error over the number of steps for each sequence of gains."""
    counts = log_spaced(size.steps, 60)

    def gradient(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 0.5 * MU * theta**2, MU * theta + jax.random.normal(key)

    curves: dict[str, Any] = {"steps": counts, "errors": {}}
    for name, gain in GAINS.items():
        tx = lrx.sgd(gain)

        def one(key: jax.Array, tx: Any = tx) -> jax.Array:
            return descend(gradient, tx, jnp.float32(START), counts, jnp.square, key)

        squares = jax.jit(jax.vmap(one))
        curves["errors"][name] = np.stack(
            [np.mean(squares(jax.random.split(jax.random.key(seed), RUNS)), axis=0) for seed in job.seeds]
        )
    settings = {"steps": size.steps, "runs": RUNS, "start": START, "mu": MU}
    return settings, curves


def claims(result: Result) -> list[Claim]:
    """Compare slopes and plateaus with the theorem."""
    steps = result.array("steps")
    errors = {name: result.array("errors", name) for name in result.curves["errors"]}
    late = steps >= steps[-1] / 100
    tenth = int(np.argmin(np.abs(steps - steps[-1] / 10)))

    def slopes(name: str) -> np.ndarray:
        return np.array([slope(steps[late], each[late]) for each in errors[name]])

    right, small = slopes("1 / n"), slopes("0.2 / n")
    plateau = errors["0.1"][:, -1] / errors["0.1"][:, tenth]
    stalled = np.sqrt(errors["0.5 / n^2"][:, -1]) / START
    return [
        Claim.of_values(
            "a_n = 1/n: slope of log E theta^2 over log n, last two decades, -1 ± 0.1", "-1", right, -1.1, -0.9
        ),
        Claim.of_values("a_n = 0.2/n, too small: slope -2 c mu ± 0.1", "-0.4", small, -0.5, -0.3),
        Claim.of_values(
            "a_n = 0.1: the error of the last step is above 0.8 of that a decade before", "1", plateau, 0.8
        ),
        Claim.of_values("a_n = 0.5/n^2 stalls: more than 0.1 of the distance is left", "0.36", stalled, 0.1),
    ]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the error over the number of steps, with the theory."""
    figure, (axes,) = panels()
    steps = result.array("steps")
    for place, (name, errors) in enumerate(result.curves["errors"].items()):
        band(axes, steps, errors, f"$a_n = {name.replace('^2', '^{2}')}$", place)
    late = steps >= 30
    axes.plot(steps[late], 1 / steps[late], label="theory", **REFERENCE)
    axes.plot(
        steps[late],
        np.median(result.curves["errors"]["0.2 / n"], axis=0)[-1] * (steps[late] / steps[-1]) ** -0.4,
        **REFERENCE,
    )
    axes.axhline(0.1 / (MU * (2 - 0.1 * MU)), **REFERENCE)
    root = np.sqrt(0.5 * MU)
    axes.axhline((START * np.sin(np.pi * root) / (np.pi * root)) ** 2, **REFERENCE)
    axes.set(xscale="log", yscale="log", xlabel="steps n", ylabel=r"mean square error $E\,\theta_n^2$")
    legend(figure, axes, columns=3)
    return {"error": figure}


PAPER = Paper(
    name="robbins_1951",
    title="A Stochastic Approximation Method",
    authors="H. Robbins, S. Monro",
    year=1951,
    source="Annals of Mathematical Statistics 22(3), 400-407",
    figure="the theorem, as the error over the number of steps",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
