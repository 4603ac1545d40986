"""Check of the sharpness at the end of a run against the limit of its rate."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from lrx.diagnostics.sharpness import sharpness
from lrx.diagnostics.stability import preconditioner_of, stability_limit
from lrx.doctor.finding import Finding, Remedy
from lrx.doctor.thresholds import Thresholds
from lrx.training.history import History
from lrx.training.workload import Workload

EXAMPLES = 512  # of the loss whose sharpness is measured, at most
TOLERANCE = 0.02  # relative, of the largest eigenvalue
CHECKED = {"edge-of-stability": "the sharpness at the end of the run, against the limit of its last rate"}


@dataclasses.dataclass(frozen=True)
class StabilityEvidence:
    """The curvature at the end of a run.

    Attributes:
      sharpness: largest eigenvalue of the Hessian, with the preconditioner of the optimizer.
      limit: that above which steps at the last rate are unstable on a quadratic; infinite at a rate of 0.
      products: products with the Hessian that were taken.
    """

    sharpness: float
    limit: float
    products: int


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
    return StabilityEvidence(float(found), limit, int(found.products))


def check_stability(seen: StabilityEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether a run has ended at the edge of stability."""
    if not np.isfinite(seen.sharpness) or seen.sharpness < limits.edge * seen.limit:
        return []
    return [
        Finding(
            "edge-of-stability",
            "hint",
            0.0,
            f"At the end of the run the sharpness is {seen.sharpness:.3g}, and steps at its rate are stable on a "
            f"quadratic up to {seen.limit:.3g}.",
            {"sharpness": seen.sharpness, "limit": seen.limit, "products": seen.products},
            Remedy(
                "Networks that are trained on large batches hover here, and often learn well; a lower rate would "
                "follow the loss more closely."
            ),
        )
    ]
