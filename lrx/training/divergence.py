"""A run whose loss is not finite: what is raised, and what it advises."""

from __future__ import annotations

import math
from pathlib import Path

from lrx.training.history import History


class DivergenceError(FloatingPointError):
    """The loss is not finite, and training stopped at that very step, before its update.

    Attributes:
      step: number of completed updates, equal to the index of the step that failed.
      loss: NaN or infinite.
      rate: the learning rate that the update would have had, NaN if the state holds none.
      history: the `History` up to the step, with the state before it.
    """

    def __init__(self, message: str, step: int, loss: float, rate: float, history: History) -> None:
        super().__init__(message)
        self.step, self.loss, self.rate, self.history = step, loss, rate, history


def divergence_error(
    step: int, epoch: float, loss: float, rate: float, good: tuple[Path, int] | None, history: History
) -> DivergenceError:
    """Return the error of a run that diverged.

    Args:
      step: completed updates.
      epoch: the same in epochs.
      loss: loss of the step that failed.
      rate: rate of the step that failed.
      good: folder and step of the newest checkpoint, if there is one.
      history: the history of the run until then.
    """
    at = "" if math.isnan(rate) else f", at a learning rate of {rate:.6g}"
    message = (
        f"the loss is {loss} at step {step:,} (epoch {epoch:.1f}){at}. Try a lower rate, a warm-up, "
        "lrx.warmup(schedule, steps), or clipping, optax.clip_by_global_norm(1.0) before the optimizer; where this "
        "is step 0, look at the data."
    )
    if good is not None:
        message += (
            f" The checkpoint of step {good[1]:,} in {str(good[0])!r} is good: the same call with "
            'another rate and on_mismatch="continue" goes on from there.'
        )
    return DivergenceError(message, step, loss, rate, history)


def final_divergence_error(history: History) -> DivergenceError:
    """Return the error of a run that diverged again after the last of its rollbacks."""
    step = len(history.loss)
    loss, rate = (float(values[-1]) for values in (history.loss, history.rate))
    message = (
        f"the run diverged again at step {step - 1:,} after the last of its rollbacks, and stopped with the "
        "parameters from before, which are in the exception's history. Try a lower rate, or more max_rollbacks."
    )
    return DivergenceError(message, step, loss, rate, history)
