"""Fixed steps: 1 / L converges, more than 2 / L diverges, noise requires 1 / sqrt T and helps to escape from saddles.

A. Cauchy, "Methode generale pour la resolution des systemes d'equations simultanees", Comptes rendus 25, 1847, pages
536-538, is the origin of gradient descent. The theorems that are checked came later: Y. Nesterov, "Introductory
Lectures on Convex Optimization", 2004, and R. Ge et al., 2015, arXiv:1503.02101:

    f convex, L-smooth, alpha = 1 / L       f(x_k) - f* <= L ||x_0 - x*||^2 / (2 k); alpha > 2 / L diverges
    E |g|^2 <= G^2, alpha = D / (G sqrt T)   mean gap over T steps <= D G / sqrt T, nearly equal on |x|
    a saddle of curvature -1, noise s        the escape takes about log(1 / (alpha s)) / alpha steps, or forever

    lrx reproduce cauchy_1847                     half a minute on 2 CPU cores
    lrx reproduce cauchy_1847 --scale cpu         ten times as many runs

Differs from the source: the text of 1847 has neither figure nor rate; functions and noise are ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import VERMILION, Figure, legend, panels
from lrx.papers.descent import descend, log_spaced
from lrx.papers.figures import REFERENCE, arm_style, band
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.statistics import slope
from lrx.records import Result

SEEDS = (0, 1, 2, 3, 4)


class Size(NamedTuple):
    """The number of runs."""

    runs: int  # of each seed


SCALES = {
    "demo": Scale(
        "a quadratic, |x| with noise to T = 10^5, a saddle; 5 seeds of 40 runs",
        "20 s, 2 CPU cores",
        Size(40),
        seeds=SEEDS,
    ),
    "cpu": Scale("the same, 5 seeds of 400 runs", "2 minutes, 2 CPU cores", Size(400), seeds=SEEDS),
    "paper": Scale("as cpu: a theorem has no size of its own", "2 minutes, 2 CPU cores", Size(400), seeds=SEEDS),
}
EIGENVALUES = np.geomspace(1e-8, 1, 200)  # so L = 1
FACTORS = (0.1, 1.0, 1.9, 2.1)  # of 1 / L
STEPS = 1000
HORIZONS = (100, 1000, 10_000, 100_000)
NOISE = 1.0  # standard deviation, beside a subgradient of 1: G^2 = 2
SADDLE_RATES = (0.01, 0.03, 0.1)
SADDLE_NOISE = 0.01
SADDLE_STEPS = 3000
ESCAPED = 0.5  # |y|; the minima are at 1


def quadratic(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return value and gradient of a quadratic whose condition number is practically infinite."""
    del key
    eigenvalues = jnp.asarray(EIGENVALUES, jnp.float32)
    return 0.5 * jnp.sum(eigenvalues * x**2), eigenvalues * x


