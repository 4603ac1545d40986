"""Checks of the data and of the loss: numbers that are not finite, a loss that is a sum, labels without a relation."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Finding, Remedy
from lrx.doctor.thresholds import Thresholds

CHECKED = {
    "not-finite-input": "all arrays of the data, and the first losses",
    "loss-is-summed": "the loss of a minibatch, against those of its halves",
    "labels-are-noise": "the gradients of minibatches at the initial parameters, against those with permuted labels",
}


@dataclasses.dataclass(frozen=True)
class DataEvidence:
    """The data and the loss at the initial parameters.

    Attributes:
      not_finite: numbers of the data that are not finite.
      examples_not_finite: examples that have such a number.
      examples: number of examples.
      loss: the loss of a minibatch.
      half_losses: the losses of its halves; NaN if it cannot be divided.
      batch_size: examples in a minibatch.
      label_products: inner products, over pairs of minibatches, of what labels add to gradients; empty if no array is
        known to be the labels.
    """

    not_finite: int
    examples_not_finite: int
    examples: int
    loss: float
    half_losses: list[float]
    batch_size: int
    label_products: list[list[float]]

    def label_score(self) -> float:
        """Return the mean inner product of different minibatches in its standard errors; NaN if there is none."""
        products = np.array(self.label_products, float)
        if products.size == 0 or not np.all(np.isfinite(products)):
            return float("nan")
        scale = np.sqrt(np.maximum(np.diag(products), 1e-30))
        cosines = (products / np.outer(scale, scale))[np.triu_indices(len(products), 1)]
        return float(np.mean(cosines) / max(float(np.std(cosines)) / len(cosines) ** 0.5, 1e-6))


def count_not_finite(arrays: list[np.ndarray]) -> tuple[int, int]:
    """Return how many numbers are not finite, and how many examples have one; the leading axis counts examples."""
    numbers, examples = 0, np.zeros(len(arrays[0]) if arrays else 0, bool)
    for array in arrays:
        if array.dtype.kind in "fc" or array.dtype.kind == "V":  # bfloat16
            bad = ~np.isfinite(array.astype(np.float32) if array.dtype.kind == "V" else array)
            numbers += int(bad.sum())
            examples |= bad.reshape(len(array), -1).any(axis=1)
    return numbers, int(examples.sum())


def check_data(seen: DataEvidence, limits: Thresholds) -> list[Finding]:
    """Return what is wrong with the data or with the loss."""
    found = []
    if seen.not_finite:
        found.append(
            Finding(
                "not-finite-input",
                "certain",
                1.0,
                f"{seen.not_finite:,} numbers of the data are NaN or infinite, in {seen.examples_not_finite:,} of "
                f"{seen.examples:,} examples.",
                {"numbers": seen.not_finite, "examples": seen.examples_not_finite},
                Remedy("Leave these examples out, or replace the numbers, before training."),
            )
        )
    halves = float(np.sum(seen.half_losses))
    if np.isfinite(halves) and np.isfinite(seen.loss) and seen.batch_size > 1 and seen.loss:
        ratio = halves / seen.loss  # 1 for a sum, 2 for a mean
        if abs(ratio - 1) < limits.summed_ratio:
            found.append(
                Finding(
                    "loss-is-summed",
                    "certain",
                    0.5,
                    f"The loss of a minibatch is the sum of the losses of its halves: with {seen.batch_size} examples "
                    f"it and its gradient are {seen.batch_size} times those of the mean.",
                    {"loss": seen.loss, "sum_of_halves": halves, "batch_size": seen.batch_size},
                    Remedy(
                        "Return the mean of the examples' losses, jnp.mean(losses), so that the rate does not depend "
                        "on the batch size."
                    ),
                )
            )
    score = seen.label_score()
    enough = seen.batch_size * len(seen.label_products) >= limits.label_examples
    if enough and np.isfinite(score) and score < limits.label_score and not seen.not_finite:
        found.append(
            Finding(
                "labels-are-noise",
                "hint",  # a relation may also be too weak, or too sparse, for so few examples
                0.9,
                "Permuting the labels changes the gradients of the minibatches in no common direction: at the initial "
                "parameters the labels look unrelated to the inputs.",
                {"score": score, "minibatches": len(seen.label_products)},
                Remedy(
                    "Check that inputs and labels are in the same order, and look at a few examples with their labels."
                ),
            )
        )
    return found
