"""Evidence as it is saved, and as the checks take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrx.doctor.batch_checks import BatchEvidence
from lrx.doctor.data_checks import DataEvidence
from lrx.doctor.decay_checks import DecayEvidence
from lrx.doctor.device_checks import DeviceEvidence
from lrx.doctor.gradient_checks import GradientEvidence
from lrx.doctor.heart_checks import HeartEvidence
from lrx.doctor.history_checks import HistoryEvidence
from lrx.doctor.rate_checks import Branch, RateEvidence
from lrx.doctor.schedule_checks import ScheduleEvidence
from lrx.doctor.stability_checks import StabilityEvidence

_KINDS: dict[str, Any] = {
    "schedule": ScheduleEvidence,
    "decay": DecayEvidence,
    "data": DataEvidence,
    "gradients": GradientEvidence,
    "batch": BatchEvidence,
    "heart": HeartEvidence,
    "history": HistoryEvidence,
    "stability": StabilityEvidence,
    "devices": DeviceEvidence,
}


def as_evidence(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the evidence of `Diagnosis.evidence`, from which the checks find what is wrong."""
    found: dict[str, Any] = {group: _KINDS[group](**fields) for group, fields in plain.items() if group in _KINDS}
    if "rates" in plain:
        fields = dict(plain["rates"])
        found["rates"] = RateEvidence(**fields | {"branches": [Branch(**each) for each in fields["branches"]]})
    return found
