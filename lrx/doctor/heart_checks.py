"""Check that a single minibatch can be overfitted: what cannot learn this learns nothing."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Finding, Remedy
from lrx.doctor.thresholds import Thresholds

CHECKED = {"batch-not-learnt": "a pilot run on one minibatch, if none of the others learns"}


@dataclasses.dataclass(frozen=True)
class HeartEvidence:
    """A pilot run on one minibatch.

    Attributes:
      factor: of the rate, from the pilot runs: the best one if it learns, otherwise the highest one at which the
        loss does not rise.
      losses: of its steps, all on the same minibatch.
      fall: largest fall of the loss in the other pilot runs, relative to its beginning.
      run_steps: length of the run in minibatches.
    """

    factor: float
    losses: list[float]
    fall: float
    run_steps: int


def check_heart(seen: HeartEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether one minibatch cannot be learnt.

    If a pilot run on changing minibatches learns, updates descend, and one that fails on a single minibatch says
    something about its rate only. Without other minibatches the loss has no noise, so that a slow fall is seen too: it
    is learnt if the fall, continued through the whole run, is one.
    """
    if seen.fall > limits.learnt:
        return []
    losses = np.array([np.nan if loss is None else loss for loss in seen.losses], float)
    if not np.isfinite(losses[0]):
        return []
    least = float(np.nanmin(losses[1:])) if np.isfinite(losses[1:]).any() else float("inf")
    if (losses[0] - least) * max(1.0, seen.run_steps / len(losses)) > limits.learnt * abs(losses[0]):
        return []
    numbers = {"first_loss": float(losses[0]), "least_loss": least, "factor": seen.factor, "steps": len(losses)}
    return [
        Finding(
            "batch-not-learnt",
            "likely",
            1.0,
            f"In {len(losses)} steps on one minibatch, at {seen.factor:.2g} times the rate, the loss begins at "
            f"{losses[0]:.3g} and is never below {least:.3g}. On changing minibatches no rate learns either.",
            numbers,
            Remedy(
                "Look at the sign of the updates and of the loss (an lrx rate has the minus sign already), at "
                "stop_gradient and other breaks between the parameters and the loss, and at gradients of your own "
                "(custom_vjp)."
            ),
        )
    ]
