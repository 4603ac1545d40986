"""Checks of the sharpness against the limit of the rate, after a pilot run or at the end of a whole one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from lrx.diagnostics.sharpness import sharpness
from lrx.diagnostics.stability import left_out, preconditioner_of, stability_limit
from lrx.doctor.finding import Finding, Remedy
from lrx.doctor.probe import Branches, Probe
from lrx.doctor.thresholds import Thresholds
from lrx.training.history import History
from lrx.training.workload import Workload

EXAMPLES = 512  # of the loss whose sharpness is measured, at most
TOLERANCE = 0.02  # relative, of the largest eigenvalue
PRODUCTS = 7  # with the Hessian, before a run; each counts as two gradients
CHECKED = {"edge-of-stability": "the sharpness, against the limit of the rate"}


@dataclasses.dataclass(frozen=True)
class StabilityEvidence:
    """The curvature at the end of a run, or of a pilot run.

    Attributes:
      sharpness: largest eigenvalue of the Hessian, with the preconditioner of the optimizer.
      limit: that above which steps at the last rate are unstable on a quadratic; infinite at a rate of 0.
      products: products with the Hessian that were taken.
      place: where it was measured, in words.
    """

    sharpness: float
    limit: float
    products: int
    place: str


def measure_stability(history: History, workload: Workload) -> StabilityEvidence | None:
    """Measure the sharpness at the end of a run; None if the stability of its method is not known."""
    try:
        limit = float(stability_limit(history.opt_state))
        preconditioner = preconditioner_of(history.opt_state)
    except (ValueError, TypeError):
        return None
    batches = workload.batches
    rows = np.arange(min(EXAMPLES, batches.num_examples))
    batch = batches.transform(jax.tree.map(lambda x: x[rows], batches.arrays), jax.random.key(0))
    found = sharpness(
        workload.loss_at(batch, model_state=history.model_state),
        history.params,
        tol=TOLERANCE,
        preconditioner=preconditioner,
    )
    return StabilityEvidence(float(found), limit, int(found.products), "At the end of the run")


def measure_early_stability(
    probe: Probe, branches: Branches, peak: float, rows: np.ndarray
) -> StabilityEvidence | None:
    """Measure the sharpness of some minibatches after a pilot run, against the limit of the largest rate.

    Args:
      probe: the probe that ran the branches.
      branches: those of the first round, the rate's own in the middle.
      peak: the largest rate of the run.
      rows: (minibatches, batch_size), examples.

    Returns:
      None if the stability of the method is not known, or the runs have diverged.
    """
    finite = [bool(np.isfinite(losses).all()) for losses in branches.losses]
    if not (finite[1] or finite[0]):
        return None
    at = branches.ends[1 if finite[1] else 0]
    parts = probe.parts
    try:
        state = parts.with_rate(peak, {}).init(at.params) if parts.rebuilt else at.opt_state
        limit = float(stability_limit(state))
        preconditioner = preconditioner_of(at.opt_state)
    except (ValueError, TypeError):
        return None
    if not all(bool((np.asarray(leaf) > 0).all()) for leaf in jax.tree.leaves(preconditioner)):
        return None
    flat, unravel = jax.flatten_util.ravel_pytree(at.params)
    root: Any = 1.0 if preconditioner is None else _roots(preconditioner, at.params)

    def times(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient, image = probe.hessian_times(at, unravel(jnp.asarray(vector / root, flat.dtype)), rows.ravel())
        parts = (np.asarray(jax.flatten_util.ravel_pytree(part)[0], np.float64) / root for part in (gradient, image))
        return next(parts), next(parts)

    found, products = _largest_curvature(times, np.random.default_rng(0).normal(size=flat.size))
    probe.steps_used += 2 * products * len(rows)
    where = "" if finite[1] else " at an eighth of the rate"
    return StabilityEvidence(found, limit, products, f"After a pilot run{where}")


def _roots(preconditioner: Any, params: Any) -> np.ndarray:
    """Return the roots of a preconditioner's diagonal: infinite for parameters that it leaves out, which stay fixed."""
    own, held = iter(jax.tree.leaves(preconditioner)), left_out(preconditioner, params)
    leaves = [
        np.full(np.size(leaf), np.inf) if place in held else np.asarray(next(own), np.float64).ravel()
        for place, leaf in enumerate(jax.tree.leaves(params))
    ]
    return np.sqrt(np.concatenate(leaves))


def _largest_curvature(
    times: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], random: np.ndarray
) -> tuple[float, int]:
    """Return a lower bound of the largest eigenvalue by Lanczos' method, and the number of products.

    `sharpness` has a better one, for more products and a compilation that takes longer than the probes.
    """
    gradient, _ = times(random)
    direction = random / np.linalg.norm(random) + gradient / max(float(np.linalg.norm(gradient)), 1e-30)
    rows, images = [direction / np.linalg.norm(direction)], []
    while True:
        images.append(times(rows[-1])[1])
        if not np.isfinite(images[-1]).all() or len(images) == PRODUCTS - 1:
            break
        remainder = images[-1]
        for _ in range(2):  # once leaves rounding errors
            remainder = remainder - np.array(rows).T @ (np.array(rows) @ remainder)
        if np.linalg.norm(remainder) <= 1e-5 * np.linalg.norm(images[-1]) or len(rows) == len(random):
            break
        rows.append(remainder / np.linalg.norm(remainder))
    projected = np.array(rows) @ np.array(images).T
    if not np.isfinite(projected).all():
        return float("nan"), len(images) + 1
    return float(np.linalg.eigvalsh((projected + projected.T) / 2)[-1]), len(images) + 1


def check_stability(seen: StabilityEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether a run is at the edge of stability."""
    if not np.isfinite(seen.sharpness) or seen.sharpness < limits.edge * seen.limit:
        return []
    return [
        Finding(
            "edge-of-stability",
            "hint",
            0.0,
            f"{seen.place} the sharpness is {seen.sharpness:.3g}, and steps at the rate are stable on a quadratic up "
            f"to {seen.limit:.3g}.",
            {"sharpness": seen.sharpness, "limit": seen.limit, "products": seen.products},
            Remedy(
                "Networks that are trained on large batches hover here, and often learn well; a lower rate would "
                "follow the loss more closely."
            ),
        )
    ]
