"""Check that one minibatch can be learnt by heart: what cannot learn this learns nothing."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Finding, Remedy
from lrx.doctor.thresholds import Thresholds

CHECKED = {"batch-not-learnt": "a run in miniature on one minibatch, at the best rate of the others"}


@dataclasses.dataclass(frozen=True)
class HeartEvidence:
    """A run in miniature on one minibatch.

    Attributes:
      factor: of the rate, the best one of the runs in miniature.
      losses: of its steps, all on the same minibatch.
      lowest_factor: the lowest factor of the rate that was tried in runs in miniature.
    """

    factor: float
    losses: list[float]
    lowest_factor: float


def check_heart(seen: HeartEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether one minibatch cannot be learnt."""
    losses = np.array([np.nan if loss is None else loss for loss in seen.losses], float)
    if not np.isfinite(losses[0]):
        return []
    least = float(np.nanmin(losses[1:])) if np.isfinite(losses[1:]).any() else float("inf")
    if losses[0] - least > limits.learnt * abs(losses[0]):
        return []
    numbers = {"first_loss": float(losses[0]), "least_loss": least, "factor": seen.factor, "steps": len(losses)}
    return [
        Finding(
            "batch-not-learnt",
            "likely",
            1.0,
            f"In {len(losses)} steps on one minibatch, at {seen.factor:.2g} times the rate, the best tried from "
            f"{seen.lowest_factor:.2g} times on, the loss begins at {losses[0]:.3g} and is never below {least:.3g}.",
            numbers,
            Remedy(
                "Look at the sign of the updates and of the loss (each rate descends once), at stop_gradient and other "
                "breaks between the parameters and the loss, and at gradients of your own (custom_vjp)."
            ),
        )
    ]
