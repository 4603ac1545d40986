"""The rate at which the finder sees gradient descent on all examples diverge, against 2 / lambda_max."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lrx
from lrx.figures import Axes
from lrx.papers.figures import REFERENCE
from lrx.papers.howard_2018 import finder
from lrx.papers.reproduction import Claim
from lrx.records import Result, round_to_six_digits
from lrx.training import Batches, Workload
from lrx.training.sampling import keys_of
from lrx.workloads import make_workload
from lrx.workloads.datasets import load

CURVATURES = np.geomspace(0.01, 10, 50)  # of the quadratic
NOISE = 0.1  # of its minimum, which is about 1 away from the start in each direction
LADDERS = (100, 300)  # steps of the finder on full batches
DILOGARITHM_ZERO = 12.595  # of the real part of Li_2


def measure(seeds: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """Return the rate at which the finder sees the loss of gradient descent blow up, in units of 2 / lambda_max.

    The result maps the length of the ladder and the problem to the values of all seeds.
    """
    softmax = make_workload("digits", "mlp", batch_size=len(load("digits").train_labels), widths=())
    sharpest = np.full(len(seeds), CURVATURES.max())
    problems = {
        "quadratic": (quadratic(0.0), sharpest),
        "quadratic, noisy": (quadratic(NOISE), sharpest),
        "softmax regression": (softmax, sharpest_curvatures(softmax, seeds)),
    }
    found: dict[str, dict[str, np.ndarray]] = {}
    for steps in LADDERS:
        found[str(steps)] = {}
        for name, (workload, curvatures) in problems.items():
            rates = np.asarray(blow_ups(workload, seeds, steps), np.float64)
            found[str(steps)][name] = round_to_six_digits(rates * curvatures / 2)
    return found


def blow_ups(workload: Workload, seeds: tuple[int, ...], steps: int) -> list[float | None]:
    """Return the rate at which gradient descent diverges, for each seed; None if it does not."""
    options = finder.FINDER | {"num_steps": steps}
    return [lrx.range_test(workload, tx=lrx.sgd, seeds=[seed], **options).diverged_at for seed in seeds]


def quadratic(noise: float) -> Workload:
    """Build the workload of a quadratic whose minimum moves at random from step to step, or stays if `noise` is 0."""
    places = noise * np.random.default_rng(0).normal(size=(max(LADDERS), len(CURVATURES)))
    curvatures = jnp.asarray(CURVATURES, jnp.float32)
    return Workload.from_functions(
        lambda x, place, key: 0.5 * jnp.sum(curvatures * (x - place[0]) ** 2),  # noqa: ARG005
        lambda key: jax.random.normal(key, CURVATURES.shape),
        Batches(jnp.asarray(places, jnp.float32), batch_size=1),
        name="quadratic",
    )


def sharpest_curvatures(workload: Workload, seeds: tuple[int, ...]) -> np.ndarray:
    """Return the largest eigenvalue of the Hessian of the loss of all examples at the start, for each seed."""

    @jax.jit
    def curvature(key: jax.Array, arrays: Any) -> jax.Array:
        params, model_state = workload.init(key)
        batch = workload.batches.transform(arrays, key)
        return lrx.sharpness(workload.loss_at(batch, model_state=model_state), params, tol=1e-3).largest

    return np.array([float(curvature(keys_of(seed).init, workload.batches.arrays)) for seed in seeds])


def claims(result: Result) -> list[Claim]:
    """Compare the divergence with 2 / lambda_max, and with theory where the finder takes long."""
    found = []
    problems = result.curves["full_batch"]
    ladders = list(problems)  # from the shortest to the longest
    for name in problems[ladders[0]]:
        text = f"{name}, gradient descent: the finder's divergence over 2 / lambda_max is within a factor 3"
        found.append(Claim.of_values(text, "1/3 to 3", result.array("full_batch", ladders[0], name), 1 / 3, 3))
    theory, used = DILOGARITHM_ZERO / 2, result.settings["finder"]
    step = (used["max_rate"] / used["min_rate"]) ** (1 / (int(ladders[-1]) - 1))
    text = (
        f"quadratic, a ladder of {ladders[-1]} steps: the divergence over 2 / lambda_max is that of theory, "
        f"{theory:.2f}, to a step of the ladder"
    )
    ratios = result.array("full_batch", ladders[-1], "quadratic")
    low, high = theory / step, theory * step
    return [*found, Claim.of_values(text, f"{low:.2f} to {high:.2f}", ratios, low, high)]


def draw(axes: Axes, result: Result) -> None:
    """Draw the divergence over 2 / lambda_max of every problem and ladder."""
    problems = list(next(iter(result.curves["full_batch"].values())))
    ladders = list(result.curves["full_batch"])
    axes.axhspan(1 / 3, 3, color="black", alpha=0.08, lw=0)
    axes.axhline(DILOGARITHM_ZERO / 2, **REFERENCE)
    for place, ladder in enumerate(ladders):
        for row, name in enumerate(problems):
            ratios = result.array("full_batch", ladder, name)
            heights = np.full(len(ratios), row + 0.2 * (place - 0.5))
            axes.plot(heights, ratios, "o", ms=5, color="black", mfc="white" if place else None)
            label: dict[str, Any] = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            if np.isfinite(ratios).any():
                axes.annotate(ladder, (heights[0], np.nanmax(ratios)), **label)
    axes.annotate("theory, no noise", (2.45, DILOGARITHM_ZERO / 2), va="bottom", ha="right", fontsize=8)
    axes.set_xticks(range(len(problems)), [name.replace(", ", ",\n").replace(" ", "\n") for name in problems])
    axes.set(xlim=(-0.5, len(problems) - 0.5), yscale="log", ylim=(0.2, 100))
    axes.set_xlabel(f"gradient descent, {' and '.join(ladders)} steps")
    axes.set_ylabel(r"divergence of the finder over $2 / \lambda_{max}$")
