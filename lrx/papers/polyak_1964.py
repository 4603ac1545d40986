"""Heavy ball: on quadratics momentum replaces the condition number by its square root; on other functions it may cycle.

B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Computational Mathematics and
Mathematical Physics 4(5), 1964, pages 1-17. On a quadratic with eigenvalues from mu to L, kappa = L / mu, gradient
descent with alpha = 2 / (L + mu) and heavy ball with

    alpha = 4 / (sqrt L + sqrt mu)^2,   beta = ((sqrt kappa - 1) / (sqrt kappa + 1))^2

reduce the distance per step by (kappa - 1) / (kappa + 1) and (sqrt kappa - 1) / (sqrt kappa + 1). The paper has no
figure. The counter-example is from L. Lessard, B. Recht, A. Packard, "Analysis and Design of Optimization Algorithms
via Integral Quadratic Constraints", 2016, arXiv:1408.3595, section 4.6: f' = 25 x below 1, x + 24 up to 2, 25 x - 24
above.

    lrx reproduce polyak_1964                     kappa up to 1,000: some seconds on 2 CPU cores
    lrx reproduce polyak_1964 --scale cpu         kappa up to 10,000

Differs from the source: heavy ball's iteration has a double root at the optimal rate, so that the distance falls
as t rho^t, and rho is fitted with the factor t.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.descent import descend, log_spaced
from lrx.papers.figures import REFERENCE, arm_style, band
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.statistics import around
from lrx.records import Result


class Size(NamedTuple):
    """The condition numbers of the quadratics."""

    conditions: tuple[float, ...]  # kappa = L / mu


SCALES = {
    "demo": Scale("50 variables, kappa 10, 100, 1,000", "a few seconds, 2 CPU cores", Size((10, 100, 1000))),
    "cpu": Scale("50 variables, kappa 10 to 10,000", "a few seconds, 2 CPU cores", Size((10, 100, 1000, 10_000))),
    "paper": Scale(
        "as cpu: a theorem has no size of its own", "a few seconds, 2 CPU cores", Size((10, 100, 1000, 10_000))
    ),
}
VARIABLES = 50
TARGET = 1e-6  # of the first distance, to which steps are counted
END = 1e-14  # of the first distance, up to which the factor is fitted: the transient is long over
DRAWN = 120  # points of a curve, about
METHODS = ("gradient descent", "heavy ball")
CYCLE_START, CYCLE_STEPS = 3.3, 300


def rates(kappa: float) -> dict[str, tuple[float, float, float]]:
    """Return alpha, beta and the theoretical factor per step of each method, for mu = 1 and L = kappa."""
    root = np.sqrt(kappa)
    return {
        "gradient descent": (2 / (kappa + 1), 0.0, (kappa - 1) / (kappa + 1)),
        "heavy ball": (4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2, (root - 1) / (root + 1)),
    }


def counter_example(x: jax.Array) -> jax.Array:
    """Return the derivative of a function between x^2 / 2 and 25 x^2 / 2 on which heavy ball cycles."""
    return jnp.where(x < 1, 25 * x, jnp.where(x < 2, x + 24, 25 * x - 24))


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure distances over steps for each condition number, and the counter-example."""
    curves: dict[str, Any] = {"conditions": {}}
    for kappa in size.conditions:
        eigenvalues = jnp.asarray(np.geomspace(1, kappa, VARIABLES), jnp.float32)

        def gradient(x: jax.Array, key: jax.Array, eigenvalues: jax.Array = eigenvalues) -> tuple[jax.Array, jax.Array]:
            del key
            return 0.5 * jnp.sum(eigenvalues * x**2), eigenvalues * x

        arms = {}
        for name, (alpha, beta, factor) in rates(kappa).items():
            tx = lrx.heavy_ball(alpha, momentum=beta)
            last = int(1.3 * np.log(END) / np.log(factor)) + 10  # t rho^t takes longer than rho^t

            def one(key: jax.Array, tx: Any = tx, last: int = last, gradient: Any = gradient) -> jax.Array:
                start = jax.random.normal(key, (VARIABLES,))
                return descend(gradient, tx, start, np.arange(last + 1), jnp.linalg.norm) / jnp.linalg.norm(start)

            keys = jnp.stack([jax.random.key(seed) for seed in job.seeds])
            distances = np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)
            points = np.concatenate([[0], log_spaced(last, DRAWN)])
            arms[name] = {
                "factor": [fit_factor(each, double_root=beta > 0) for each in distances],
                "steps_to_target": [int(np.argmax(each <= TARGET)) for each in distances],
                "steps": points,
                "distance": distances[:, points],
            }
        curves["conditions"][str(kappa)] = arms

    def plain(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return x, counter_example(x)  # no method here looks at the value

    alpha, beta, _ = rates(25.0)["heavy ball"]
    counts = np.arange(CYCLE_STEPS + 1)
    start = jnp.float32(CYCLE_START)
    methods = {"gradient descent": lrx.sgd(2 / 26), "heavy ball": lrx.heavy_ball(alpha, momentum=beta)}
    curves["counter_example"] = {
        name: np.asarray(jax.jit(lambda tx=tx: descend(plain, tx, start, counts, lambda x: x))())
        for name, tx in methods.items()
    }
    return {"conditions": list(size.conditions)}, curves


def fit_factor(distances: np.ndarray, *, double_root: bool) -> float:
    """Return rho of distances that fall as rho^t, or as t rho^t, fitted to the second half of the steps."""
    last = int(np.argmax(distances <= END)) or len(distances) - 1
    steps = np.arange(last // 2, last + 1)
    logs = np.log(distances[steps]) - (np.log(steps) if double_root else 0.0)
    return float(np.exp(np.polyfit(steps, logs, 1)[0]))


def claims(result: Result) -> list[Claim]:
    """Compare the factors per step, the numbers of steps, and the counter-example, with theory."""
    found = []
    for kappa, arms in result.curves["conditions"].items():
        for name in METHODS:
            theory = rates(float(kappa))[name][2]
            text = f"kappa = {int(kappa):,}: {name} reduces the distance per step by the factor of theory, within 1 %"
            found.append(Claim.of_values(text, f"{theory:.4f}", arms[name]["factor"], *around(theory, 0.01)))
        needed = {name: result.array("conditions", kappa, name, "steps_to_target") for name in METHODS}
        most = 3 / np.sqrt(float(kappa))
        text = f"kappa = {int(kappa):,}: steps to 1e-6, heavy ball over gradient descent, at most 3 / sqrt kappa"
        found.append(
            Claim.of_values(text, f"<= {most:.3g}", needed["heavy ball"] / needed["gradient descent"], high=most)
        )
    example = {name: np.abs(values) for name, values in result.curves["counter_example"].items()}
    end = slice(-30, None)
    found.append(
        Claim.of_values(
            "the counter-example: heavy ball cycles, |x| reaches 0.5 again and again",
            "no convergence",
            np.max(example["heavy ball"][end]),
            0.5,
        )
    )
    found.append(
        Claim.of_values(
            "the counter-example: gradient descent converges, |x| < 1e-6",
            "0",
            np.max(example["gradient descent"][end]),
            high=1e-6,
        )
    )
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw distances over steps with the theory, and the counter-example."""
    figure, (left, right) = panels(2)
    for place, (kappa, arms) in enumerate(result.curves["conditions"].items()):
        height = TARGET * 10.0**place  # of the label, one above the other
        for name in METHODS:
            arm = arms[name]
            steps = np.asarray(arm["steps"])
            band(left, steps, arm["distance"], name)
            theory = rates(float(kappa))[name][2]
            amplitude = np.maximum(steps, 1) if name == "heavy ball" else 1.0
            middle = np.median(arm["distance"], axis=0)
            reference = amplitude * theory ** steps.astype(np.float64)
            half = int(np.argmax(middle <= 1e-3))
            theory_curve = reference * middle[half] / reference[half]
            left.plot(steps[half // 2 :], theory_curve[half // 2 :], **REFERENCE)
            if name == "heavy ball":
                at = int(np.argmax(middle <= height))
                left.annotate(
                    rf"$\kappa={int(kappa)}$",
                    (steps[at], height),
                    xytext=(-4, 0),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8,
                )
    left.set(xscale="log", yscale="log")
    left.set_ylim(TARGET / 10, 5)
    longest = result.curves["conditions"][str(max(map(int, result.curves["conditions"])))]["gradient descent"]
    left.set_xlim(0.8, 2 * max(longest["steps_to_target"]))
    left.set(xlabel="steps", ylabel=r"distance $\|x_t\| / \|x_0\|$; dotted: theory")
    for name in METHODS:
        values = result.array("counter_example", name)[:40]
        right.plot(np.arange(len(values)), values, "o-", ms=3, lw=1.0, color=arm_style(name, 0)["color"])
    right.set(xlabel="steps", ylabel="x on the counter-example")
    legend(figure, left)
    return {"heavy_ball": figure}


PAPER = Paper(
    name="polyak_1964",
    title="Some methods of speeding up the convergence of iteration methods",
    authors="B. T. Polyak",
    year=1964,
    source="USSR Computational Mathematics and Mathematical Physics 4(5), 1-17",
    figure="the rates, as the distance over steps; the counter-example of Lessard et al. (2016)",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