def absolute(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return |x| and a subgradient with noise."""
    return jnp.abs(x), jnp.sign(x) + NOISE * jax.random.normal(key)


def saddle(noise: float) -> Any:
    """Return the function that gives value and noisy gradient of x^2 / 2 - y^2 / 2 + y^4 / 4."""

    def gradient(point: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, y = point
        value = 0.5 * (x**2 - y**2) + 0.25 * y**4
        return value, jnp.stack([x, y**3 - y]) + noise * jax.random.normal(key, (2,))

    return gradient


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure gaps on a quadratic and on |x|, and the times of escape from a saddle."""
    keys = jnp.stack([jax.random.split(jax.random.key(seed), size.runs) for seed in job.seeds])  # (seeds, runs)
    start_keys = keys[:, 0]

    counts = log_spaced(STEPS, 100)
    curves: dict[str, Any] = {"steps": counts, "gaps": {}, "growth": {}}
    for factor in FACTORS:
        tx = lrx.sgd(factor)

        def one(key: jax.Array, tx: Any = tx) -> tuple[jax.Array, jax.Array]:
            start = jax.random.normal(key, EIGENVALUES.shape)
            values, norms = descend(quadratic, tx, start, counts, lambda x: (quadratic(x, key)[0], jnp.linalg.norm(x)))
            square = jnp.sum(start**2)
            return values / square, norms / jnp.sqrt(square)  # the bound is then L / (2 k)

        gaps, norms = jax.jit(jax.vmap(one))(start_keys)
        at_200 = int(np.searchsorted(counts, 200))
        curves["gaps"][f"{factor:g} / L"] = np.asarray(gaps)
        curves["growth"][f"{factor:g} / L"] = np.asarray(norms)[:, : at_200 + 1].max(axis=1)

    curves["horizons"], curves["mean_gap"] = HORIZONS, []
    for horizon in HORIZONS:
        tx = lrx.sgd(1 / np.sqrt((1 + NOISE**2) * horizon))

        def mean_gap(key: jax.Array, tx: Any = tx, horizon: int = horizon) -> jax.Array:
            return jnp.mean(descend(absolute, tx, jnp.float32(1), np.arange(horizon), jnp.abs, key))

        by_run = jax.jit(jax.vmap(mean_gap))
        curves["mean_gap"].append([float(np.mean(by_run(each))) for each in keys])

    drawn = log_spaced(SADDLE_STEPS, 150)
    curves["escape"], curves["paths"], curves["path_steps"] = {}, {}, drawn
    every = np.arange(1, SADDLE_STEPS + 1)
    start = jnp.array([0.5, 0.0])
    for rate in SADDLE_RATES:

        def path(key: jax.Array, rate: float = rate) -> jax.Array:
            return descend(saddle(SADDLE_NOISE), lrx.sgd(rate), start, every, lambda point: jnp.abs(point[1]), key)

        paths = np.stack([np.asarray(jax.jit(jax.vmap(path))(each)) for each in keys])
        out = paths > ESCAPED
        times = np.where(out.any(axis=-1), 1.0 + np.argmax(out, axis=-1), np.inf)
        curves["escape"][f"{rate:g}"] = times.mean(axis=1)
        curves["paths"][f"{rate:g}"] = np.median(paths, axis=(0, 1))[drawn - 1]
    quiet = jax.jit(lambda: descend(saddle(0.0), lrx.sgd(0.1), start, every, lambda point: jnp.abs(point[1])))
    curves["without_noise"] = float(np.max(quiet()))
    return size._asdict(), curves


def claims(result: Result) -> list[Claim]:
    """Compare with the bounds, the slopes and the order of the escapes."""
    curves = result.curves
    steps = result.array("steps")
    gaps = {name: result.array("gaps", name) for name in curves["gaps"]}
    later = steps >= 10
    ratio = np.max(gaps["1 / L"] * 2 * steps[None], axis=1)
    slopes = [slope(steps[later], each[later]) for each in gaps["1 / L"]]
    horizons = result.array("horizons")
    by_seed = result.array("mean_gap").T
    to_bound = by_seed / np.sqrt((1 + NOISE**2) / horizons)[None]
    escape = {rate: result.array("escape", rate) for rate in curves["escape"]}
    slow, middle, fast = (escape[f"{rate:g}"] for rate in SADDLE_RATES)
    return [
        Claim.of_values(
            "alpha = 1/L: the gap over its bound L D^2 / (2 k), at most 1 at every step", "<= 1", ratio, high=1
        ),
        Claim.of_values("alpha = 1/L: slope of the gap from 10 steps on, -1 ± 0.1", "-1", slopes, -1.1, -0.9),
        Claim.of_values("alpha = 1.9/L: the distance never grows", "<= 1", curves["growth"]["1.9 / L"], high=1),
        Claim.of_values(
            "alpha = 2.1/L diverges: the distance grows tenfold within 200 steps",
            "> 10",
            curves["growth"]["2.1 / L"],
            10,
        ),
        Claim.of_values(
            "noise, alpha = D / (G sqrt T): the mean gap over its bound, which |x| attains, 1 ± 0.05",
            "1",
            to_bound[:, np.argmax(np.abs(to_bound.mean(axis=0) - 1))],
            0.95,
            1.05,
        ),
        Claim.of_values(
            "the same: slope of the gap over T, -0.5 ± 0.1",
            "-0.5",
            [slope(horizons, each) for each in by_seed],
            -0.6,
            -0.4,
        ),
        Claim.of_values(
            "saddle: steps to escape at rate 0.03 over those at 0.01, below 1", "< 1", middle / slow, high=1
        ),
        Claim.of_values(
            "saddle: steps to escape at rate 0.1 over those at 0.03, below 1", "< 1", fast / middle, high=1
        ),
        Claim.of_values("saddle, no noise: |y| stays 0", "0", curves["without_noise"], high=0),
    ]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the gaps over steps and over T, and the way out of the saddle."""
    figure, (first, second, third) = panels(3)
    curves = result.curves
    steps = result.array("steps")
    for place, name in enumerate(curves["gaps"]):
        shown = np.minimum(result.array("gaps", name), 1e3)
        band(first, steps, shown, rf"$\alpha = {name}$", place)
    first.plot(steps, 1 / (2 * steps), label="bound", **REFERENCE)
    first.set_ylim(3e-5, 30)
    first.set(xlabel="steps k", ylabel=r"gap over $L\,D^2$")
    horizons = result.array("horizons")
    band(second, horizons, result.array("mean_gap").T, "gradient descent", marker="o", ms=4)
    second.plot(horizons, np.sqrt((1 + NOISE**2) / horizons), **REFERENCE | {"zorder": 3, "color": VERMILION})
    second.set(xlabel="steps T of the run", ylabel=r"mean gap, $\alpha = D / (G \sqrt{T})$")
    points = curves["path_steps"]
    for place, (rate, path) in enumerate(curves["paths"].items()):
        third.plot(points, path, **arm_style(rate, place), lw=1.6)
        at = int(np.argmax(np.asarray(path) > ESCAPED))
        third.annotate(rate, (points[at], ESCAPED), xytext=(-5, 4), textcoords="offset points", ha="right", fontsize=8)
    third.axhline(ESCAPED, **REFERENCE)
    third.set(xlabel="steps", ylabel="|y|, median of the runs, by rate")
    for axes in (first, second, third):
        axes.set(xscale="log", yscale="log")
    legend(figure, first, columns=5)
    return {"descent": figure}


PAPER = Paper(
    name="cauchy_1847",
    title="Methode generale pour la resolution des systemes d'equations simultanees",
    authors="A. Cauchy",
    year=1847,
    source="Comptes rendus 25, 536-538",
    figure="the theorems on fixed steps, as gaps over steps",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
