"""Checks of the batch size against the gradient noise scale tr(S) / |G|^2."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.thresholds import Thresholds

CHECKED = {
    "batch-too-small": "the batch size, against the gradient noise scale after a pilot run",
    "batch-too-large": "the batch size, against the gradient noise scale at the beginning and after a pilot run",
}


@dataclasses.dataclass(frozen=True)
class BatchEvidence:
    """The gradient noise at the beginning and after a pilot run.

    Attributes:
      batch_size: examples in a minibatch.
      examples: number of examples.
      every: minibatches of one update.
      first: noise scale at the initial parameters, in examples; infinite if |G|^2 is not resolved.
      later: noise scale after a pilot run, in examples; infinite if |G|^2 is not resolved.
      first_least: the noise scale that `first` is at least, within two standard errors of |G|^2.
      later_least: the same of `later`.
      fall: largest fall of the loss in the pilot runs, relative to its beginning.
    """

    batch_size: int
    examples: int
    every: int
    first: float
    later: float
    first_least: float
    later_least: float
    fall: float

    @classmethod
    def of(
        cls,
        first: Sequence[np.ndarray],
        later: Sequence[np.ndarray],
        *,
        batch_size: int,
        examples: int,
        every: int,
        fall: float,
    ) -> BatchEvidence:
        """Estimate the noise scales from inner products of the gradients of minibatches.

        Args:
          first: (minibatches, minibatches) each, at the initial parameters.
          later: the same after a pilot run.
          batch_size: examples in a minibatch.
          examples: number of examples.
          every: minibatches of one update.
          fall: largest fall of the loss in the pilot runs, relative to its beginning.
        """
        scales = [_noise_scale(products, batch_size) for products in (first, later)]
        return cls(batch_size, examples, every, scales[0][0], scales[1][0], scales[0][1], scales[1][1], fall)


def _noise_scale(products: Sequence[np.ndarray], batch_size: int) -> tuple[float, float]:
    """Return tr(S) / |G|^2 in examples from unbiased estimates of both, and what it is at least.

    The product of the gradients of two minibatches is |G|^2 in the mean. If |G|^2 is small, which is the case that has
    to be told from that of a large one, products of different pairs do not correlate, and their spread gives the
    standard error of their mean. With n minibatches a ratio of much more than n is not resolved.
    """
    pairs = np.concatenate([each[np.triu_indices(len(each), 1)] for each in products])
    signal = float(np.mean(pairs))
    noise = float(np.mean(np.concatenate([np.diag(each) for each in products]))) - signal  # tr(S) / B
    highest = signal + 2 * float(np.std(pairs, ddof=1)) / len(pairs) ** 0.5
    scale, least = (batch_size * noise / each if each > 0 else float("inf") for each in (signal, highest))
    return scale, least


def check_batch(seen: BatchEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether a batch is far below or far above the noise scale.

    A noise scale far above the batch is found in healthy runs too: at the first step if this is near a saddle, where
    the mean gradient is small, and later as the loss comes near its least value. A batch is likely too small only if
    the noise scale is resolved to be far above it both at first and later, after something has been learnt; a
    pilot run that has learnt nothing may still be near the saddle. What is not resolved is a hint.
    """
    size = seen.batch_size * seen.every
    numbers = {"batch_size": size, "noise_scale_at_first": seen.first, "noise_scale_later": seen.later}
    if size >= seen.examples or np.isnan(seen.later) or np.isnan(seen.first):
        return []
    at_first = np.inf > seen.first > limits.batch_small_at_first * size
    least = min(seen.first_least, seen.later_least)
    throughout = least > limits.batch_small_at_first * size and seen.fall > limits.learnt
    if seen.later > limits.batch_small * size or at_first or throughout:
        wanted = min(seen.examples, int(2 ** np.round(np.log2(np.clip(seen.first, 8.0 * size, 64.0 * size)))))
        return [
            Finding(
                "batch-too-small",
                "likely" if throughout else "hint",
                0.5,
                f"The gradient noise scale is {seen.first / size:.2g} times the batch at the beginning, and "
                f"{seen.later / size:.2g} times after a pilot run: a step follows the noise of its examples.",
                numbers,
                Remedy(f"Use batches of {wanted} examples, or accumulate gradients.", Change(batch_size=wanted)),
            )
        ]
    if max(seen.first, seen.later) < limits.batch_large * size:
        wanted = max(1, int(2 ** np.round(np.log2(max(4 * seen.later, 1.0)))))
        return [
            Finding(
                "batch-too-large",
                "hint",  # it wastes examples, not steps
                0.3,
                f"The gradient noise scale is {max(seen.first, seen.later):.3g} examples, and the batch {size}: most "
                "examples of a batch add nothing to its gradient.",
                numbers,
                Remedy(f"Use batches of {wanted} examples; more do not shorten the run.", Change(batch_size=wanted)),
            )
        ]
    return []
