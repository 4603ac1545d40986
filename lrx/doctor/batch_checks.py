"""Checks of the batch size against the gradient noise scale tr(S) / |G|^2."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.probe import Gradients
from lrx.doctor.thresholds import Thresholds

CHECKED = {
    "batch-too-small": "the batch size, against the gradient noise scale after a run in miniature",
    "batch-too-large": "the batch size, against the gradient noise scale at the beginning and after a run in miniature",
}


@dataclasses.dataclass(frozen=True)
class BatchEvidence:
    """The gradient noise at the beginning and after a run in miniature.

    Attributes:
      batch_size: examples in a minibatch.
      examples: number of examples.
      every: minibatches of one update.
      first: noise scale at the initial parameters, in examples; infinite if it is not resolved.
      later: noise scale after a run in miniature, in examples; infinite if it is not resolved.
      signal: |G|^2 after a run in miniature, in its standard errors.
    """

    batch_size: int
    examples: int
    every: int
    first: float
    later: float
    signal: float

    @classmethod
    def of(cls, first: Gradients, later: Gradients, batch_size: int, examples: int, every: int) -> BatchEvidence:
        """Estimate the noise scales from gradients of minibatches."""
        scales = [_noise_scale(seen, batch_size) for seen in (first, later)]
        return cls(batch_size, examples, every, scales[0][0], scales[1][0], scales[1][1])


def _noise_scale(seen: Gradients, batch_size: int) -> tuple[float, float]:
    """Return tr(S) / |G|^2 in examples from unbiased estimates of both, and |G|^2 in its standard errors."""
    number = len(seen.losses)
    squares, of_mean = float(np.sum(seen.mean_of_squares)), float(np.sum(seen.square_of_mean))
    noise = number / (number - 1) * (squares - of_mean)  # tr(S) / B
    signal = of_mean - noise / number
    scale = batch_size * noise / signal if signal > 0 else float("inf")
    return scale, signal / max(noise / number, 1e-30)


def check_batch(seen: BatchEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether a batch is far below or far above the noise scale."""
    size = seen.batch_size * seen.every
    numbers = {"batch_size": size, "noise_scale_at_first": seen.first, "noise_scale_later": seen.later}
    if size >= seen.examples or np.isnan(seen.later) or np.isnan(seen.first):
        return []
    at_first = np.inf > seen.first > limits.batch_small_at_first * size
    if seen.later > limits.batch_small * size or at_first:
        wanted = min(seen.examples, int(2 ** np.round(np.log2(np.clip(seen.first, 8.0 * size, 64.0 * size)))))
        return [
            Finding(
                "batch-too-small",
                "likely" if at_first else "hint",
                0.5,
                f"The gradient noise scale is {seen.first / size:.2g} times the batch at the beginning, and "
                f"{seen.later / size:.2g} times after a run in miniature: a step follows the noise of its examples.",
                numbers,
                Remedy(f"Use batches of {wanted} examples, or accumulate gradients.", Change(batch_size=wanted)),
            )
        ]
    if max(seen.first, seen.later) < limits.batch_large * size:
        wanted = max(1, int(2 ** np.round(np.log2(max(4 * seen.later, 1.0)))))
        return [
            Finding(
                "batch-too-large",
                "hint",  # it costs examples, not steps
                0.3,
                f"The gradient noise scale is {max(seen.first, seen.later):.3g} examples, and the batch {size}: most "
                "examples of a batch add nothing to its gradient.",
                numbers,
                Remedy(f"Use batches of {wanted} examples; more do not shorten the run.", Change(batch_size=wanted)),
            )
        ]
    return []
