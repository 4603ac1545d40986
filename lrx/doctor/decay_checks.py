"""Checks of the weight decay's time scale against the run; nothing is trained.

With the rate alpha_t and the decay lambda, weights without a gradient shrink by exp(-S) in a run, S = sum_t alpha_t
lambda, and forget what they were after 1 / (alpha lambda) updates (X. Wang, L. Aitchison, 2024, arXiv:2405.13698).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.optimizer_parts import OptimizerParts
from lrx.doctor.thresholds import Thresholds

CHECKED = {
    "weight-decay-too-strong": "the time scale of the weight decay, against an epoch",
    "weight-decay-without-effect": "the shrinkage by weight decay, over the run",
}


@dataclasses.dataclass(frozen=True)
class DecayEvidence:
    """The weight decay of a run.

    Attributes:
      weight_decay: lambda.
      exponent: S, by which weights shrink: exp(-S).
      updates: length of the run.
      updates_per_epoch: length of an epoch.
    """

    weight_decay: float
    exponent: float
    updates: int
    updates_per_epoch: float


def measure_decay(parts: OptimizerParts, updates: int, updates_per_epoch: float) -> DecayEvidence | None:
    """Read the weight decay of an optimizer over a run; None if there is none, or no schedule can be read."""
    if not parts.weight_decay or parts.schedule is None:
        return None
    counts = np.unique(np.linspace(0, updates - 1, min(updates, 4_000)).astype(np.int64))
    rates = parts.rates(counts)
    if parts.decays_with_schedule:
        rates = rates / (float(rates.max()) or 1.0)
    exponent = float(rates.mean()) * updates * parts.weight_decay
    return DecayEvidence(parts.weight_decay, exponent, updates, updates_per_epoch)


def check_decay(seen: DecayEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether a weight decay is too strong, or without effect."""
    numbers = {
        "weight_decay": seen.weight_decay,
        "shrinkage_exponent": seen.exponent,
        "updates_of_one_shrinkage": seen.updates / max(seen.exponent, 1e-30),
        "updates_per_epoch": seen.updates_per_epoch,
    }
    wanted = float(f"{seen.weight_decay / seen.exponent:.2g}") if seen.exponent > 0 else 0.0
    if seen.exponent > limits.decay_strong and seen.updates / seen.exponent < seen.updates_per_epoch:
        return [
            Finding(
                "weight-decay-too-strong",
                "likely",
                1 - limits.decay_strong / seen.exponent,
                f"The weight decay shrinks weights by a factor of e every {seen.updates / seen.exponent:.3g} updates, "
                f"{seen.exponent:.3g} times in the run and more than once in an epoch: what an example teaches is "
                "forgotten before it is seen again.",
                numbers,
                Remedy(
                    "Lower the weight decay: let weights shrink by a factor of e in the whole run.",
                    Change(weight_decay=wanted),
                ),
            )
        ]
    if seen.exponent < limits.decay_weak:
        return [
            Finding(
                "weight-decay-without-effect",
                "likely",
                0.0,
                f"The weight decay shrinks weights by {-np.expm1(-seen.exponent):.2g} of their size in the whole run.",
                numbers,
                Remedy(
                    "Raise the weight decay, to shrink weights by a tenth in the run, or leave it out.",
                    Change(weight_decay=float(f"{0.1 * seen.weight_decay / max(seen.exponent, 1e-30):.2g}")),
                ),
            )
        ]
    return []
