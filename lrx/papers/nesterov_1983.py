"""Nesterov's method: O(1 / k^2), which no method that sees only gradients can beat by more than a constant.

Y. E. Nesterov, "A method for solving the convex programming problem with convergence rate O(1/k^2)", Soviet Mathematics
Doklady 27, 1983, pages 372-376. With y_1 = x_0, t_1 = 1 and an L-smooth convex f,

    x_k = y_k - (1/L) grad f(y_k),   t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2
    y_{k+1} = x_k + ((t_k - 1) / t_{k+1}) (x_k - x_{k-1})

has f(x_k) - f* <= 2 L ||x_0 - x*||^2 / (k + 1)^2. On the worst function, of n = 2 k + 1 variables, a chain of springs

    f(x) = L/4 (x_1^2 / 2 + sum (x_i - x_{i+1})^2 / 2 + x_n^2 / 2 - x_1),

no method that adds up gradients is below 3 L ||x_0 - x*||^2 / (32 (k + 1)^2) after k steps: Y. Nesterov, "Introductory
Lectures on Convex Optimization", 2004, theorem 2.1.7. The paper has no figure; the figures here show the two bounds
with three methods, and the slopes on a quadratic whose condition number is practically infinite.

    lrx reproduce nesterov_1983                   k = 100: some seconds on 2 CPU cores
    lrx reproduce nesterov_1983 --scale cpu       k = 500

Differs from the source: the heavy ball, drawn for comparison, has Nesterov's momentum, since the function has no mu
from which to choose it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.descent import descend, log_spaced
from lrx.papers.figures import REFERENCE, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.statistics import around, slope
from lrx.records import Result


class Size(NamedTuple):
    """The number of steps."""

    steps: int  # on the worst function, which has twice as many variables, and one


SCALES = {
    "demo": Scale("the worst function of 201 variables, a quadratic of 200", "a few seconds, 2 CPU cores", Size(100)),
    "cpu": Scale("the worst function of 1,001 variables, a quadratic of 200", "half a minute, 2 CPU cores", Size(500)),
    "paper": Scale("as cpu: a theorem has no size of its own", "half a minute, 2 CPU cores", Size(500)),
}
QUADRATIC_STEPS = 1000
EIGENVALUES = np.geomspace(1e-8, 1, 200)
# Gaps after 100 steps, for L = 1 and x_0 = 0, computed once by a NumPy transcription in float64.
TRANSCRIBED_STEPS = 100
TRANSCRIBED = {"gradient descent": 9.32e-3, "Nesterov": 1.977e-3}


def momenta(steps: int) -> np.ndarray:
    """Return the momentum of each step: 0 for the first, then (t_k - 1) / t_{k+1} for k = 1, 2, ..."""
    t = [1.0]
    for _ in range(steps - 1):
        t.append((1 + np.sqrt(1 + 4 * t[-1] ** 2)) / 2)
    return np.concatenate([[0.0], (np.array(t[:-1]) - 1) / np.array(t[1:])])


def methods(steps: int) -> dict[str, Any]:
    """Return the three methods for L = 1."""
    betas = lrx.tabulated(momenta(steps + 1))  # of counts from 0 on, and of the one that follows the last
    return {
        "gradient descent": lrx.sgd(1.0),
        "heavy ball": lrx.heavy_ball(1.0, momentum=betas),
        "Nesterov": lrx.nesterov(1.0, momentum=betas),
    }


def worst_gradient(x: jax.Array) -> jax.Array:
    """Return the gradient of the worst function, for L = 1."""
    inside = jnp.pad(x, 1)
    springs = (2 * x - inside[:-2] - inside[2:]) / 4
    return springs.at[0].add(-0.25)


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the gaps of three methods on the worst function and on a quadratic."""
    steps, variables = size.steps, 2 * size.steps + 1
    solution = jnp.asarray(1 - np.arange(1, variables + 1) / (variables + 1), jnp.float32)

    def worst(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return jnp.float32(0), worst_gradient(x)  # no method here looks at the value

    def worst_gap(x: jax.Array) -> jax.Array:
        # As a quadratic form of the distance, where nothing cancels.
        distance = jnp.pad(x - solution, 1)
        return jnp.sum((distance[1:] - distance[:-1]) ** 2) / 8

    eigenvalues = jnp.asarray(EIGENVALUES, jnp.float32)

    def quadratic(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return jnp.float32(0), eigenvalues * x

    def quadratic_gap(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(eigenvalues * x**2)

    counts = np.arange(1, steps + 1)
    curves: dict[str, Any] = {"steps": counts, "worst": {}, "quadratic_steps": [], "quadratic": {}}
    for name, tx in methods(steps).items():
        gap = jax.jit(lambda tx=tx: descend(worst, tx, jnp.zeros(variables), counts, worst_gap))
        curves["worst"][name] = np.asarray(gap())
    long = log_spaced(QUADRATIC_STEPS, 100)
    curves["quadratic_steps"] = long
    keys = jnp.stack([jax.random.key(seed) for seed in job.seeds])
    for name, tx in methods(QUADRATIC_STEPS).items():
        if name == "heavy ball":
            continue

        def one(key: jax.Array, tx: Any = tx) -> jax.Array:
            return descend(quadratic, tx, jax.random.normal(key, EIGENVALUES.shape), long, quadratic_gap)

        curves["quadratic"][name] = np.asarray(jax.jit(jax.vmap(one))(keys))
    settings = {"steps": steps, "distance": float(jnp.sum(solution**2))}
    return settings, curves


def bounds(result: Result) -> tuple[np.ndarray, float]:
    """Return the upper bound for each number of steps, and the lower one for the last."""
    steps = result.array("steps")
    distance = result.settings["distance"]
    return 2 * distance / (steps + 1) ** 2, 3 * distance / (32 * (steps[-1] + 1) ** 2)


def claims(result: Result) -> list[Claim]:
    """Compare with the upper and the lower bound, and with the slopes."""
    steps = result.array("steps")
    gaps = {name: result.array("worst", name) for name in result.curves["worst"]}
    upper, lower = bounds(result)
    last = int(steps[-1])
    found = [
        Claim.of_values(
            "Nesterov's gap over the upper bound, at most 1 at every step",
            "<= 1",
            np.max(gaps["Nesterov"] / upper),
            high=1,
        )
    ]
    for name, values in gaps.items():
        text = f"the worst function: the gap of {name} after {last} steps over the lower bound, at least 1"
        found.append(Claim.of_values(text, ">= 1", values[-1] / lower, 1))
    later = steps >= 10
    found.append(
        Claim.of_values(
            "Nesterov's gap over that of gradient descent, below 1 from 10 steps on",
            "< 1",
            np.max(gaps["Nesterov"][later] / gaps["gradient descent"][later]),
            high=1,
        )
    )
    if last == TRANSCRIBED_STEPS:
        for name, value in TRANSCRIBED.items():
            text = f"the gap of {name} after {last} steps is that of a transcription, within 1 %"
            found.append(Claim.of_values(text, f"{value:.4g}", gaps[name][-1], *around(value, 0.01)))
    long = result.array("quadratic_steps")
    half = long >= 10
    slopes = {
        name: [slope(long[half], each[half]) for each in result.array("quadratic", name)]
        for name in result.curves["quadratic"]
    }
    text = "eigenvalues 1e-8 to 1: slope of the gap from 10 steps on"
    found.append(Claim.of_values(f"{text}, Nesterov, at most -1.8", "-2", slopes["Nesterov"], high=-1.8))
    found.append(
        Claim.of_values(f"{text}, gradient descent, at least -1.3", "-1", slopes["gradient descent"], low=-1.3)
    )
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw the gaps of both functions over steps, with the bounds."""
    figure, (left, right) = panels(2)
    steps = result.array("steps")
    for name, values in result.curves["worst"].items():
        band(left, steps, [values], name)
    upper, lower = bounds(result)
    left.plot(steps, upper, label="bounds", **REFERENCE)
    left.plot(steps[-1:], [lower], "v", color="black", ms=6, label="lower bound, any method")
    describe(left, "the worst function")
    long = result.array("quadratic_steps")
    for name, by_seed in result.curves["quadratic"].items():
        band(right, long, by_seed, name)
        middle = np.median(np.asarray(by_seed), axis=0)
        order = 2 if name == "Nesterov" else 1
        right.plot(long, middle[-1] * (long / long[-1]) ** -order, **REFERENCE)
        right.annotate(
            f"$1/k{'^2' if order == 2 else ''}$", (long[30], middle[-1] * (long[30] / long[-1]) ** -order * 1.6)
        )
    describe(right, "a quadratic, eigenvalues 1e-8 to 1")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="steps k")
    left.set_ylabel(r"gap $f(x_k) - f^*$")
    legend(figure, left, columns=5)
    return {"gap": figure}


PAPER = Paper(
    name="nesterov_1983",
    title="A method for solving the convex programming problem with convergence rate O(1/k^2)",
    authors="Y. E. Nesterov",
    year=1983,
    source="Soviet Mathematics Doklady 27, 372-376",
    figure="the bounds, and the gap over the number of steps",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
