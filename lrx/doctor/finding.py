"""What a diagnosis finds: a code, how sure it is, what it costs, the numbers behind it and a remedy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import optax

LEVELS = ("certain", "likely", "hint")

# Every code, with the question that its check answers.
CODES: dict[str, str] = {
    "not-finite-input": "are all numbers of the data finite?",
    "diverges": "does the loss stay finite and below its beginning?",
    "loss-is-summed": "does the loss grow with the batch size?",
    "labels-are-noise": "do the labels follow from the inputs?",
    "batch-not-learnt": "can a single minibatch be overfitted?",
    "dead-layer": "does every layer have a gradient?",
    "vanishing-gradients": "do gradients reach the first layers?",
    "exploding-gradients": "are gradients of a usual size?",
    "frozen-by-mistake": "does every parameter move that has a gradient?",
    "rate-too-high": "would a lower rate learn more?",
    "rate-too-low": "would a higher rate learn more?",
    "warmup-missing": "is the full rate safe in the first steps?",
    "warmup-too-long": "does the warm-up end early in the run?",
    "schedule-ends-early": "does the schedule last as long as the run?",
    "schedule-never-ends": "does the schedule end with the run?",
    "restart-cut": "does the run end at the end of a cycle?",
    "schedule-counts-minibatches": "does the schedule count what its length is given in?",
    "weight-decay-too-strong": "is the weight decay slower than an epoch?",
    "weight-decay-without-effect": "does the weight decay have an effect within the run?",
    "eps-too-large": "is eps below the root of the second moment?",
    "batch-too-small": "is the batch of the order of the gradient noise scale, or larger?",
    "batch-too-large": "is the batch of the order of the gradient noise scale, or smaller?",
    "edge-of-stability": "is the sharpness below the limit of the rate?",
    "noise-floor": "does the loss still fall at this rate?",
    "overfits": "does the evaluation loss fall as long as the training loss?",
    "devices-disagree": "do replicated values agree on all devices?",
}


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of the optimizer, the run or the batch that a remedy consists of; None stays as it is.

    Attributes:
      rate_factor: multiplies the learning rate.
      time_factor: multiplies every duration of the schedule.
      warmup_steps: length of the warm-up, in updates.
      cycles: whole cycles of the schedule that fit into the run.
      decay_to_zero: the rate falls linearly to zero from this step of the run on.
      weight_decay: the weight decay.
      eps: the eps of the method.
      max_norm: the norm to which gradients are clipped.
      batch_size: examples in a minibatch.
      steps: length of the run.
    """

    rate_factor: float | None = None
    time_factor: float | None = None
    warmup_steps: int | None = None
    cycles: int | None = None
    decay_to_zero: int | None = None
    weight_decay: float | None = None
    eps: float | None = None
    max_norm: float | None = None
    batch_size: int | None = None
    steps: int | None = None

    def given(self) -> dict[str, float]:
        """Return the fields that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What mends a finding.

    Attributes:
      words: what to do, in a sentence.
      change: the change of the optimizer, the run or the batch that does it; None if none of these mends it.
      code: Python that makes the change; None if there is none, or the optimizer cannot be rebuilt.
      tx: the optimizer after the change; None if it stays as it is, or cannot be rebuilt.
    """

    words: str
    change: Change | None = None
    code: str | None = None
    tx: optax.GradientTransformation | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that a diagnosis has found.

    Attributes:
      code: stable name of what is wrong, one of `lrx.doctor.CODES`.
      level: "certain" if it follows from what was read or measured, "likely" if a measurement speaks for it, "hint" if
        the evidence is weak, if it may be intended, if it costs no steps, or if another finding explains it.
      cost: estimated share of the run that it wastes, from 0 to 1.
      summary: what was found, in a sentence.
      evidence: name to number.
      remedy: what mends it.
      because: code of the finding that explains this one, which is then a hint; None if nothing does.
    """

    code: str
    level: str
    cost: float
    summary: str
    evidence: Mapping[str, float]
    remedy: Remedy
    because: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; numbers that are not finite are None."""
        change = None if self.remedy.change is None else self.remedy.change.given()
        return {
            **{name: getattr(self, name) for name in ("code", "level", "cost", "summary", "because")},
            "evidence": {name: plain_number(value) for name, value in self.evidence.items()},
            "remedy": {"words": self.remedy.words, "code": self.remedy.code, "change": change},
        }


def plain_number(value: Any) -> float | int | None:
    """Return a number of Python, None if it is not finite."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


# A finding explains others: with its cause on the list, a consequence is a hint.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "not-finite-input": (
        *("diverges", "dead-layer", "exploding-gradients", "rate-too-high", "rate-too-low", "labels-are-noise"),
        *("vanishing-gradients", "frozen-by-mistake", "warmup-missing", "batch-too-small", "batch-too-large"),
    ),
    "devices-disagree": ("diverges", "rate-too-high"),
    "loss-is-summed": ("diverges", "rate-too-high", "exploding-gradients", "warmup-missing"),
    "labels-are-noise": (
        *("rate-too-low", "rate-too-high", "batch-too-small", "batch-too-large", "warmup-missing", "noise-floor"),
    ),
    "dead-layer": (
        *("vanishing-gradients", "rate-too-low", "rate-too-high", "batch-too-small", "batch-too-large"),
        "labels-are-noise",
    ),
    "vanishing-gradients": (
        *("rate-too-low", "rate-too-high", "batch-too-small", "batch-too-large", "warmup-missing", "diverges"),
        "labels-are-noise",
    ),
    "exploding-gradients": (
        *("diverges", "rate-too-high", "rate-too-low", "warmup-missing", "batch-too-small", "batch-too-large"),
        "labels-are-noise",
    ),
    "frozen-by-mistake": ("rate-too-low", "rate-too-high"),
    "eps-too-large": ("rate-too-low", "rate-too-high"),
    "batch-not-learnt": ("diverges", "rate-too-high", "rate-too-low"),
    "diverges": ("rate-too-high", "edge-of-stability", "weight-decay-too-strong"),
    "warmup-missing": ("diverges", "rate-too-high"),
    "rate-too-high": ("edge-of-stability", "weight-decay-too-strong"),
    "batch-too-small": ("diverges", "rate-too-high", "warmup-missing", "labels-are-noise", "noise-floor"),
    "schedule-counts-minibatches": (
        *("schedule-never-ends", "schedule-ends-early", "warmup-too-long", "restart-cut", "rate-too-low"),
    ),
    "warmup-too-long": ("rate-too-low", "schedule-never-ends"),
    "schedule-ends-early": ("rate-too-low",),
    "schedule-never-ends": ("noise-floor", "restart-cut"),
    "restart-cut": ("noise-floor",),
    "weight-decay-too-strong": ("rate-too-low",),
    "noise-floor": ("edge-of-stability",),
}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings ordered by how sure they are, then by cost; what another finding explains becomes a hint.

    Of hints, those that another hint explains come after those that none does.
    """
    listed = list(findings)
    found = {each.code: each.level for each in listed}
    explained = []
    for each in listed:
        causes = [
            cause
            for cause, consequences in EXPLAINS.items()
            if each.code in consequences and LEVELS.index(found.get(cause, "hint")) < LEVELS.index("hint")
        ]
        explained.append(dataclasses.replace(each, level="hint", because=causes[0]) if causes else each)
    followers = {code for cause in found for code in EXPLAINS.get(cause, ())}
    return tuple(
        sorted(
            explained,
            key=lambda each: (LEVELS.index(each.level), each.level == "hint" and each.code in followers, -each.cost),
        )
    )
