"""Check of the copies that devices hold of the same values."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from lrx.diagnostics.consistency import check_consistency
from lrx.doctor.finding import Finding, Remedy
from lrx.doctor.thresholds import Thresholds

CHECKED = {"devices-disagree": "the copies of parameters and optimizer state on the devices, bit by bit"}


@dataclasses.dataclass(frozen=True)
class DeviceEvidence:
    """What devices hold.

    Attributes:
      replicated: number of arrays of which several devices hold the same part.
      paths: paths of the arrays that differ.
      example: one difference in words, or "".
    """

    replicated: int
    paths: list[str]
    example: str


def measure_devices(state: Any) -> DeviceEvidence | None:
    """Compare the copies of a state; None if no device holds a copy."""
    if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state)):
        return None
    found = check_consistency(state)
    if not found.replicated:
        return None
    paths = list(dict.fromkeys(each.path for each in found.disagreements))
    return DeviceEvidence(found.replicated, paths, str(found.disagreements[0]) if paths else "")


def check_devices(seen: DeviceEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether devices hold different values of the same array."""
    del limits
    if not seen.paths:
        return []
    return [
        Finding(
            "devices-disagree",
            "certain",
            0.8,
            f"Devices hold different copies of {len(seen.paths)} of {seen.replicated} arrays: {seen.example}.",
            {"arrays": len(seen.paths), "replicated": seen.replicated},
            Remedy(
                "Sum gradients over all devices, and draw random numbers with the same key on each; begin again from a "
                "checkpoint in which they agree."
            ),
        )
    ]
